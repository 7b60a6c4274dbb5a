"""A transition as one row of float32 numbers, and the checks that every transition passes before it becomes one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from unilab.ipc.shared_memory import segments

FLAGS = ("dones", "truncated", "terminal_mask")
"""true or false, 1 or 0"""


@dataclass(frozen=True)
class RowLayout:
    """The columns of a row: obs | actions | rewards | dones | truncated | next_obs | critic | next_critic | steps."""

    obs_dim: int
    action_dim: int
    critic_dim: int = 0
    multi_step: bool = False

    @cached_property
    def widths(self) -> dict[str, int]:
        """Columns of each field, in order; 0: one number, a field without an axis of its own."""
        widths = {"obs": self.obs_dim, "actions": self.action_dim, "rewards": 0, "dones": 0, "truncated": 0}
        widths["next_obs"] = self.obs_dim
        if self.critic_dim > 0:
            widths |= {"critic": self.critic_dim, "next_critic": self.critic_dim}
        if self.multi_step:
            widths["steps"] = 0
        return widths

    @cached_property
    def sizes(self) -> list[int]:
        """Columns of each field, in order."""
        return [max(1, width) for width in self.widths.values()]

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Where each field is in a row."""
        ends = np.cumsum(self.sizes).tolist()
        return {name: slice(end - size, end) for name, size, end in zip(self.widths, self.sizes, ends, strict=True)}

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(self.sizes)

    def fields(self, packed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views [B, width] (or [B]) of each field of rows [B, W]."""
        parts = zip(self.widths.items(), packed.split(self.sizes, dim=1), strict=True)
        return {name: part if width else part.squeeze(1) for (name, width), part in parts}


class RowPacker:
    """Checks transitions and packs them into rows, in memory that it keeps and uses again."""

    def __init__(self, layout: RowLayout) -> None:
        self._layout = layout
        self._rows = np.empty((0, layout.width), np.float32)
        self._finite = np.empty((0, layout.width), np.bool_)
        self._targets: dict[str, np.ndarray] = {}

    def pack(self, fields: Mapping[str, Any], mask: Any, finals: Mapping[str, Any]) -> np.ndarray:
        """Rows [B, W], valid until the next call.

        Args:
            fields: name to values [B, width] (or [B]).
            mask: [B] bool, where an episode ended; or None.
            finals: name to what replaces that field there, one row for each row ([B, width]) or for each that ended.

        Raises:
            ValueError: names the argument, what was expected and what came.
        """
        batch = _batch(fields["obs"])
        self._size_for(batch)
        for name, value in fields.items():
            target = self._targets.get(name)
            if target is not None:
                target[...] = _checked(name, value, target.shape)
            elif value is not None:
                raise ValueError(f"ReplayBuffer.add: {name} was given; {self._remedy(name)}")
        flags = self._targets
        if np.count_nonzero(flags["truncated"] > flags["dones"]):
            raise ValueError(
                "ReplayBuffer.add: truncated is true where dones is false; dones are the ends of episodes of either "
                "kind, terminated or truncated"
            )
        self._put_finals(mask, finals, batch)
        if np.count_nonzero(np.isfinite(self._rows, out=self._finite)) < self._rows.size:
            raise ValueError(self._describe_non_finite())
        return self._rows

    def _size_for(self, batch: int) -> None:
        if len(self._rows) != batch or not self._targets:
            self._rows = np.empty((batch, self._layout.width), np.float32)
            self._finite = np.empty(self._rows.shape, np.bool_)
            self._targets = {
                name: self._rows[:, columns] if self._layout.widths[name] else self._rows[:, columns.start]
                for name, columns in self._layout.columns.items()
            }

    def _put_finals(self, mask: Any, finals: Mapping[str, Any], batch: int) -> None:
        """Put the true last observations where episodes ended."""
        given = [name for name, value in finals.items() if value is not None]
        if mask is None:
            if given:
                raise ValueError(
                    f"ReplayBuffer.add: terminal_{given[0]} was given without terminal_mask, which says for which rows"
                )
            return
        ended = np.flatnonzero(_checked("terminal_mask", mask, (batch,)))
        for name, value in finals.items():
            target = self._targets.get(name)
            if target is None:
                if value is not None:
                    raise ValueError(f"ReplayBuffer.add: terminal_{name} was given; {self._remedy(name)}")
            elif value is not None or ended.size:
                each, some = target.shape, (ended.size, target.shape[1])
                final = _checked(f"terminal_{name}", value, each, some)
                target[ended] = final[ended] if len(final) == batch else final

    def _remedy(self, name: str) -> str:
        option = "multi_step=True" if name == "steps" else "critic_dim > 0"
        return f"this buffer has no column for it: create it with {option}, or leave it out"

    def _describe_non_finite(self) -> str:
        row, column = np.argwhere(~np.isfinite(self._rows))[0].tolist()
        name, place = next(item for item in self._layout.columns.items() if item[1].start <= column < item[1].stop)
        index = f"{row}, {column - place.start}" if self._layout.widths[name] else f"{row}"
        return (
            f"ReplayBuffer.add: {name}[{index}] is {self._rows[row, column]} as float32; nothing was added. "
            "Find where it comes from: physics, reward or policy"
        )


def _batch(obs: Any) -> int:
    """B, which obs sets."""
    shape = np.shape(obs) if not isinstance(obs, torch.Tensor) else obs.shape
    if len(shape) != 2:
        raise ValueError(f"ReplayBuffer.add: obs is {list(shape)}; expected [B, obs_dim]")
    return shape[0]


def _checked(name: str, value: Any, *shapes: tuple[int, ...]) -> np.ndarray:
    """The value as an array of real numbers of one of the shapes."""
    array = _from_tensor(value) if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.shape not in shapes or array.dtype.kind not in "fiub":
        expected = " or ".join(str(list(shape)) for shape in shapes)
        got = "nothing" if value is None else f"{list(array.shape)} {array.dtype}"
        raise ValueError(f"ReplayBuffer.add: {name} must be {expected} numbers; got {got}")
    if name in FLAGS and array.dtype.kind != "b":
        other = array[(array != 0) & (array != 1)]
        if other.size:
            raise ValueError(f"ReplayBuffer.add: {name} must be true or false (1 or 0); got {other[0]}")
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is found with what is not finite
            return array.astype(np.float32)
    return array


def _from_tensor(tensor: torch.Tensor) -> np.ndarray:
    """Only what is needed: each of these costs a microsecond."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy()


def replay_row_bytes(capacity: int, layout: RowLayout) -> int:
    """Bytes of the rows of a replay buffer."""
    return segments.align(4 * capacity * layout.width)

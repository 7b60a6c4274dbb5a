"""A transition as one row of float32 numbers, and the checks that every transition passes before it becomes one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

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
    """Checks transitions and packs them into rows, in memory that it keeps for the next ones."""

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
        obs, layout = fields["obs"], self._layout
        shape = obs.shape if isinstance(obs, torch.Tensor) else np.shape(obs)
        if len(shape) != 2:
            raise ValueError(f"ReplayBuffer.add: obs is {list(shape)}; expected [B, obs_dim]")
        batch = shape[0]
        if len(self._rows) != batch or not self._targets:
            self._rows = np.empty((batch, layout.width), np.float32)
            self._finite = np.empty(self._rows.shape, np.bool_)
            self._targets = {
                name: self._rows[:, columns] if layout.widths[name] else self._rows[:, columns.start]
                for name, columns in layout.columns.items()
            }
        for name, value in fields.items():
            target = self._target(name, name, value)
            if target is not None:
                target[...] = _checked(name, value, target.shape)
        if np.count_nonzero(self._targets["truncated"] > self._targets["dones"]):
            raise ValueError(
                "ReplayBuffer.add: truncated is true where dones is false; dones are the ends of episodes of either "
                "kind, terminated or truncated"
            )
        given = [name for name, value in finals.items() if value is not None]
        if mask is not None:
            ended = np.flatnonzero(_checked("terminal_mask", mask, (batch,)))
            for name, value in finals.items():
                target = self._target(name, f"terminal_{name}", value)
                if target is not None and (value is not None or ended.size):
                    final = _checked(f"terminal_{name}", value, target.shape, (ended.size, target.shape[1]))
                    target[ended] = final[ended] if len(final) == batch else final
        elif given:
            raise ValueError(
                f"ReplayBuffer.add: terminal_{given[0]} was given without terminal_mask, which names its rows"
            )
        if np.count_nonzero(np.isfinite(self._rows, out=self._finite)) < self._rows.size:
            row, column = np.argwhere(~self._finite)[0].tolist()
            name, place = next(item for item in layout.columns.items() if item[1].start <= column < item[1].stop)
            index = f"{row}, {column - place.start}" if layout.widths[name] else f"{row}"
            raise ValueError(
                f"ReplayBuffer.add: {name}[{index}] is {self._rows[row, column]} as float32; nothing was added. "
                "Find where it comes from: physics, reward or policy"
            )
        return self._rows

    def _target(self, name: str, argument: str, value: Any) -> np.ndarray | None:
        """Where the field goes; None: the rows have no such field, and no value was given for it."""
        target = self._targets.get(name)
        if target is None and value is not None:
            option = "multi_step=True" if name == "steps" else "critic_dim > 0"
            raise ValueError(
                f"ReplayBuffer.add: {argument} was given; this buffer has no column for it: create it with {option}, "
                "or leave it out"
            )
        return target


def _checked(name: str, value: Any, *shapes: tuple[int, ...]) -> np.ndarray:
    """The value as an array of real numbers of one of the shapes."""
    if isinstance(value, torch.Tensor):  # only what is needed: each of these costs a microsecond
        value = value.detach() if value.requires_grad else value
        value = value.cpu() if value.device.type != "cpu" else value
        array = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    else:
        array = np.asarray(value)
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

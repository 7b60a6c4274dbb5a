"""Transitions in shared memory: any number of collectors add, the learner draws batches, nobody waits for anybody.

A ring of packed float32 rows. Adding claims the next rows under a lock of a few stores, then copies, then takes the
claim back; sampling gathers random complete rows and afterwards draws those again that were overwritten meanwhile
(see ``replay_claims``). So a row that is sampled is always whole, whoever is paused or killed at whatever instant.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from unilab.ipc.replay.claims import ReplayClaims, claims_bytes
from unilab.ipc.replay.recycling import RecycledBatches
from unilab.ipc.replay.rows import RowLayout, RowPacker, replay_row_bytes
from unilab.ipc.replay.window import ReplayEmptyError, ReplayWindow, contiguous, without, wrap
from unilab.ipc.shared_buffer import SharedBufferBase, header_bytes

__all__ = ["ReplayBuffer", "ReplayEmptyError", "replay_bytes"]

MAX_WRITERS = 64


def replay_bytes(capacity: int, obs_dim: int, action_dim: int, *, critic_dim: int = 0, multi_step: bool = False) -> int:
    """Bytes of shared memory of a replay buffer of these sizes, with the usual number of writers."""
    layout = RowLayout(obs_dim, action_dim, critic_dim, multi_step)
    sizes = _sizes(capacity, layout, MAX_WRITERS)
    return header_bytes(sizes) + claims_bytes(MAX_WRITERS) + replay_row_bytes(capacity, layout)


def _sizes(capacity: int, layout: RowLayout, max_writers: int) -> dict[str, int]:
    return {
        "capacity": capacity,
        "obs_dim": layout.obs_dim,
        "action_dim": layout.action_dim,
        "critic_dim": layout.critic_dim,
        "multi_step": int(layout.multi_step),
        "max_writers": max_writers,
    }


class ReplayBuffer(SharedBufferBase):
    """The last ``capacity`` transitions; uniform random batches of them.

    Collector::

        replay.add(obs, actions, rewards, next_obs, dones, truncated)

    Learner::

        batch = replay.sample(256)
        batch["obs"], batch["actions"], batch["rewards"]        # [256, O], [256, A], [256]

    Args:
        capacity: transitions that it holds.
        obs_dim, action_dim, critic_dim: widths O, A, C; critic_dim 0: no critic fields.
        device: where sample() puts batches. The rows themselves stay in host memory; the pipeline ``device`` of
            ``replay_pipelines`` keeps a copy of them on a device.
        defer_gpu, packed_cpu_storage: accepted without effect: rows are packed and in host memory in any case, and
            nothing is allocated on the device before sample().
        multi_step: rows have a field ``steps``, the env steps that each spans.
        seed: of the batches.
        name: attach to the buffer of this name, made by another process with the same sizes; None makes one.
        max_writers: handles that may add at the same time; one that died in add() counts until the ring has wrapped.

    Picklable as an argument of a process that is being started, and arrives there attached.
    One thread at a time may sample through one handle; any thread may add.

    Raises:
        ValueError: impossible sizes, or sizes other than the creator's.
        SharedMemoryFullError: /dev/shm is too small.
        SegmentClosedError: from any use after close().
    """

    def __init__(
        self,
        capacity: int,
        obs_dim: int,
        action_dim: int,
        device: torch.device | str,
        defer_gpu: bool = False,
        critic_dim: int = 0,
        packed_cpu_storage: bool = False,
        *,
        multi_step: bool = False,
        seed: int = 0,
        name: str | None = None,
        max_writers: int = MAX_WRITERS,
    ) -> None:
        self._layout = RowLayout(obs_dim, action_dim, critic_dim, multi_step)
        self._max_writers = max_writers
        sizes = _sizes(capacity, self._layout, max_writers)
        for label, size in sizes.items():
            if size < (0 if label in ("critic_dim", "multi_step") else 1):
                raise ValueError(f"ReplayBuffer: {label} is {size}; it must be positive")
        behind = claims_bytes(max_writers) + replay_row_bytes(capacity, self._layout)
        super().__init__(capacity, device, kind="replay", size=behind, layout=sizes, name=name)
        offset = header_bytes(sizes)
        self._claims = ReplayClaims(self._segment, offset, capacity, max_writers)
        shape = (capacity, self._layout.width)
        self._shared = self._segment.array(offset + claims_bytes(max_writers), shape, np.float32)
        self._rows = torch.from_numpy(self._shared)
        self._packer = RowPacker(self._layout)
        self._adding = threading.Lock()
        self._held: ReplayWindow | None = None
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._batches = RecycledBatches()
        self._numbers = torch.empty(0, dtype=torch.int64)
        self._positions = torch.empty(0, dtype=torch.int64)

    # What both sides may ask

    def __len__(self) -> int:
        """Rows that can be sampled now."""
        return len(self.sampling_window())

    @property
    def columns(self) -> dict[str, slice]:
        """Where each field is in a packed row."""
        return dict(self._layout.columns)

    @property
    def width(self) -> int:
        """Numbers in a packed row."""
        return self._layout.width

    @property
    def written(self) -> int:
        """Rows added so far; the n-th row ever has the number n, counted from 0.

        All rows below are complete, apart from those of writers that died in add(), or are still at it after
        capacity / 8 further rows: these are left out of every batch, and no longer waited for here. Where a whole ring
        was added while a writer stood still, its rows are passed over and count once more.
        """
        self._check_open()
        return self._claims.window().high

    @property
    def lost(self) -> int:
        """Rows given up because stopped writers had all rows of the ring claimed."""
        self._check_open()
        return self._claims.lost

    @property
    def loads(self) -> int:
        """How often load_state_dict() replaced the contents, in any process."""
        self._check_open()
        return self._claims.loads

    @property
    def window(self) -> tuple[int, int]:
        """Numbers [low, high) of the rows that sample() draws from now."""
        window = self.sampling_window()
        return window.low, window.high

    def sampling_window(self) -> ReplayWindow:
        """The rows that sample() draws from now, with the holes that it leaves out."""
        self._check_open()
        return self._held or self._claims.window()

    # Collectors

    def add(
        self,
        obs: Any,
        actions: Any,
        rewards: Any,
        next_obs: Any,
        dones: Any,
        truncated: Any,
        terminal_mask: Any = None,
        terminal_next_obs: Any = None,
        critic: Any = None,
        next_critic: Any = None,
        terminal_next_critic: Any = None,
        *,
        steps: Any = None,
    ) -> None:
        """Add B transitions (any B, 0 and more than the capacity included; then the last ones stay).

        All are arrays or tensors of any real dtype.

        Args:
            obs, next_obs: [B, O].
            actions: [B, A].
            rewards: [B].
            dones: [B], where an episode ended, terminated or truncated.
            truncated: [B], where it ended by a time limit alone.
            terminal_mask: [B], rows whose next observation is replaced by the episode's true last one:
            terminal_next_obs: [B, O], of which the rows in the mask count, or one row for each of these in order.
            critic, next_critic: [B, C], what the critic sees, if critic_dim > 0; then all four are needed.
            terminal_next_critic: as terminal_next_obs.
            steps: [B], env steps that each transition spans, if multi_step.

        Raises:
            ValueError: names the argument, what was expected and what came; nothing is added then.
        """
        self._check_open()
        fields = {
            "obs": obs,
            "actions": actions,
            "rewards": rewards,
            "dones": dones,
            "truncated": truncated,
            "next_obs": next_obs,
            "critic": critic,
            "next_critic": next_critic,
            "steps": steps,
        }
        finals = {"next_obs": terminal_next_obs, "next_critic": terminal_next_critic}
        with self._adding:
            self._write(self._packer.pack(fields, terminal_mask, finals))

    def _write(self, packed: np.ndarray) -> None:
        count, capacity = len(packed), self._capacity
        done = skip = max(0, count - capacity)
        while done < count:
            start, stop = self._claims.claim(count - done, skip)
            if start == stop:
                return
            for begin, end in contiguous(start, stop, capacity):
                at = begin % capacity
                self._shared[at : at + end - begin] = packed[done : done + end - begin]
                done += end - begin
            self._claims.finish()
            skip = 0

    # Learner

    def sample(self, batch_size: int) -> dict[str, torch.Tensor]:
        """A uniform random batch, drawn with replacement: name to float32 tensor [B, width] (or [B]) on ``device``.

        The tensors are views of one packed tensor [B, W] of their own, drawn on the host and copied; nothing else is
        kept on the device.

        Raises:
            ReplayEmptyError: there is no complete row.
        """
        return self.fields(self.sample_packed(batch_size).to(self.device))

    def sample_packed(self, batch_size: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """A uniform random batch of packed rows [B, W] in host memory, in ``out`` if given.

        Raises:
            ReplayEmptyError: there is no complete row.
        """
        if batch_size < 1:
            raise ValueError(f"ReplayBuffer.sample: batch_size is {batch_size}; it must be positive")
        if out is None:
            out = self._batches.take(batch_size, self.width)
        elif out.shape != (batch_size, self.width):
            raise ValueError(f"ReplayBuffer.sample: out is {list(out.shape)}; expected [{batch_size}, {self.width}]")
        if len(self._numbers) != batch_size:
            self._numbers = torch.empty(batch_size, dtype=torch.int64)
            self._positions = torch.empty(batch_size, dtype=torch.int64)
        window = self.sampling_window()
        base = window.low - window.low % self._capacity
        window.draw(self._numbers, base, self._generator)
        index = self._numbers
        if window.high - base > self._capacity:
            index = self._positions
            wrap(self._numbers.numpy(), self._capacity, index.numpy())
        torch.index_select(self._rows, 0, index, out=out)
        if self._claims.oldest > window.low:
            self._replace_overwritten(window, base, out)
        return out

    def _replace_overwritten(self, window: ReplayWindow, base: int, out: torch.Tensor) -> None:
        """Draw again what collectors have claimed since it was drawn, until all is whole."""
        numbers = self._numbers.numpy()
        while (oldest := self._claims.oldest) > window.low:
            window = window.starting_at(oldest)
            if len(window) == 0:
                window = self._claims.window()
            again = torch.from_numpy(np.flatnonzero(numbers < oldest - base))
            if len(again) == 0:
                return
            drawn = torch.empty(len(again), dtype=torch.int64)
            window.draw(drawn, base, self._generator)
            self._numbers[again] = drawn
            out[again] = self._rows[drawn.add_(base).remainder_(self._capacity)]

    def fields(self, packed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of each field of packed rows [B, W]."""
        return self._layout.fields(packed)

    def hold(self, lead_rows: int) -> None:
        """Draw from now on only from the rows that are complete now, without those that the next rows overwrite.

        While collectors add up to ``lead_rows`` rows, batches depend on the seed alone. If they add more, batches
        are whole all the same, but which rows are left to draw from depends on timing.

        Raises:
            ValueError: so many rows overwrite everything.
        """
        self._check_open()
        if not 0 <= lead_rows < self.capacity:
            raise ValueError(
                f"ReplayBuffer.hold: lead_rows is {lead_rows}; with a capacity of {self.capacity} it must be from 0 to "
                f"{self.capacity - 1}: enlarge the capacity, or add fewer transitions an iteration"
            )
        window = self._claims.window()
        self._held = window.starting_at(self._claims.reserved + lead_rows - self.capacity)

    def release(self) -> None:
        """Undo hold()."""
        self._held = None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """A copy [n, W] of the complete rows with the numbers [start, stop), of those that are still there."""
        self._check_open()
        window = self._claims.window()
        start, stop = max(start, window.low), min(stop, window.high)
        out = torch.empty(max(0, stop - start), self.width)
        intact = start
        for begin, end in contiguous(start, stop, self.capacity):
            intact = max(intact, min(stop, self.copy_rows(begin, end, out[begin - start : end - start])))
        if window.holes or intact > start:
            spans = without([(intact, stop)], window.holes)
            parts = [out[begin - start : end - start] for begin, end in spans]
            out = torch.cat([out[:0], *parts])
        return out

    def copy_rows(self, start: int, stop: int, out: torch.Tensor) -> int:
        """Copy the rows [start, stop), which must not wrap; those with numbers below the returned one may be torn."""
        at = start % self.capacity
        out.copy_(self._rows[at : at + stop - start])
        return self._claims.oldest

    # Checkpoints

    def state_dict(self, include_rows: bool) -> dict[str, Any]:
        """The generator and the number of rows, and a copy of the rows that can be sampled without hold() if asked."""
        self._check_open()
        window = self._claims.window()
        state: dict[str, Any] = {"generator": self._generator.get_state(), "written": window.high, "rows": None}
        if include_rows:
            state["rows"] = self.rows(window.low, window.high)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as at the time of state_dict(), in all processes; without rows it is empty, and counts go on.

        Raises:
            ValueError: the rows are of another width.
            RuntimeError: somebody is adding.
        """
        self._check_open()
        rows = state["rows"] if state["rows"] is not None else torch.empty(0, self.width)
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"ReplayBuffer: saved rows are {list(rows.shape)}; expected [n, {self.width}]")
        stop = state["written"]
        start = stop - min(len(rows), self.capacity)
        self.release()
        self._claims.restart(stop, stop)
        for begin, end in contiguous(start, stop, self.capacity):
            at = begin % self.capacity
            self._rows[at : at + end - begin] = rows[len(rows) - stop + begin : len(rows) - stop + end]
        self._claims.restart(start, stop)
        self._generator.set_state(state["generator"])

    # Closing

    def close(self) -> None:
        """Give up this handle (idempotent); batches handed out stay valid. Other processes are not disturbed."""
        with self._adding:
            self._claims.close()
        self._segment.close()
        self._shared, self._rows = self._shared[:0], self._rows[:0]

    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "multi_step": self._layout.multi_step,
            "seed": self._seed,
            "name": self.name,
            "max_writers": self._max_writers,
        }
        layout = self._layout
        sizes = (self.capacity, layout.obs_dim, layout.action_dim)
        return _attach, (sizes, str(self.device), layout.critic_dim, options)


def _attach(sizes: tuple[int, int, int], device: str, critic_dim: int, options: dict[str, Any]) -> ReplayBuffer:
    return ReplayBuffer(*sizes, device, critic_dim=critic_dim, **options)

"""Transitions in shared memory: a collector adds, the learner draws batches, and neither waits for the other.

A ring of packed float32 rows, numbered for ever: the n-th row added has the number n and lies at ``n % capacity``. Two
words say what can be read. ``begun`` is stored before rows are written, and rows below ``begun - capacity`` are, or
may be, overwritten; ``written`` is stored after them, and rows below it are complete. Sampling takes no lock: it
gathers random rows between the two, looks at ``begun`` again, and draws those again that were overwritten meanwhile.
So a row that is sampled is always whole. If a process is killed while it adds rows, the next one that adds goes on at
``written``. ``begun`` never falls, so what the killed one has overwritten is not read until it is complete.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from unilab.ipc.replay_rows import RowLayout, RowPacker
from unilab.ipc.shared_buffer import Layout, SharedBufferBase
from unilab.ipc.shared_memory import segments

_WRITTEN, _BEGUN, _FIRST = range(3)
_PARTS = 8
"""rows are announced and written in parts of at most 1 / _PARTS of the ring, so that most of it can always be read"""


class ReplayEmptyError(RuntimeError):
    """Sampling was asked for, and there is no row that can be sampled."""


def replay_bytes(capacity: int, obs_dim: int, action_dim: int, *, critic_dim: int = 0, multi_step: bool = False) -> int:
    """Bytes of shared memory of a replay buffer of these sizes."""
    return _layout(capacity, RowLayout(obs_dim, action_dim, critic_dim, multi_step)).bytes


def _layout(capacity: int, row: RowLayout) -> Layout:
    sizes = {"capacity": capacity, "obs_dim": row.obs_dim, "action_dim": row.action_dim, "critic_dim": row.critic_dim}
    fields = {"rows": ((capacity, row.width), np.dtype(np.float32))}
    return Layout("replay buffer", 3, fields, sizes=sizes | {"multi_step": int(row.multi_step)})


def contiguous(start: int, stop: int, capacity: int, limit: int) -> Iterator[tuple[int, int]]:
    """[start, stop) cut where the ring wraps, and into spans of at most ``limit`` rows."""
    while start < stop:
        end = min(stop, start - start % capacity + capacity, start + limit)
        yield start, end
        start = end


def check_drawable(low: int, high: int) -> None:
    """Raise ReplayEmptyError if [low, high) has no row."""
    if low >= high:
        raise ReplayEmptyError(
            "the replay buffer has no complete row to sample: add transitions first and see that len(replay) > 0"
        )


class ReplayBuffer(SharedBufferBase):
    """The last ``capacity`` transitions; uniform random batches of them.

    Collector::

        replay.add(obs, actions, rewards, next_obs, dones, truncated)

    Learner::

        batch = replay.sample(256)
        batch["obs"], batch["actions"], batch["rewards"]        # [256, O], [256, A], [256]

    In this project one process adds: the collector, or the learner's for its workers. Other threads and processes may
    add as well: ``add`` holds a file lock, which the kernel releases when its holder dies. Sampling takes no lock. One
    thread at a time may sample through one handle.

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

    Picklable as an argument of a process that is being started, and arrives there attached.

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
    ) -> None:
        self._layout = RowLayout(obs_dim, action_dim, critic_dim, multi_step)
        layout = _layout(capacity, self._layout)
        for label, size in layout.sizes.items():
            if size < (0 if label in ("critic_dim", "multi_step") else 1):
                raise ValueError(f"ReplayBuffer: {label} is {size}; it must be positive")
        self.capacity = capacity
        """transitions that it holds"""
        self.device = torch.device(device)
        """where sample() puts batches"""
        self.width = self._layout.width
        """numbers in a packed row, W"""
        super().__init__(layout, attach=name)
        self._shared = self._arrays[0]["rows"]
        self._rows = torch.from_numpy(self._shared)
        self._packer = RowPacker(self._layout)
        self._held: tuple[int, int] | None = None
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._numbers, self._positions = torch.empty(2, 0, dtype=torch.int64)

    # What both sides may ask

    def __len__(self) -> int:
        """Rows that can be sampled now."""
        low, high = self.window
        return high - low

    @property
    def columns(self) -> dict[str, slice]:
        """Where each field is in a packed row."""
        return dict(self._layout.columns)

    @property
    def written(self) -> int:
        """Rows added so far; the n-th row ever has the number n, counted from 0."""
        self._check_open()
        return self._words[_WRITTEN]

    @property
    def window(self) -> tuple[int, int]:
        """Numbers [low, high) of the rows that sample() draws from now."""
        self._check_open()
        return self._held or self._readable()

    def _readable(self) -> tuple[int, int]:
        """Numbers [low, high) of all rows that are there, whatever hold() says."""
        self._check_open()
        low = max(self._words[_FIRST], self._words[_BEGUN] - self.capacity)
        segments.fence()  # in this order a writer that laps everything meanwhile leaves rows between the two
        # Of what was added since the first look only so many: sample() finds positions below 2 * capacity alone.
        return low, max(low, min(self._words[_WRITTEN], low + self.capacity))

    def _oldest(self) -> int:
        """The number from which on rows that were read before this call are whole."""
        segments.fence()
        return self._words[_BEGUN] - self.capacity

    # Collector

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
        with self._segment.locked():  # against other threads of this process, and other processes
            self._write(self._packer.pack(fields, terminal_mask, finals))

    def _write(self, packed: np.ndarray) -> None:
        words, capacity = self._words, self.capacity
        first = words[_WRITTEN]
        for start, stop in contiguous(first, first + len(packed), capacity, max(1, capacity // _PARTS)):
            words[_BEGUN] = max(words[_BEGUN], stop)
            segments.fence()
            at = start % capacity
            self._shared[at : at + stop - start] = packed[start - first : stop - first]
            segments.fence()
            words[_WRITTEN] = stop

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
            out = torch.empty(batch_size, self.width)
        elif out.shape != (batch_size, self.width):
            raise ValueError(f"ReplayBuffer.sample: out is {list(out.shape)}; expected [{batch_size}, {self.width}]")
        if len(self._numbers) != batch_size:
            self._numbers, self._positions = torch.empty(2, batch_size, dtype=torch.int64)
        capacity, numbers, index = self.capacity, self._numbers, self._numbers
        low, high = self.window
        check_drawable(low, high)
        base = low - low % capacity  # numbers are counted from here: below 2 * capacity
        torch.randint(low - base, high - base, (batch_size,), generator=self._generator, out=numbers)
        if high - base > capacity:
            # The remainder in a quarter of the time: what would be negative is huge as an unsigned integer, so the
            # smaller of both is the position.
            index = self._positions
            positions = np.subtract(numbers.numpy(), capacity, out=index.numpy()).view(np.uint64)
            np.minimum(numbers.numpy().view(np.uint64), positions, out=positions)
        torch.index_select(self._rows, 0, index, out=out)
        while (oldest := self._oldest()) > low:  # the collector was there meanwhile
            low = oldest
            if low >= high:
                low, high = self._readable()
                check_drawable(low, high)
            again = (numbers < low - base).nonzero().squeeze(1)
            drawn = torch.randint(low - base, high - base, again.shape, generator=self._generator)
            numbers[again] = drawn
            out[again] = self._rows[(drawn + base) % capacity]
        return out

    def fields(self, packed: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of each field of packed rows [B, W]."""
        return self._layout.fields(packed)

    def hold(self, lead_rows: int) -> None:
        """Draw from now on only from the rows that are complete now, without those that the next rows overwrite.

        While the collector adds up to ``lead_rows`` rows, batches depend on the seed alone. If it adds more, batches
        are whole all the same, but which rows are left to draw from depends on timing.

        Raises:
            ValueError: so many rows overwrite everything.
        """
        if not 0 <= lead_rows < self.capacity:
            raise ValueError(
                f"ReplayBuffer.hold: lead_rows is {lead_rows}; with a capacity of {self.capacity} it must be from 0 to "
                f"{self.capacity - 1}: enlarge the capacity, or add fewer transitions an iteration"
            )
        low, high = self._readable()
        self._held = max(low, high + lead_rows - self.capacity), high

    def release(self) -> None:
        """Undo hold()."""
        self._held = None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """A copy [n, W] of the complete rows with the numbers [start, stop), of those that are still there."""
        low, high = self._readable()
        start, stop = max(start, low), min(stop, high)
        out = torch.empty(max(0, stop - start), self.width)
        oldest = self.copy_rows(start, stop, out)
        return out[max(0, oldest - start) :]

    def copy_rows(self, start: int, stop: int, out: torch.Tensor) -> int:
        """Copy the rows [start, stop); those with numbers below the returned one may be torn."""
        for begin, end in contiguous(start, stop, self.capacity, self.capacity):
            out[begin - start : end - start] = self._rows[begin % self.capacity :][: end - begin]
        return self._oldest()

    # Checkpoints

    def state_dict(self, include_rows: bool) -> dict[str, Any]:
        """The generator and the number of rows, and a copy of the rows that can be sampled without hold() if asked."""
        low, high = self._readable()
        state: dict[str, Any] = {"generator": self._generator.get_state(), "written": high, "rows": None}
        if include_rows:
            state["rows"] = self.rows(low, high)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as at the time of state_dict(), in all processes; without rows it is empty, and counts go on.

        Load before a collector starts and before a replay pipeline is made or loaded: nobody may add or sample
        meanwhile.

        Raises:
            ValueError: the rows are of another width.
        """
        self._check_open()
        rows = state["rows"] if state["rows"] is not None else torch.empty(0, self.width)
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"ReplayBuffer: saved rows are {list(rows.shape)}; expected [n, {self.width}]")
        rows = rows[-self.capacity :]
        self.release()
        with self._segment.locked():
            first = state["written"] - len(rows)
            for word in (_FIRST, _BEGUN, _WRITTEN):
                self._words[word] = first
            self._write(rows.numpy())
        self._generator.set_state(state["generator"])

    # Closing

    def close(self) -> None:
        """Give up this handle (idempotent); batches handed out stay valid. Other processes are not disturbed."""
        super().close()
        self._shared, self._rows = self._shared[:0], self._rows[:0]

    def __reduce__(self) -> tuple[Any, ...]:
        layout = self._layout
        options: dict[str, Any] = {"critic_dim": layout.critic_dim, "multi_step": layout.multi_step, "seed": self._seed}
        sizes = (self.capacity, layout.obs_dim, layout.action_dim, str(self.device))
        return functools.partial(ReplayBuffer, name=self.name, **options), sizes

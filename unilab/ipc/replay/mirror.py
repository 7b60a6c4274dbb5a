"""A copy of a replay buffer on the learner's device: each row is copied once, batches are gathered on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from unilab.ipc.replay.window import ReplayWindow, contiguous, merged, without

if TYPE_CHECKING:
    from unilab.ipc.replay_buffer import ReplayBuffer

CHUNK = 8192
"""rows copied at once; two such parts are staged in host memory for CUDA"""


class DeviceMirror:
    """The rows of a replay buffer in memory of ``device``, each at its position of the ring.

    ``update`` copies the rows that are new since the last time; ``sample_packed`` draws from the window that the
    replay buffer had at that update, so that both honour its hold(). Work on CUDA is queued on the current stream.
    """

    def __init__(self, replay: "ReplayBuffer", device: torch.device | str) -> None:
        self._replay = replay
        self._device = torch.device(device)
        self._rows = torch.empty(replay.capacity, replay.width, device=self._device)
        self._staging = _Staging(replay.width, self._device) if self._device.type == "cuda" else None
        self._window = ReplayWindow(0, 0)
        self._first = self._next = 0
        self._loads = replay.loads

    @property
    def window(self) -> ReplayWindow:
        """The rows that sample_packed() draws from."""
        return self._window

    def update(self) -> int:
        """Copy the rows that were completed since the last time; how many."""
        replay = self._replay
        loads = replay.loads
        window = replay.sampling_window()
        if self._loads != loads or self._next < window.low:
            self._loads, self._first, self._next = loads, window.low, window.low
            self._window = ReplayWindow(window.low, window.low)
        late = merged(self._window.holes, window.low, self._next)
        copied, first = 0, max(self._first, window.low)
        for span in without([*late, (self._next, window.high)], window.holes):
            for start, stop in contiguous(*span, replay.capacity, CHUNK):
                first = max(first, self._copy(start, stop))
                copied += stop - start
        self._first = first
        self._next = max(self._next, window.high)
        self._window = window.starting_at(first)
        return copied

    def sample_packed(
        self, batch_size: int, generator: torch.Generator, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A uniform random batch of packed rows [B, W] on the device, in ``out`` if given.

        With a generator of the CPU the batch is the one that the replay buffer itself would draw with it; one of
        the device saves the copy of the indices.

        Raises:
            ReplayEmptyError: update() found no complete row.
        """
        window, capacity = self._window, self._replay.capacity
        base = window.low - window.low % capacity
        numbers = torch.empty(batch_size, dtype=torch.int64, device=generator.device)
        window.draw(numbers, base, generator)
        if window.high - base > capacity:
            numbers.remainder_(capacity)
        return torch.index_select(self._rows, 0, numbers.to(self._device), out=out)

    def _copy(self, start: int, stop: int) -> int:
        """Rows with smaller numbers than this were overwritten, perhaps before they were copied."""
        at = start % self._replay.capacity
        target = self._rows[at : at + stop - start]
        if self._staging is None:
            return self._replay.copy_rows(start, stop, target)
        with self._staging.next(stop - start) as staged:
            oldest = self._replay.copy_rows(start, stop, staged)
            target.copy_(staged, non_blocking=True)
        return oldest


class _Staging:
    """Two page-locked buffers in turn, so that one is filled while the other is on its way to the device."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._device = device
        self._buffers = [torch.empty(CHUNK, width, pin_memory=True) for _ in range(2)]
        self._sent = [torch.cuda.Event() for _ in range(2)]
        self._turn = 0

    @contextmanager
    def next(self, count: int) -> Iterator[torch.Tensor]:
        """``count`` rows to be filled and sent on the device's current stream within the ``with`` block."""
        self._turn = 1 - self._turn
        self._sent[self._turn].synchronize()
        yield self._buffers[self._turn][:count]
        self._sent[self._turn].record(torch.cuda.current_stream(self._device))

"""A pipeline that samples on the learner's device, from a copy of the replay buffer that follows it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unilab.ipc.replay_buffer import ReplayBuffer, check_drawable, contiguous
from unilab.ipc.replay_pipelines.pipeline import ReplayPipeline
from unilab.tracing.spans import span

CHUNK = 8192
"""rows copied at once; two such parts are staged in host memory for CUDA"""


class DevicePipeline(ReplayPipeline):
    """Every row is copied to the device once; drawing and gathering happen there, so no batch crosses the bus.

    A row has the same position there as in the replay buffer. Batches are drawn from the window that the replay buffer
    had when it was looked at last, so that they honour its hold(). Work on CUDA is queued on the current stream.

    Args:
        device: the learner's; it needs memory for all rows, ``replay_bytes_on_device``.
        seed: of the generator on the device, which draws the rows.
    """

    KIND = "device"

    def __init__(self, replay: ReplayBuffer, batch_size: int, device: torch.device | str, *, seed: int) -> None:
        super().__init__(replay, batch_size, device)
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._rows = torch.empty(replay.capacity, replay.width, device=self._device)
        # Page-locked memory, two pieces in turn: one is filled while the other is on its way to the device.
        self._staged = [
            (torch.empty(CHUNK, replay.width, pin_memory=True), torch.cuda.Event())
            for _ in range(2 if self._device.type == "cuda" else 0)
        ]
        self._window = (0, 0)
        self._whole = self._next = 0
        """number of the first row that was copied whole, and of the next row to copy"""

    def next_batch(self) -> dict[str, Tensor]:
        """A batch that is sampled now, after new rows have been copied."""
        self._check_open()
        with span("copy"):
            self.copy_new_rows()
        with span("sample"):
            (low, high), capacity = self._window, self._replay.capacity
            check_drawable(low, high)
            base = low - low % capacity
            shape, where = (self._batch_size,), self._device
            numbers = torch.randint(low - base, high - base, shape, generator=self._generator, device=where)
            if high - base > capacity:
                numbers.remainder_(capacity)
            return self._replay.fields(torch.index_select(self._rows, 0, numbers))

    def copy_new_rows(self) -> int:
        """Copy the rows that were completed since the last time; how many."""
        replay, capacity = self._replay, self._replay.capacity
        low, high = replay.window
        if self._next < low:
            self._whole = self._next = low
        first = self._next
        for start, stop in contiguous(first, high, capacity, CHUNK):
            at = start % capacity
            target = self._rows[at : at + stop - start]
            if self._staged:
                staged, sent = self._staged[0]
                self._staged.reverse()
                sent.synchronize()
                oldest = replay.copy_rows(start, stop, staged[: stop - start])
                target.copy_(staged[: stop - start], non_blocking=True)
                sent.record(torch.cuda.current_stream(self._device))
            else:
                oldest = replay.copy_rows(start, stop, target)
            self._whole = max(self._whole, oldest)
            self._next = stop
        low = max(self._whole, low)
        self._window = low, max(low, high)
        return self._next - first

    def state_dict(self) -> dict[str, Any]:
        """As the base class's, with the generator on the device."""
        return super().state_dict() | {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the base class's; the generator on the device goes on, and all rows are copied again."""
        super().load_state_dict(state)
        self._whole = self._next = 0
        self._generator.set_state(state["generator"].cpu())

    def close(self) -> None:
        """Give up the memory on the device; idempotent."""
        super().close()
        self._rows = self._rows[:0].clone()


def replay_bytes_on_device(capacity: int, width: int) -> int:
    """Bytes on the device of a copy of so many rows of this many numbers."""
    return 4 * capacity * width

"""Memory for one packed batch: a thread fills it on the host, the learner reads it on its device.

The life of a buffer is ``fill`` (any thread) -> ``hand_out`` -> the learner's work -> ``take_back`` -> ``fill`` ...,
the last three in the learner's thread. Whoever owns the buffers keeps to that order between threads; a buffer itself
orders the device's streams.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from unilab.tracing.spans import span

Fill = Callable[[Tensor], object]
"""writes a whole packed batch [B, W] into the host tensor that it is given"""


class BatchBuffer(Protocol):
    packed: Tensor
    """[B, W] float32 on the learner's device"""

    def fill(self, fill: Fill) -> None:
        """Write the next batch; its copy to the device may still be under way on return."""
        ...

    def hand_out(self) -> None:
        """What is queued on the current stream from now on sees the batch."""
        ...

    def take_back(self) -> None:
        """What is queued on the current stream so far is all that reads the batch."""
        ...

    def close(self) -> None:
        """Wait until nothing writes into the memory any more."""
        ...


class PlainBuffer:
    """On the host, or on a device without streams of its own: everything happens in the order of the calls."""

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.packed = torch.empty(shape, dtype=torch.float32, device=device)
        self._host = self.packed if device.type == "cpu" else torch.empty(shape, dtype=torch.float32)

    def fill(self, fill: Fill) -> None:
        with span("sample"):
            fill(self._host)
        if self._host is not self.packed:
            with span("copy"):
                self.packed.copy_(self._host)

    def hand_out(self) -> None:
        """Nothing to do: the batch is there."""

    def take_back(self) -> None:
        """Nothing to do: what reads the batch comes before the next fill."""

    def close(self) -> None:
        """Nothing to do: fill() has ended when it returns."""


class StreamBuffer:
    """On CUDA: page-locked memory on the host, copied on a stream of its own while the learner's stream computes.

    Two events keep the three users of the memory apart without the learner's thread ever waiting for the device:
    ``_copied`` (the learner's stream waits for it before it reads, the filling thread before it overwrites the host
    memory) and ``_released`` (the copy stream waits for it before it overwrites the device memory).

    Args:
        shape: [B, W] of the packed batch.
        device: where the learner reads it.
        stream: the copy stream, shared by all buffers of a pipeline.
        module: torch's module of the device, torch.cuda or one with the same Stream, Event and current_stream.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device, stream: Any, module: Any) -> None:
        cuda = device.type == "cuda"
        self.packed = torch.empty(shape, dtype=torch.float32, device=device)
        self._host = torch.empty(shape, dtype=torch.float32, pin_memory=cuda)
        if cuda:  # when dropped without close(), the allocator keeps the memory until the copy stream is done with it
            self.packed.record_stream(stream)
        self._device, self._stream, self._module = device, stream, module
        # A thread that waits for a blocking event sleeps instead of spinning on a core that others could use.
        self._copied = module.Event(blocking=True) if cuda else module.Event()
        self._released = module.Event()
        self.take_back()  # the allocator may have given memory that work queued on the current stream still uses

    def fill(self, fill: Fill) -> None:
        self._copied.synchronize()
        with span("sample"):
            fill(self._host)
        with self._module.stream(self._stream), span("copy"):
            self._stream.wait_event(self._released)
            self.packed.copy_(self._host, non_blocking=True)
            self._copied.record(self._stream)

    def hand_out(self) -> None:
        self._module.current_stream(self._device).wait_event(self._copied)

    def take_back(self) -> None:
        self._released.record(self._module.current_stream(self._device))

    def close(self) -> None:
        self._copied.synchronize()


def batch_buffers(count: int, shape: tuple[int, int], device: torch.device) -> list[BatchBuffer]:
    """``count`` buffers [B, W] of the sort that suits ``device``."""
    if device.type != "cuda":
        return [PlainBuffer(shape, device) for _ in range(count)]
    module = torch.get_device_module(device)
    stream = module.Stream(device)
    return [StreamBuffer(shape, device, stream, module) for _ in range(count)]

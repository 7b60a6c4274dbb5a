"""Pipelines that gather batches in host memory: when the learner asks for one, or one ahead in a thread."""

import functools
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines.pipeline import ReplayPipeline
from unilab.tracing.spans import span

Fill = Callable[[Tensor], object]
"""writes a whole packed batch [B, W] into the host tensor that it is given"""


class BatchBuffer:
    """Memory for one packed batch: a thread fills it on the host, the learner reads it on its device.

    The life of a buffer is ``fill`` (any thread) -> ``hand_out`` -> the learner's work -> ``take_back`` -> ``fill``
    ..., the last three in the learner's thread. Its owner keeps to that order between threads; the buffer itself
    orders the device's streams.

    With a stream (on CUDA) the host memory is page-locked, and copied on that stream while the learner's own computes.
    Two events keep the three users of the memory apart without the learner's thread ever waiting for the device:
    ``_copied`` (the learner's stream waits for it before it reads, the filling thread before it overwrites the host
    memory) and ``_released`` (the copy stream waits for it before it overwrites the device memory).

    Args:
        shape: [B, W] of the packed batch.
        device: where the learner reads it.
        stream: the copy stream, shared by all buffers of a pipeline; None: the learner is on the CPU, where everything
            happens in the order of the calls.
        module: torch's module of the device, torch.cuda or one with the same Stream, Event and current_stream.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device, stream: Any = None, module: Any = None) -> None:
        cuda = device.type == "cuda"
        self.packed = torch.empty(shape, dtype=torch.float32, device=device)
        """[B, W] on the learner's device"""
        self._host = self.packed if stream is None else torch.empty(shape, dtype=torch.float32, pin_memory=cuda)
        self._device, self._stream, self._module = device, stream, module
        if stream is not None:
            if cuda:  # dropped without close(), the allocator keeps the memory until the copy stream is done with it
                self.packed.record_stream(stream)
            # A thread that waits for a blocking event sleeps instead of spinning on a core that others could use.
            self._copied = module.Event(blocking=True) if cuda else module.Event()
            self._released = module.Event()
            self.take_back()  # the allocator may have given memory that work queued on the current stream still uses

    def fill(self, fill: Fill) -> None:
        """Write the next batch. Its copy to the device may still be under way on return."""
        self.close()
        with span("sample"):
            fill(self._host)
        if self._stream is not None:
            with self._module.stream(self._stream), span("copy"):
                self._stream.wait_event(self._released)
                self.packed.copy_(self._host, non_blocking=True)
                self._copied.record(self._stream)

    def hand_out(self) -> None:
        """What is queued on the current stream from now on sees the batch."""
        if self._stream is not None:
            self._module.current_stream(self._device).wait_event(self._copied)

    def take_back(self) -> None:
        """What is queued on the current stream so far is all that reads the batch."""
        if self._stream is not None:
            self._released.record(self._module.current_stream(self._device))

    def close(self) -> None:
        """Wait until nothing reads the host memory any more."""
        if self._stream is not None:
            self._copied.synchronize()


def batch_buffers(count: int, shape: tuple[int, int], device: torch.device) -> list[BatchBuffer]:
    """``count`` buffers [B, W] for a learner on ``device``."""
    if device.type != "cuda":
        return [BatchBuffer(shape, device) for _ in range(count)]
    module = torch.get_device_module(device)
    stream = module.Stream(device)
    return [BatchBuffer(shape, device, stream, module) for _ in range(count)]


class DirectPipeline(ReplayPipeline):
    """Gathers every batch into the same memory; the way of least memory and no thread, best on a busy CPU."""

    KIND = "direct"

    def __init__(self, replay: ReplayBuffer, batch_size: int, device: torch.device | str) -> None:
        super().__init__(replay, batch_size, device)
        (self._buffer,) = batch_buffers(1, (batch_size, replay.width), self._device)
        self._fields = replay.fields(self._buffer.packed)

    def next_batch(self) -> dict[str, Tensor]:
        """Sampled now."""
        self._check_open()
        self._buffer.take_back()
        self._buffer.fill(functools.partial(self._replay.sample_packed, self._batch_size))
        self._buffer.hand_out()
        return dict(self._fields)

    def close(self) -> None:
        """Wait until nothing reads the batch in host memory; idempotent."""
        super().close()
        self._buffer.close()


class PrefetchPipeline(ReplayPipeline):
    """Two buffers: the learner has one, a thread fills the other and copies it to the device.

    There is exactly one request ahead, made inside next_batch() once the first batch is there. So the batches are
    those of DirectPipeline, except that the first one after the replay buffer's window has moved was drawn before.

    The thread uses one intra-op thread, as a pool of its own would compete with the learner's for the same cores. It
    ends with the pipeline, also where that is dropped without close().
    """

    KIND = "prefetch"

    def __init__(self, replay: ReplayBuffer, batch_size: int, device: torch.device | str) -> None:
        super().__init__(replay, batch_size, device)
        self._shape = (batch_size, replay.width)
        self._front, self._back = batch_buffers(2, self._shape, self._device)
        self._front_fields, self._back_fields = (replay.fields(b.packed) for b in (self._front, self._back))
        intra_op_threads = torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, "replay prefetch", _take_one_intra_op_thread)
        self._end = weakref.finalize(self, self._thread.shutdown)
        self._thread.submit(torch.get_num_threads).result()
        torch.set_num_threads(intra_op_threads)  # the thread's number is its own, but later threads would begin with it
        self._ahead: Future[object] | None = None
        """what fills the back buffer, or has filled it"""

    def next_batch(self) -> dict[str, Tensor]:
        """The batch that was requested by the last call; requests the next one."""
        self._check_open()
        self._front.take_back()
        if self._ahead is None:
            self._request()
        self.refresh()
        self._front, self._back = self._back, self._front
        self._front_fields, self._back_fields = self._back_fields, self._front_fields
        self._front.hand_out()
        self._request()
        return dict(self._front_fields)

    def _request(self) -> None:
        """Start to fill the back buffer from the rows that the replay buffer samples from now."""
        sample = functools.partial(self._replay.sample_packed, self._batch_size)
        self._ahead = self._thread.submit(self._back.fill, sample)

    def refresh(self) -> None:
        """Wait for the request under way; raises its error, after which next_batch() asks again."""
        if self._ahead is not None:
            try:
                with span("wait"):
                    self._ahead.result()
            except BaseException:
                self._ahead = None
                raise

    def state_dict(self) -> dict[str, Any]:
        """As the base class's, with the batch that was not handed out yet: [B, W], or None."""
        state: dict[str, Any] = super().state_dict() | {"ahead": None}
        self.refresh()
        if self._ahead is not None:
            self._back.hand_out()
            state["ahead"] = self._back.packed.to("cpu", copy=True)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the base class's; the batch that was not handed out yet comes first."""
        super().load_state_dict(state)
        ahead = state["ahead"]
        if ahead is not None and ahead.shape != self._shape:
            raise ValueError(
                f"replay pipeline: the saved batch is {list(ahead.shape)}, expected {list(self._shape)} (batch size, "
                "width of a row); resume with the batch size and the environment that the run began with"
            )
        self.refresh()
        self._ahead = None
        if ahead is not None:
            self._back.take_back()
            self._ahead = self._thread.submit(self._back.fill, lambda out: out.copy_(ahead))

    def close(self) -> None:
        """End the thread and drop the batch under way, or its error; idempotent."""
        super().close()
        self._end()
        self._ahead = None
        for buffer in (self._front, self._back):
            buffer.close()


def _take_one_intra_op_thread() -> None:
    torch.get_num_threads()  # a thread takes over the process's number when it first needs it: not after the next line
    torch.set_num_threads(1)

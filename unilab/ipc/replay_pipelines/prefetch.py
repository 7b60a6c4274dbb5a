"""Sampling the next batch, and copying it to the device, while the learner trains on the one before."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines.background import BackgroundThread
from unilab.ipc.replay_pipelines.batch_buffer import batch_buffers
from unilab.ipc.replay_pipelines.pipeline import check_batch_size, check_kind, closed_error
from unilab.tracing.spans import span


class PrefetchPipeline:
    """Two buffers: the learner has one, a thread fills the other.

    There is exactly one request ahead, made inside next_batch() once the first batch is there. So the batches are
    those of DirectPipeline, except that the first one after the replay buffer's window has moved was drawn before.

    Args:
        replay: where the rows come from; its generator draws them.
        batch_size: transitions a batch, B.
        device: the learner's.
    """

    KIND = "prefetch"

    def __init__(self, replay: ReplayBuffer, batch_size: int, device: torch.device | str) -> None:
        self._replay = replay
        self._shape = (check_batch_size(batch_size), replay.width)
        self._front, self._back = batch_buffers(2, self._shape, torch.device(device))
        self._front_fields, self._back_fields = (replay.fields(b.packed) for b in (self._front, self._back))
        self._thread = BackgroundThread("replay prefetch")
        self._ready = False
        """the back buffer has a batch that was not handed out yet"""

    def next_batch(self) -> dict[str, Tensor]:
        self._check_open()
        self._front.take_back()
        if not self._ready and not self._thread.busy:
            self._request()
        self.refresh()
        self._front, self._back = self._back, self._front
        self._front_fields, self._back_fields = self._back_fields, self._front_fields
        self._front.hand_out()
        self._ready = False
        self._request()
        return dict(self._front_fields)

    def _request(self) -> None:
        """Start to fill the back buffer from the rows that the replay buffer samples from now."""
        batch_size, _ = self._shape
        sample = functools.partial(_sample, self._replay, batch_size)
        self._thread.start(functools.partial(self._back.fill, sample))

    def refresh(self) -> None:
        """Wait for the request under way; raises its error, after which next_batch() asks again."""
        if self._thread.busy:
            with span("wait"):
                self._thread.wait()
            self._ready = True

    def state_dict(self) -> dict[str, Any]:
        """The batch that was not handed out yet is part of it: [B, W], or None."""
        self._check_open()
        self.refresh()
        if not self._ready:
            return {"kind": self.KIND, "ahead": None}
        self._back.hand_out()
        return {"kind": self.KIND, "ahead": self._back.packed.to("cpu", copy=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_open()
        check_kind(state, self.KIND)
        ahead = state["ahead"]
        if ahead is not None and ahead.shape != self._shape:
            raise ValueError(
                f"replay pipeline: the saved batch is {list(ahead.shape)}, expected {list(self._shape)} (batch size, "
                "width of a row); resume with the batch size and the environment that the run began with"
            )
        self.refresh()
        self._ready = ahead is not None
        if ahead is not None:
            self._back.take_back()
            self._back.fill(lambda out: out.copy_(ahead))

    def close(self) -> None:
        """End the thread and drop the batch under way, or its error; idempotent."""
        if not self._thread.closed:
            self._thread.close()
            for buffer in (self._front, self._back):
                buffer.close()

    def _check_open(self) -> None:
        if self._thread.closed:
            raise closed_error(self.KIND)


def _sample(replay: ReplayBuffer, batch_size: int, out: Tensor) -> None:
    replay.sample_packed(batch_size, out=out)

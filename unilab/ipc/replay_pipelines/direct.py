"""Sampling when a batch is asked for, in the learner's thread."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines.batch_buffer import batch_buffers
from unilab.ipc.replay_pipelines.pipeline import check_batch_size, check_kind, closed_error


class DirectPipeline:
    """Gathers every batch into the same memory; the way of least memory and no thread, best on a busy CPU.

    Args:
        replay: where the rows come from; its generator draws them.
        batch_size: transitions a batch, B.
        device: the learner's.
    """

    KIND = "direct"

    def __init__(self, replay: ReplayBuffer, batch_size: int, device: torch.device | str) -> None:
        self._replay = replay
        self._batch_size = check_batch_size(batch_size)
        (self._buffer,) = batch_buffers(1, (batch_size, replay.width), torch.device(device))
        self._fields = replay.fields(self._buffer.packed)
        self._closed = False

    def next_batch(self) -> dict[str, Tensor]:
        if self._closed:
            raise closed_error(self.KIND)
        self._buffer.take_back()
        self._buffer.fill(self._sample)
        self._buffer.hand_out()
        return dict(self._fields)

    def _sample(self, out: Tensor) -> None:
        self._replay.sample_packed(self._batch_size, out=out)

    def refresh(self) -> None:
        """Nothing to do: no sampling outlives next_batch()."""

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.KIND}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_kind(state, self.KIND)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._buffer.close()

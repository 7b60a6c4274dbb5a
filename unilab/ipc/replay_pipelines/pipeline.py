"""What every replay pipeline is to the learner."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from unilab.ipc.replay_buffer import ReplayBuffer


class ReplayPipeline(ABC):
    """Batches of sampled transitions on the learner's device; belongs to one thread, the learner's.

    ::

        with contextlib.closing(build_pipeline("auto", replay, batch_size, device)) as pipeline:
            while training:
                pipeline.refresh()              # nothing samples from the replay buffer after this ...
                replay.hold(lead_rows)          # ... until next_batch(), so every batch's window is known
                for _ in range(updates):
                    update(pipeline.next_batch())

    Repeatable: with one seed of the replay buffer and ``hold()`` as above, the batches do not depend on timing.

    Args:
        replay: where the rows come from; its generator draws them, unless a kind says otherwise.
        batch_size: transitions a batch, B.
        device: the learner's.

    Raises:
        ValueError: a batch size below 1.
    """

    KIND: ClassVar[str]

    def __init__(self, replay: ReplayBuffer, batch_size: int, device: torch.device | str) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1 transition a batch, got {batch_size}")
        self._replay = replay
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._closed = False

    @abstractmethod
    def next_batch(self) -> dict[str, Tensor]:
        """The next batch: the replay buffer's fields, float32 [B, ...], valid until the next call of next_batch().

        On an accelerator the batch may be used on the stream that is current during this call, and it has been used
        by what is queued on the stream that is current during the next one. The host waits for neither.

        Raises:
            ReplayEmptyError: the replay buffer has no row that may be sampled.
            RuntimeError: the pipeline is closed.
        """

    def refresh(self) -> None:  # noqa: B027 - most kinds sample inside next_batch() alone
        """Wait until nothing samples in the background; an error of that sampling is raised here.

        Call it before the replay buffer's ``hold``, ``release``, ``state_dict`` and ``load_state_dict``.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to get the same batches, beside the replay buffer's own state.

        Take the replay buffer's ``state_dict`` after this one.
        """
        self._check_open()
        return {"kind": self.KIND}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the replay buffer's own state has been loaded before.

        Raises:
            ValueError: it is the state of another kind of pipeline or of another batch shape.
        """
        self._check_open()
        if state.get("kind") != self.KIND:
            raise ValueError(
                f"replay pipeline: this is the state of kind '{state.get('kind')}', not '{self.KIND}'; resume with "
                f"pipeline '{state.get('kind')}', or go on with other batches by not loading it"
            )

    def close(self) -> None:
        """End what is under way, and the thread of a pipeline that has one; idempotent.

        Close it before the replay buffer. The batch that was handed out last stays readable.
        """
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(
                f"replay pipeline '{self.KIND}' was used after close(); close it when training has ended"
            )

"""What every replay pipeline is to the learner, and the checks that all of them share."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class ReplayPipeline(Protocol):
    """Batches of sampled transitions on the learner's device; belongs to one thread, the learner's.

    ::

        with contextlib.closing(build_pipeline("auto", replay, batch_size, device)) as pipeline:
            while training:
                pipeline.refresh()              # nothing samples from the replay buffer after this ...
                replay.hold(lead_rows)          # ... until next_batch(), so every batch's window is known
                for _ in range(updates):
                    update(pipeline.next_batch())

    Repeatable: with one seed of the replay buffer and ``hold()`` as above, the batches do not depend on timing.
    """

    def next_batch(self) -> dict[str, Tensor]:
        """The next batch: the replay buffer's fields, float32 [B, ...], valid until the next call of next_batch().

        On an accelerator the batch may be used on the stream that is current during this call, and it has been used
        by what is queued on the stream that is current during the next one. The host waits for neither.

        Raises:
            ReplayEmptyError: the replay buffer has no row that may be sampled.
            RuntimeError: the pipeline is closed.
        """
        ...

    def refresh(self) -> None:
        """Wait until nothing samples in the background; an error of that sampling is raised here.

        Call it before the replay buffer's ``hold``, ``release``, ``state_dict`` and ``load_state_dict``.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to get the same batches, beside the replay buffer's own state.

        Take the replay buffer's ``state_dict`` after this one.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the replay buffer's own state has been loaded before.

        Raises:
            ValueError: it is the state of another kind of pipeline or of another batch shape.
        """
        ...

    def close(self) -> None:
        """End what is under way, and the thread of a pipeline that has one; idempotent.

        Close it before the replay buffer. The batch that was handed out last stays readable.
        """
        ...


def check_batch_size(batch_size: int) -> int:
    """``batch_size`` itself when it is at least 1; else ValueError."""
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1 transition a batch, got {batch_size}")
    return batch_size


def closed_error(kind: str) -> RuntimeError:
    """What a pipeline raises when it is used after close()."""
    return RuntimeError(f"replay pipeline '{kind}' was used after close(); close it when training has ended")


def check_kind(state: Mapping[str, Any], kind: str) -> None:
    """Raise ValueError unless ``state`` was taken from a pipeline of this kind."""
    if state.get("kind") != kind:
        raise ValueError(
            f"replay pipeline: this is the state of kind '{state.get('kind')}', not '{kind}'; resume with pipeline "
            f"'{state.get('kind')}', or go on with other batches by not loading it"
        )

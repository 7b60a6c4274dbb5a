"""What workers need of a replay buffer."""

from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from unilab.distributed.rollout_buffer import RolloutBuffer


@runtime_checkable
class TransitionBuffer(Protocol):
    """A buffer of single transitions; ``unilab.ipc.ReplayBuffer`` is one, with the meaning of the arguments."""

    @property
    def capacity(self) -> int: ...
    def __len__(self) -> int: ...
    def add(
        self,
        obs: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_obs: np.ndarray,
        dones: np.ndarray,
        truncated: np.ndarray,
        *,
        critic: np.ndarray | None = None,
        next_critic: np.ndarray | None = None,
    ) -> None: ...
    def sample(self, batch_size: int) -> dict[str, Tensor]: ...


def checked_buffer(
    buffer: TransitionBuffer | RolloutBuffer, split: bool, batch_size: int
) -> TransitionBuffer | RolloutBuffer:
    """The buffer itself.

    Raises:
        TypeError: it is not of the kind that ``split`` needs.
        ValueError: it cannot hold a batch.
    """
    wanted: type = TransitionBuffer if split else RolloutBuffer
    if not isinstance(buffer, wanted):
        kind = "of transitions, such as unilab.ipc.ReplayBuffer" if split else "unilab.distributed.RolloutBuffer"
        raise TypeError(
            f"replay_buffer is a {type(buffer).__name__}; with split_rollouts_into_transitions={split} it must be a "
            f"buffer {kind}"
        )
    if batch_size > buffer.capacity:
        raise ValueError(
            f"batch_size is {batch_size}, and the replay buffer holds at most {buffer.capacity} entries: make it "
            "larger, or the batch smaller"
        )
    return buffer

"""What workers fill: a buffer of transitions, as a protocol, or one of whole rollouts, which keep their order."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unilab.distributed.rollout import Rollout


class NotEnoughEntriesError(RuntimeError):
    """A batch was asked for that is larger than what the buffer holds."""


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


class RolloutBuffer:
    """The last ``capacity`` sequences of T steps; random batches of them. It belongs to one process.

    A rollout of N rows is N sequences, each of the T steps that one row made.

    Args:
        capacity: sequences that it holds.
        seed: of the batches.

    Raises:
        ValueError: the capacity is not positive.
    """

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"RolloutBuffer: capacity is {capacity}; it must be positive")
        self._capacity = capacity
        self._random = np.random.default_rng(seed)
        self._arrays: dict[str, np.ndarray] = {}
        self._written = 0

    @property
    def capacity(self) -> int:
        """Sequences that it holds at most."""
        return self._capacity

    def __len__(self) -> int:
        """Sequences that it holds."""
        return min(self._written, self._capacity)

    def add_rollout(self, rollout: Rollout) -> None:
        """Copy its N sequences; the oldest ones go. Of more than ``capacity`` the last ones stay.

        Raises:
            ValueError: its steps are not of the kind that the buffer holds; nothing is added then.
        """
        version = np.full((rollout.num_steps, rollout.num_envs), rollout.policy_version, np.int64)
        fields = {**rollout.steps, "policy_version": version}
        if not self._arrays:
            shapes = {name: (len(array), self._capacity, *array.shape[2:]) for name, array in fields.items()}
            self._arrays = {name: np.zeros(shape, fields[name].dtype) for name, shape in shapes.items()}
        for name in self._arrays.keys() | fields.keys():
            mine, theirs = [a[name][:, 0].shape if name in a else None for a in (self._arrays, fields)]
            if mine != theirs:
                raise ValueError(
                    f"RolloutBuffer.add_rollout: {name} of one sequence is {theirs}, the buffer holds {mine}; use one "
                    "buffer for each kind of environment and length of rollout"
                )
        skipped = max(0, rollout.num_envs - self._capacity)
        at = (self._written + skipped + np.arange(rollout.num_envs - skipped)) % self._capacity
        for name, array in fields.items():
            self._arrays[name][:, at] = array[:, skipped:]
        self._written += rollout.num_envs

    def sample(self, batch_size: int) -> dict[str, Tensor]:
        """B different sequences, each set of them equally likely: name to tensor [T, B, ...] of its own.

        The names are those of ``Rollout.steps``, all float32, flags 0 or 1; and policy_version [T, B], int64.

        Raises:
            NotEnoughEntriesError: it holds fewer than ``batch_size``.
            ValueError: ``batch_size`` is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"RolloutBuffer.sample: batch_size is {batch_size}; it must be positive")
        if batch_size > len(self):
            raise NotEnoughEntriesError(
                f"RolloutBuffer.sample: a batch of {batch_size} sequences was asked for, and it holds {len(self)}: add "
                "more rollouts first"
            )
        chosen = self._random.choice(len(self), batch_size, replace=False)
        batch = {name: torch.from_numpy(np.take(array, chosen, axis=1)) for name, array in self._arrays.items()}
        return {name: value.float() if value.dtype == torch.bool else value for name, value in batch.items()}

"""Whole rollouts for learners that need their order, such as V-trace or a recurrent policy."""

import numpy as np
import torch
from torch import Tensor

from unilab.distributed.errors import NotEnoughEntriesError
from unilab.distributed.rollout import Rollout


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
            self._arrays = {name: self._allocate(array) for name, array in fields.items()}
        self._check(fields)
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

    def _allocate(self, array: np.ndarray) -> np.ndarray:
        steps, _, *widths = array.shape
        return np.zeros((steps, self._capacity, *widths), array.dtype)

    def _check(self, fields: dict[str, np.ndarray]) -> None:
        for name in self._arrays.keys() | fields.keys():
            mine, theirs = [a[name][:, 0].shape if name in a else None for a in (self._arrays, fields)]
            if mine != theirs:
                raise ValueError(
                    f"RolloutBuffer.add_rollout: {name} of one sequence is {theirs}, the buffer holds {mine}; use one "
                    "buffer for each kind of environment and length of rollout"
                )

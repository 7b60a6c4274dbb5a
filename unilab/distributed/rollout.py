"""What one worker made in a number of steps, and how it is split into transitions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unilab.envs import VecEnv
from unilab.ipc.rollout_ring_buffer import FieldSpec

_HEADER = 5
"""numbers that say whose rollout it is: worker, incarnation, sequence, episodes that ended, nanoseconds it took"""
METRICS_BYTES = 4096
"""room for the environment's metrics, as JSON and then spaces; the last ones are left out where it is not enough"""


@dataclass(frozen=True)
class RolloutLayout:
    """Sizes of the rollouts of one kind of environment: T steps of N rows."""

    num_steps: int
    num_envs: int
    obs_dim: int
    action_dim: int
    critic_dim: int = 0
    """0: no privileged observation"""

    @classmethod
    def of(cls, env: VecEnv, num_steps: int) -> "RolloutLayout":
        """The layout of rollouts of so many steps in this environment."""
        return cls(num_steps, env.num_envs, env.obs_dim, env.action_dim, env.critic_dim)

    def fields(self) -> dict[str, FieldSpec]:
        """All arrays of a rollout as it is written, name to shape and dtype: of every step, [T, N, ...]; and of the
        episodes, of which as many are used as ended."""
        grid, most = (self.num_steps, self.num_envs), self.num_steps * self.num_envs
        widths = {"obs": self.obs_dim, "actions": self.action_dim, "next_obs": self.obs_dim}
        if self.critic_dim:
            widths |= {"critic": self.critic_dim, "next_critic": self.critic_dim}
        fields: dict[str, FieldSpec] = {name: ((*grid, width), np.float32) for name, width in widths.items()}
        fields |= dict.fromkeys(("dones", "truncated", "faulty"), (grid, np.bool_))
        fields |= {"rewards": (grid, np.float32), "header": ((_HEADER,), np.int64), "episodes": ((most, 2), np.float64)}
        return fields | {"metrics": ((METRICS_BYTES,), np.uint8)}

    def allocate(self) -> dict[str, np.ndarray]:
        """New arrays, their contents undefined."""
        return {name: np.empty(shape, dtype) for name, (shape, dtype) in self.fields().items()}


@dataclass(frozen=True, eq=False)
class Rollout:
    """T steps of the N rows of one worker's environment, made with one version of the policy.

    It goes on where the same worker's last one ended, across the ends of episodes.
    """

    steps: dict[str, np.ndarray]
    """[T, N, ...] by name.

    obs, next_obs [T, N, O], actions [T, N, A], rewards [T, N], and with a privileged observation critic, next_critic
    [T, N, C]: float32; next_obs is the true final observation where an episode ended. dones, truncated, faulty [T, N]:
    bool; where an episode ended, where it ended by a time limit alone, where the step failed numerically (a terminated
    step with reward 0)."""
    episodes: NDArray[np.float64]
    """[K, 2] return and length of each episode that ended, in the order of their ends"""
    policy_version: int
    """version of the weights that acted: the number of the broadcast; 0: the policy's first weights"""
    worker: int
    """0 to n_workers - 1"""
    incarnation: int
    """how often the worker was restarted before it made this"""
    sequence: int
    """rollouts that this incarnation had made before"""
    seconds: float
    """of wall time that the worker took for it"""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """the environment's own numbers: terms of the reward and the like, means over these steps"""

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], policy_version: int) -> "Rollout":
        """The rollout that lies in arrays of ``RolloutLayout.fields``; it views them."""
        worker, incarnation, sequence, ended, nanoseconds = arrays["header"].tolist()
        steps = {name: array for name, array in arrays.items() if name not in ("header", "episodes", "metrics")}
        return cls(
            steps, arrays["episodes"][:ended], policy_version, worker, incarnation, sequence,
            seconds=1e-9 * nanoseconds, metrics=json.loads(arrays["metrics"].tobytes()),
        )  # fmt: skip

    @property
    def num_steps(self) -> int:
        """T"""
        return self.steps["rewards"].shape[0]

    @property
    def num_envs(self) -> int:
        """N"""
        return self.steps["rewards"].shape[1]

    @property
    def env_steps(self) -> int:
        """T N"""
        return self.steps["rewards"].size

    @property
    def faults(self) -> int:
        """Steps that failed numerically."""
        return int(np.count_nonzero(self.steps["faulty"]))

    def transitions(self) -> dict[str, Any]:
        """Arguments of ``ReplayBuffer.add``: B <= T N transitions, step by step and in each step row by row.

        Steps that failed numerically are left out.
        """
        flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in self.steps.items()}
        faulty = flat.pop("faulty")
        if not faulty.any():
            return flat
        kept = ~faulty
        return {name: array[kept] for name, array in flat.items()}

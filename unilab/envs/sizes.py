"""The widths of an environment's vectors and the bytes that it takes, for the memory budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from unilab.envs.mujoco_env import MujocoVecEnv
from unilab.envs.registry import make
from unilab.envs.vec_env import EnvDims
from unilab.ipc.memory_budget import HOST, BudgetItem

_EPISODE = 40
"""bytes of each environment's running episode"""


@dataclass(frozen=True)
class EnvSizes:
    """What a budget needs of an environment."""

    dims: EnvDims
    """widths of its vectors"""
    model_bytes: int = 0
    """once for all environments"""
    thread_bytes: int = 0
    """for each physics thread"""
    row_bytes: int = 0
    """for each environment, the step's buffers included"""

    def items(self, num_envs: int, threads: int) -> list[BudgetItem]:
        """So many environments, stepped by so many threads."""
        rows = num_envs * (self.row_bytes + _EPISODE)
        return [
            BudgetItem("physics model", HOST, self.model_bytes, "the environment's and the batch's"),
            BudgetItem("physics data", HOST, threads * self.thread_bytes, f"physics threads: {threads}"),
            BudgetItem("environments", HOST, rows, f"states and buffers, {self.row_bytes:,} bytes each"),
        ]


def env_sizes(env: str, env_cfg: Mapping[str, Any] | None = None, sim_backend: str = "mujoco") -> EnvSizes:
    """The sizes of an environment, from instances of a few rows that are closed again. Takes well under a second.

    Raises:
        ValueError: no such environment.
        SettingsError: an impossible setting of the environment.
    """
    with make(env, 1, sim_backend, env_cfg, seed=0, num_threads=1) as one:
        # observations now, before and final, and one in double precision on its way; rewards, flags and counters
        buffers = 4 * (5 * (one.obs_dim + one.critic_dim) + 3 * one.action_dim) + 64
        if isinstance(one, MujocoVecEnv):
            one.reset()
            model, thread, row = one.bytes_taken()
        else:
            model, thread, row = 0, 0, _measured_row_bytes(env, env_cfg, sim_backend)
        return EnvSizes(one.dims, model, thread, row + buffers)


def _measured_row_bytes(env: str, env_cfg: Mapping[str, Any] | None, sim_backend: str, rows: int = 16) -> int:
    """Growth of this process by an environment that does not say what it takes."""
    process = psutil.Process()
    before = process.memory_info().rss
    with make(env, rows, sim_backend, env_cfg, seed=0, num_threads=1) as many:
        many.reset()
        many.step(np.zeros((rows, many.action_dim), np.float32))
        return max(0, process.memory_info().rss - before) // rows

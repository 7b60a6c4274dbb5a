"""HalfCheetah: run forward in the plane with six joints. Semantics of gymnasium's HalfCheetah-v5."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import Finite, MujocoSettings, MujocoVecEnv, Rows
from unilab.envs.vec_env import FloatArray


@dataclass(frozen=True)
class HalfCheetahSettings(MujocoSettings):
    """Defaults of HalfCheetah-v5."""

    forward_reward_weight: Finite = 1.0
    """reward for each metre per second"""
    ctrl_cost_weight: Finite = 0.1
    """cost of the sum of squared actions"""
    exclude_current_positions_from_observation: bool = True
    """leave x out of the observation"""


class HalfCheetah(MujocoVecEnv):
    """Observation [N, 17]: positions without x, velocities. Never terminates."""

    model_file = "half_cheetah.xml"
    settings_class = HalfCheetahSettings
    settings: HalfCheetahSettings

    def observation_size(self) -> int:
        return self.model.nq + self.model.nv - int(self.settings.exclude_current_positions_from_observation)

    def observe(self, rows: Rows, out: FloatArray) -> None:
        first = int(self.settings.exclude_current_positions_from_observation)
        np.concatenate((self.qpos[rows, first:], self.qvel[rows]), axis=1, out=out)

    def evaluate(self, actions: FloatArray, reward: FloatArray, terminated: NDArray[np.bool_]) -> None:
        x_velocity = (self.qpos[:, 0] - self.qpos_before[:, 0]) / self.dt
        forward = self.settings.forward_reward_weight * x_velocity
        np.subtract(forward, self.settings.ctrl_cost_weight * self.action_cost(actions), out=reward)
        terminated.fill(False)

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        qpos = self.init_qpos + self.uniform_noise(count, self.model.nq)
        qvel = self.init_qvel + self.normal_noise(count, self.model.nv)
        return qpos, qvel

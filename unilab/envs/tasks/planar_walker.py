"""What Hopper and Walker2d share: walk forward in the plane while the torso stays upright."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import Finite, MujocoSettings, MujocoVecEnv, NonNegative, PositiveInt, Rows
from unilab.envs.vec_env import FloatArray

MAX_OBSERVED_SPEED = 10.0


@dataclass(frozen=True)
class PlanarWalkerSettings(MujocoSettings):
    """Defaults that Hopper-v5 and Walker2d-v5 have in common."""

    frame_skip: PositiveInt = 4
    reset_noise_scale: NonNegative = 5e-3
    forward_reward_weight: Finite = 1.0
    """reward for each metre per second"""
    ctrl_cost_weight: Finite = 1e-3
    """cost of the sum of squared actions"""
    healthy_reward: Finite = 1.0
    """for each env step that ends healthy"""
    terminate_when_unhealthy: bool = True
    exclude_current_positions_from_observation: bool = True
    """leave x out of the observation"""


class PlanarWalker(MujocoVecEnv):
    """Observation [N, O]: positions without x, velocities clipped to -10 .. 10. Terminates when unhealthy."""

    settings: PlanarWalkerSettings

    @abstractmethod
    def healthy(self) -> NDArray[np.bool_]:
        """[N] whether the state is within the healthy ranges."""

    def observation_size(self) -> int:
        return self.model.nq + self.model.nv - int(self.settings.exclude_current_positions_from_observation)

    def observe(self, rows: Rows, out: FloatArray) -> None:
        first = int(self.settings.exclude_current_positions_from_observation)
        positions = self.model.nq - first
        out[:, :positions] = self.qpos[rows, first:]
        speeds = out[:, positions:]
        np.clip(self.qvel[rows], -MAX_OBSERVED_SPEED, MAX_OBSERVED_SPEED, out=speeds)

    def evaluate(self, actions: FloatArray, reward: FloatArray, terminated: NDArray[np.bool_]) -> None:
        healthy = self.healthy()
        x_velocity = (self.qpos[:, 0] - self.qpos_before[:, 0]) / self.dt
        gain = self.settings.forward_reward_weight * x_velocity + self.settings.healthy_reward * healthy
        np.subtract(gain, self.settings.ctrl_cost_weight * self.action_cost(actions), out=reward)
        np.logical_and(~healthy, self.settings.terminate_when_unhealthy, out=terminated)

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        qpos = self.init_qpos + self.uniform_noise(count, self.model.nq)
        qvel = self.init_qvel + self.uniform_noise(count, self.model.nv)
        return qpos, qvel


def within(values: np.ndarray, bounds: tuple[float, float]) -> NDArray[np.bool_]:
    """Elementwise, both bounds exclusive; False for NaN."""
    return (bounds[0] < values) & (values < bounds[1])

"""A small environment of a user's own: a cart to be held at the origin, with a privileged observation."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import MujocoSettings, MujocoVecEnv, Rows
from unilab.envs.vec_env import FloatArray

XML = """
<mujoco>
  <worldbody><body><joint name="x" type="slide" axis="1 0 0"/><geom size=".1" mass="1"/></body></worldbody>
  <actuator><motor joint="x" gear="10"/></actuator>
</mujoco>
"""


@dataclass(frozen=True)
class CartSettings(MujocoSettings):
    frame_skip: int = 2
    sour_above: float = 1e9
    """positions beyond it give a NaN reward"""
    blind_above: float = 1e9
    """positions beyond it are observed as infinite"""


class Cart(MujocoVecEnv):
    settings_class = CartSettings
    settings: CartSettings

    def load_model(self) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_string(XML)

    def observation_size(self) -> int:
        return 1

    def critic_size(self) -> int:
        return 2

    def observe(self, rows: Rows, out: FloatArray) -> None:
        position = self.qpos[rows]
        out[:] = np.where(position > self.settings.blind_above, np.inf, position)

    def observe_critic(self, rows: Rows, out: FloatArray) -> None:
        out[:, :1], out[:, 1:] = self.qpos[rows], self.qvel[rows]

    def evaluate(self, actions: FloatArray, reward: FloatArray, terminated: NDArray[np.bool_]) -> None:
        position = self.qpos[:, 0]
        reward[:] = np.where(position > self.settings.sour_above, np.nan, -np.abs(position))
        np.greater(np.abs(position), 5, out=terminated)

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        return self.uniform_noise(count, 1), self.normal_noise(count, 1)


class Countdown(gymnasium.Env[np.ndarray, np.ndarray]):
    """A gymnasium environment that ends by itself: observes a start drawn at random minus the steps made."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, steps: int = 4, truncate: bool = False, break_at: int | None = None) -> None:
        self.steps, self.truncate, self.break_at = steps, truncate, break_at

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left, self.start = self.steps, self.np_random.uniform(10, 20)
        return np.array([self.start], dtype=np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        if self.left == self.break_at:
            raise ZeroDivisionError("broken on purpose")
        end = self.left == 0
        obs = np.array([self.start - (self.steps - self.left)], dtype=np.float32)
        return obs, float(action[0]), end and not self.truncate, end and self.truncate, {}


NOT_AN_ENVIRONMENT = 3

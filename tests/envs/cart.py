"""A small environment of a user's own: a cart to be held at the origin, with a privileged observation."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np

from unilab.envs.mujoco_env import Array, MujocoSettings, MujocoVecEnv, State

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

    def observe(self, state: State) -> Array:
        return state.xp.where(state.qpos > self.settings.blind_above, np.inf, state.qpos)

    def observe_critic(self, state: State) -> Array:
        return state.xp.concat([state.qpos, state.qvel], axis=1)

    def evaluate(self, before: State, actions: Array, state: State) -> tuple[Array, Array]:
        position = state.qpos[:, 0]
        reward = state.xp.where(position > self.settings.sour_above, np.nan, -abs(position))
        return reward, abs(position) > 5

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

"""Pusher: push a cylinder to a goal with an arm of seven joints. Semantics of gymnasium's Pusher-v5."""

from dataclasses import dataclass

import numpy as np

from unilab.envs.mujoco_env import (
    Array,
    Finite,
    MujocoSettings,
    MujocoVecEnv,
    NonNegative,
    PositiveInt,
    State,
    accepted,
)

JOINTS = 7
NEAREST = 0.17
"""metres from the goal that the cylinder starts at least"""


@dataclass(frozen=True)
class PusherSettings(MujocoSettings):
    """Defaults of Pusher-v5."""

    max_episode_steps: PositiveInt | None = 100
    reset_noise_scale: NonNegative = 0.005
    reward_near_weight: Finite = 0.5
    """cost of each metre between the arm's tip and the cylinder"""
    reward_dist_weight: Finite = 1.0
    """cost of each metre between cylinder and goal"""
    reward_control_weight: Finite = 0.1
    """cost of the sum of squared actions"""


@dataclass(frozen=True)
class PusherState(State):
    """What Pusher needs beside positions and velocities."""

    xpos: Array
    """[N, bodies, 3] where the bodies are, one physics step behind ``qpos``"""


class Pusher(MujocoVecEnv):
    """Observation [N, 23]: angles and velocities of the joints, where the arm's tip, the cylinder and the goal are.

    ``reset_noise_scale`` is that of the joints' velocities. Never terminates.
    """

    model_file = "pusher_v5.xml"
    settings_class = PusherSettings
    settings: PusherSettings

    def bind_state(self) -> PusherState:
        self._tip, self._cylinder, self._goal = (self.model.body(name).id for name in ("tips_arm", "object", "goal"))
        return PusherState(self.qpos, self.qvel, self.batch.bind("xpos"))

    def observe(self, state: PusherState) -> Array:
        places = [state.xpos[:, body] for body in (self._tip, self._cylinder, self._goal)]
        return state.xp.concat([state.qpos[:, :JOINTS], state.qvel[:, :JOINTS], *places], axis=1)

    def evaluate(self, before: PusherState, actions: Array, state: PusherState) -> tuple[Array, Array]:
        settings, cylinder = self.settings, state.xpos[:, self._cylinder]
        near = ((cylinder - state.xpos[:, self._tip]) ** 2).sum(axis=1) ** 0.5
        far = ((cylinder - state.xpos[:, self._goal]) ** 2).sum(axis=1) ** 0.5
        cost = settings.reward_near_weight * near + settings.reward_dist_weight * far
        return -cost - settings.reward_control_weight * self.action_cost(actions), False

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        qpos = np.tile(self.init_qpos, (count, 1))
        # the goal's slides are at 0, so that the cylinder's are its place as seen from the goal
        qpos[:, -4:-2] = accepted(
            lambda size: self.rng.uniform((-0.3, -0.2), (0.0, 0.2), (size, 2)),
            lambda place: np.linalg.norm(place, axis=1) > NEAREST,
            count,
        )
        qpos[:, -2:] = 0
        qvel = self.init_qvel + self.uniform_noise(count, self.model.nv)
        qvel[:, -4:] = 0
        return qpos, qvel

"""Reacher: bring the tip of an arm of two links to a target. Semantics of gymnasium's Reacher-v5."""

from dataclasses import dataclass

import numpy as np

from unilab.envs.mujoco_env import Array, Finite, MujocoSettings, MujocoVecEnv, PositiveInt, State, accepted

TARGET_RADIUS = 0.2
"""metres; targets lie within"""
INITIAL_SPEED = 0.005
"""radians per second at most, of the arm's joints"""


@dataclass(frozen=True)
class ReacherSettings(MujocoSettings):
    """Defaults of Reacher-v5."""

    frame_skip: PositiveInt = 2
    max_episode_steps: PositiveInt | None = 50
    reward_dist_weight: Finite = 1.0
    """cost of each metre between tip and target"""
    reward_control_weight: Finite = 1.0
    """cost of the sum of squared actions"""


@dataclass(frozen=True)
class ReacherState(State):
    """What Reacher needs beside positions and velocities."""

    xpos: Array
    """[N, bodies, 3] where the bodies are, one physics step behind ``qpos``"""


class Reacher(MujocoVecEnv):
    """Observation [N, 10]: cosines and sines of the joints, target, joint velocities, tip minus target.

    ``reset_noise_scale`` is that of the joints' angles. Never terminates.
    """

    model_file = "reacher.xml"
    settings_class = ReacherSettings
    settings: ReacherSettings

    def bind_state(self) -> ReacherState:
        self._tip, self._target = self.model.body("fingertip").id, self.model.body("target").id
        return ReacherState(self.qpos, self.qvel, self.batch.bind("xpos"))

    def observe(self, state: ReacherState) -> Array:
        xp, angles = state.xp, state.qpos[:, :2]
        away = state.xpos[:, self._tip, :2] - state.xpos[:, self._target, :2]
        return xp.concat([xp.cos(angles), xp.sin(angles), state.qpos[:, 2:], state.qvel[:, :2], away], axis=1)

    def evaluate(self, before: ReacherState, actions: Array, state: ReacherState) -> tuple[Array, Array]:
        away = state.xpos[:, self._tip] - state.xpos[:, self._target]
        distance = (away**2).sum(axis=1) ** 0.5
        cost = self.settings.reward_control_weight * self.action_cost(actions)
        return -self.settings.reward_dist_weight * distance - cost, False

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        qpos = self.init_qpos + self.uniform_noise(count, self.model.nq)
        square = (-TARGET_RADIUS, TARGET_RADIUS)
        qpos[:, 2:] = accepted(
            lambda size: self.rng.uniform(*square, (size, 2)),
            lambda target: np.linalg.norm(target, axis=1) < TARGET_RADIUS,
            count,
        )
        qvel = np.tile(self.init_qvel, (count, 1))
        qvel[:, :2] += self.rng.uniform(-INITIAL_SPEED, INITIAL_SPEED, (count, 2))
        qvel[:, 2:] = 0
        return qpos, qvel

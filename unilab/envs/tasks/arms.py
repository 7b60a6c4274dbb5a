"""Arms that reach for a target and push a cylinder to a goal. Semantics of gymnasium's Reacher-v5 and Pusher-v5."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unilab.envs.mujoco_env import Array, Finite, MujocoSettings, MujocoVecEnv, NonNegative, PositiveInt, State

TARGET_RADIUS = 0.2
"""metres; Reacher's targets lie within"""
INITIAL_SPEED = 0.005
"""radians per second at most, of the joints of Reacher"""
PUSHER_JOINTS = 7
NEAREST = 0.17
"""metres from the goal that Pusher's cylinder starts at least"""


@dataclass(frozen=True)
class ArmSettings(MujocoSettings):
    """Settings that all of them have."""

    reward_dist_weight: Finite = 1.0
    """cost of each metre: of Reacher between tip and target, of Pusher between cylinder and goal"""
    reward_control_weight: Finite = 1.0
    """cost of the sum of squared actions"""


@dataclass(frozen=True)
class ArmState(State):
    """What an arm needs beside positions and velocities."""

    xpos: Array
    """[N, bodies, 3] where the bodies are, one physics step behind ``qpos``"""


class Arm(MujocoVecEnv):
    """Never terminates."""

    def bind_state(self) -> ArmState:
        self._bodies = {self.model.body(i).name: i for i in range(self.model.nbody)}
        return ArmState(self.qpos, self.qvel, self.batch.bind("xpos"))

    def place(self, state: ArmState, body: str) -> Array:
        """[N, 3] where the body of this name is."""
        return state.xpos[:, self._bodies[body]]


@dataclass(frozen=True)
class ReacherSettings(ArmSettings):
    """Defaults of Reacher-v5."""

    frame_skip: PositiveInt = 2
    max_episode_steps: PositiveInt | None = 50


class Reacher(Arm):
    """Observation [N, 10]: cosines and sines of the joints, target, joint velocities, tip minus target.

    ``reset_noise_scale`` is that of the joints' angles.
    """

    model_file = "reacher.xml"
    settings_class = ReacherSettings
    settings: ReacherSettings

    def observe(self, state: ArmState) -> Array:
        xp, angles = state.xp, state.qpos[:, :2]
        away = self.place(state, "fingertip") - self.place(state, "target")
        return xp.concat([xp.cos(angles), xp.sin(angles), state.qpos[:, 2:], state.qvel[:, :2], away[:, :2]], axis=1)

    def evaluate(self, before: ArmState, actions: Array, state: ArmState) -> tuple[Array, Array]:
        distance = length(self.place(state, "fingertip") - self.place(state, "target"))
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


@dataclass(frozen=True)
class PusherSettings(ArmSettings):
    """Defaults of Pusher-v5."""

    max_episode_steps: PositiveInt | None = 100
    reset_noise_scale: NonNegative = 0.005
    reward_near_weight: Finite = 0.5
    """cost of each metre between the arm's tip and the cylinder"""
    reward_control_weight: Finite = 0.1


class Pusher(Arm):
    """Observation [N, 23]: angles and velocities of the joints, where the arm's tip, the cylinder and the goal are.

    ``reset_noise_scale`` is that of the joints' velocities.
    """

    model_file = "pusher_v5.xml"
    settings_class = PusherSettings
    settings: PusherSettings

    def observe(self, state: ArmState) -> Array:
        places = [self.place(state, body) for body in ("tips_arm", "object", "goal")]
        return state.xp.concat([state.qpos[:, :PUSHER_JOINTS], state.qvel[:, :PUSHER_JOINTS], *places], axis=1)

    def evaluate(self, before: ArmState, actions: Array, state: ArmState) -> tuple[Array, Array]:
        settings, cylinder = self.settings, self.place(state, "object")
        cost = settings.reward_near_weight * length(cylinder - self.place(state, "tips_arm"))
        cost = cost + settings.reward_dist_weight * length(cylinder - self.place(state, "goal"))
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


def length(vectors: Array) -> Array:
    """[N] of ``vectors`` [N, 3]."""
    return (vectors**2).sum(axis=1) ** 0.5


def accepted(draw: Callable[[int], np.ndarray], accept: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """``count`` rows that ``draw(size)`` gives and ``accept(rows)`` takes: rejection sampling."""
    rows = draw(count)
    while (wrong := ~accept(rows)).any():
        rows[wrong] = draw(int(wrong.sum()))
    return rows

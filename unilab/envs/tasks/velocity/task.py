"""Velocity: a robot on legs follows commanded velocities, forward, sideways and turning.

The real robot has what the policy observes: gyro, direction of gravity, joint angles and velocities. The critic sees
more. A gait clock makes the legs step on the spot about the default pose. Actions are offsets of the joints' targets
from these steps, in units of ``action_scale``.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unilab.envs.mujoco_env import (
    Array,
    FiniteBounds,
    MujocoSettings,
    MujocoVecEnv,
    NonNegative,
    Positive,
    PositiveInt,
    State,
)
from unilab.envs.rendering.marks import arrow, label
from unilab.envs.robots.robot import Robot, by_joint
from unilab.envs.tasks.velocity.evaluation import follow
from unilab.envs.tasks.velocity.randomization import NOISE, Draws, Randomization
from unilab.envs.tasks.velocity.rewards import GAIT_WIDTH, TARGET_AIR_TIME, TRACKING_WIDTH, RewardWeights
from unilab.envs.tasks.velocity.rotation import down_in_body, in_body
from unilab.envs.tasks.velocity.scene import (
    GROUND,
    TRUNK_POSITIONS,
    TRUNK_VELOCITIES,
    Contacts,
    build,
    feet,
    foot_joints,
    standing,
)
from unilab.envs.tasks.velocity.terrain import PERIOD, Ground, Terrain, periods
from unilab.envs.vec_env import FloatArray

MOST_TILT = math.cos(math.radians(60))
"""cosine of the tilt beyond which a robot has fallen"""
SOFT_LIMIT = 0.95
"""part of a joint's range that it may use without a cost"""
COMMAND_COLOUR, VELOCITY_COLOUR = (0.1, 0.3, 1.0, 1.0), (0.1, 0.8, 0.2, 1.0)
LEAST_COMMAND = 0.05
"""a command below it, in m/s and rad/s together, is to stand still"""


@dataclass(frozen=True)
class VelocitySettings(MujocoSettings):
    """Commands, actions, reward and contacts."""

    max_episode_steps: PositiveInt | None = 1000
    forward: FiniteBounds = (-1.0, 1.0)
    """commanded velocities forward, in m/s"""
    sideways: FiniteBounds = (-0.5, 0.5)
    """to the left, in m/s"""
    turn: FiniteBounds = (-1.0, 1.0)
    """to the left, in rad/s"""
    standing_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """of the commands, that are to stand still"""
    command_seconds: Positive = 5.0
    """after which there is a new command"""
    curriculum_steps: Annotated[int, Field(ge=0)] = 0
    """env steps of each environment over which commands grow to their full size; 0: they have it from the start"""
    curriculum_start: Annotated[float, Field(gt=0, le=1)] = 0.3
    """size of the first commands, as a part of the full one"""
    action_scale: Positive = 0.25
    """radians of a joint's target for an action of 1"""
    action_bound: Positive = 3.0
    """actions are within plus and minus this"""
    swing_height: NonNegative = 0.08
    """metres to which the gait lifts a foot"""
    stepping: NonNegative = 1.0
    """size of the steps on the spot that actions are offsets to, as a part of the robot's own (Iscen et al. 2018,
    arXiv:1910.02812, call it a trajectory generator); 0: of a pose that stands still"""
    contacts: Contacts = "feet"
    """what touches the ground: feet alone, or everything that does in the robot's model"""
    terrain: Terrain = "flat"
    """the ground: flat, with bumps, or stairs up and down"""
    terrain_height: Positive = 0.05
    """metres of the highest bump, or of each step"""
    history: PositiveInt = 1
    """observations that the policy sees at once: the present one and those of the steps before"""
    friction: NonNegative = 0.6
    """of feet on the ground"""
    reward: RewardWeights = field(default_factory=RewardWeights)
    """weights of the reward's terms, for each second"""
    randomize: Randomization = field(default_factory=Randomization)
    """what differs between simulations"""
    judged_command: tuple[float, float, float] | None = None
    """forward, sideways and turn that a policy is judged by; null: commands that are drawn anew"""


@dataclass(frozen=True)
class VelocityState(State):
    """What the task knows beside positions and velocities."""

    command: Array
    """[N, 3] velocities to follow: forward, sideways, turn"""
    phase: Array
    """[N] in the gait cycle, 0 to 1"""
    action: Array
    """[N, A] the last one"""
    torque: Array
    """[N, A] of the actuators in the last physics step"""
    velocity: Array
    """[N, 3] of the trunk in its own frame"""
    down: Array
    """[N, 3] direction of gravity in the trunk's frame"""
    feet: Array
    """[N, F, 3] where the feet are, one physics step behind the positions"""
    contact: Array
    """[N, F] 1 where a foot touches the ground, else 0; likewise"""
    air_time: Array
    """[N, F] seconds since each foot was on the ground"""
    ground: Array
    """[N, 1 + F] height of the ground under the trunk and under each foot"""
    drawn: Array
    """[N, D] what was drawn for each simulation, see ``Draws``"""
    push: Array
    """[N, 2] velocity that a push added in this step; [N, 0]: nothing pushes"""
    noise: Array
    """[N, S] of the observation of one step; [N, 0]: there is none"""
    past: Array
    """[N, (history - 1) S] observations of the steps before, the newest first"""


class Velocity(MujocoVecEnv):
    """Observation [N, S = 11 + 3 A]: gyro, gravity, joints, joint velocities, last action, command, phase of the gait.

    With ``history`` it is [N, history S].
    """

    robot: ClassVar[Robot]
    settings_class = VelocitySettings
    settings: VelocitySettings
    state: VelocityState
    before: VelocityState

    def __init__(self, num_envs: int, *, num_threads: int | None = None, seed: int | None = None, **cfg: Any) -> None:
        super().__init__(num_envs, num_threads=num_threads, seed=seed, **cfg)
        self.init_qpos[:] = self._standing

    # The model.

    def load_model(self) -> mujoco.MjModel:
        settings = self.settings
        flat = model = build(self.robot, settings.contacts, settings.friction)
        self._ground: Ground | None = None
        if settings.terrain != "flat":
            self._ground = Ground(settings.terrain, settings.terrain_height)
            model = build(self.robot, settings.contacts, settings.friction, self._ground)
        self._feet, self._standing = feet(model), standing(flat, self.robot)
        self._sensors = np.arange(self._feet.size).reshape(self._feet.shape)
        self._pose = self._standing[TRUNK_POSITIONS:]
        self._reading_size = 11 + 3 * model.nu
        low, high = model.jnt_range[1:].T
        middle, half = (low + high) / 2, (high - low) / 2
        self._soft_limits = middle, SOFT_LIMIT * half
        data = mujoco.MjData(flat)
        data.qpos[:] = self._standing
        mujoco.mj_forward(flat, data)
        self._standing_height = data.geom_xpos[self._feet, 2].mean()
        self._gait = np.array(self.robot.gait)
        joints = [model.joint(i).name for i in range(1, model.njnt)]
        self._swing = self.settings.stepping * foot_joints(model) * by_joint(self.robot.swing, joints)
        return model

    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        bound = np.full(self.model.nu, self.settings.action_bound)
        return -bound, bound

    def apply_action(self, actions: Array) -> Array:
        state, push = self.state, self.settings.randomize
        state.action[:] = actions
        # Of each step alone, and drawn for all rows: no row's numbers depend on how many episodes of others began.
        self.carried["stream"][1] += 1
        self._step_rng = np.random.default_rng(self.carried["stream"])
        if push.push:
            due = self._due(push.push_seconds)
            state.push[:] = due[:, None] * self._step_rng.uniform(-push.push, push.push, (self.num_envs, 2))
            state.qvel[:, :2] += state.push
        if push.latency:
            sent = self.carried["sent"]
            sent[:, 1:] = sent[:, :-1]
            sent[:, 0] = actions
            actions = sent[np.arange(self.num_envs), state.drawn[:, -1].astype(np.int64)]
        lifted = self._wanted_heights(state, 1.0) * self._moving(state)[:, None]
        return self._pose + lifted @ self._swing + self.settings.action_scale * actions

    def _wanted_heights(self, state: VelocityState, height: float) -> Array:
        """[N, F] heights of the feet: up to ``height`` in the first half of each one's cycle, 0 in the second."""
        phases = state.phase[:, None] - self._like(state, self._gait)[None]
        return height * state.xp.clip(state.xp.sin(2 * math.pi * phases), 0, None)

    # Observation.

    def observe(self, state: VelocityState) -> Array:
        seen = self._noisy_reading(state)
        return seen if self.settings.history == 1 else state.xp.concat([seen, state.past], axis=1)

    def _noisy_reading(self, state: VelocityState) -> Array:
        """[N, S] what the robot's sensors say."""
        seen = self._reading(state)
        return seen + state.noise if self.settings.randomize.noise else seen

    def _reading(self, state: VelocityState) -> Array:
        """[N, S] what the robot's sensors would say if they were exact."""
        xp, moving = state.xp, self._moving(state)
        angle = 2 * math.pi * state.phase
        parts = [
            state.qvel[:, 3:TRUNK_VELOCITIES],
            state.down,
            state.qpos[:, TRUNK_POSITIONS:] - self._like(state, self._pose),
            state.qvel[:, TRUNK_VELOCITIES:],
            state.action,
            state.command,
            xp.stack([xp.cos(angle) * moving, xp.sin(angle) * moving], axis=1),
        ]
        return xp.concat(parts, axis=1)

    def observe_critic(self, state: VelocityState) -> Array:
        parts = [
            self._reading(state),
            state.velocity,
            state.qpos[:, 2:3] - state.ground[:, :1],
            state.contact,
            state.air_time,
            state.feet[:, :, 2] - state.ground[:, 1:],
            state.torque / 10,
            state.drawn,
            state.push,
        ]
        return state.xp.concat(parts, axis=1)

    # Reward and end.

    def evaluate(self, before: VelocityState, actions: Array, state: VelocityState) -> tuple[Array, Array]:
        fallen = self.fallen(state)
        return self.reward_terms(before, state, fallen), fallen

    def reward_terms(self, before: VelocityState, state: VelocityState, fallen: Array) -> dict[str, Array]:
        """What each term adds to the reward, [N] by its name."""
        xp, dt, weights = state.xp, self.dt, self.settings.reward
        joints, speeds = state.qpos[:, TRUNK_POSITIONS:], state.qvel[:, TRUNK_VELOCITIES:]
        offset = joints - self._like(state, self._pose)
        middle, half = (self._like(state, limit) for limit in self._soft_limits)
        moving = self._moving(before)
        landed = state.contact * (before.air_time > 0)
        foot_heights = state.feet[:, :, 2] - state.ground[:, 1:] - self._standing_height
        wanted_heights = self._wanted_heights(state, self.settings.swing_height) * moving[:, None]
        foot_velocity = (state.feet - before.feet) / dt

        def total(values: Array) -> Array:
            """[N] the sums of rows; along short ones ``sum`` takes twice as long."""
            return xp.einsum("nk->n", values)

        def dot(a: Array, b: Array) -> Array:
            """[N] the products of rows."""
            return xp.einsum("nk,nk->n", a, b)

        def squares(values: Array) -> Array:
            return dot(values, values)

        terms = {
            "track_velocity": lambda: xp.exp(-squares(before.command[:, :2] - state.velocity[:, :2]) / TRACKING_WIDTH),
            "track_turn": lambda: xp.exp(-((before.command[:, 2] - state.qvel[:, 5]) ** 2) / TRACKING_WIDTH),
            "gait": lambda: xp.exp(-squares(foot_heights - wanted_heights) / GAIT_WIDTH),
            "air_time": lambda: dot(before.air_time + (dt - TARGET_AIR_TIME), landed) * moving,
            "vertical_velocity": lambda: state.velocity[:, 2] ** 2,
            "roll_pitch_rate": lambda: squares(state.qvel[:, 3:5]),
            "tilt": lambda: squares(state.down[:, :2]),
            "pose": lambda: squares(offset),
            "stand_still": lambda: total(abs(offset)) * (1 - moving),
            "joint_limits": lambda: total(xp.clip(abs(joints - middle) - half, 0, None)),
            "torque": lambda: squares(state.torque) ** 0.5 + total(abs(state.torque)),
            "power": lambda: dot(abs(state.torque), abs(speeds)),
            "action_rate": lambda: squares(state.action - before.action),
            "slip": lambda: dot(foot_velocity[:, :, 0] ** 2 + foot_velocity[:, :, 1] ** 2, state.contact) * moving,
            "fall": lambda: fallen * 1.0 / dt,
        }
        return {name: weight * dt * term() for name, term in terms.items() if (weight := getattr(weights, name))}

    def fallen(self, state: VelocityState) -> Array:
        """[N] whether the trunk is on the ground or tilted by more than 60 degrees."""
        low = state.qpos[:, 2] - state.ground[:, 0] < self.robot.fallen_height
        return low | (state.down[:, 2] > -MOST_TILT)

    def figures(self) -> dict[str, float]:
        """Errors of the velocities, in m/s and rad/s, now; the mean over all rows."""
        state = self.state
        error = np.hypot(*(state.command[:, :2] - state.velocity[:, :2]).T)
        turn = abs(state.command[:, 2] - state.qvel[:, 5])
        return {"velocity_error": float(error.mean()), "turn_error": float(turn.mean())}

    def judge(self, policy: Callable[[FloatArray], FloatArray], episodes: int, seed: int) -> dict[str, float]:
        cfg = dataclasses.asdict(self.settings)
        outcome = follow(policy, type(self), episodes=episodes, seed=seed, num_threads=self.num_threads, **cfg)
        return dataclasses.asdict(outcome) | {"success": outcome.walks}

    # Elsewhere, and in pictures.

    def deployment(self) -> dict[str, Any]:
        joints = [self.model.joint(i).name for i in range(1, self.model.njnt)]
        settings = self.settings
        names = [
            *(f"gyro.{axis}" for axis in "xyz"),
            *(f"gravity.{axis}" for axis in "xyz"),
            *(f"{part}.{joint}" for part in ("position", "velocity", "action") for joint in joints),
            *(f"command.{name}" for name in ("forward", "sideways", "turn")),
            "phase.cos",
            "phase.sin",
        ]
        before = [f"{name}[-{steps}]" for steps in range(1, settings.history) for name in names]
        return super().deployment() | {
            "observation_names": names + before,
            "default_pose": self._pose.tolist(),
            "joint_low": self.model.jnt_range[1:, 0].tolist(),
            "joint_high": self.model.jnt_range[1:, 1].tolist(),
            "action_scale": [settings.action_scale] * len(joints),
            "kp": by_joint(self.robot.kp, joints).tolist(),
            "kd": by_joint(self.robot.kd, joints).tolist(),
            "feet": list(self.robot.feet),
            "gait": list(self.robot.gait),
            "gait_frequency": self.robot.gait_frequency,
            "swing": self._swing.tolist(),
        }

    def visible_model(self) -> mujoco.MjModel:
        return build(self.robot, self.settings.contacts, self.settings.friction, self._ground, visible=True)

    def annotate(self, scene: mujoco.MjvScene, row: int) -> None:
        """The commanded velocity as a blue arrow, the velocity as a green one, and both turn rates."""
        command, commanded = self.state.command[row], np.zeros(3)
        mujoco.mju_rotVecQuat(commanded, command * [1, 1, 0], self.qpos[row, 3:TRUNK_POSITIONS])
        start = self.qpos[row, :3] + np.array([0, 0, 0.8 * self._standing[2]])
        arrow(scene, start, start + commanded, COMMAND_COLOUR)
        arrow(scene, start, start + self.qvel[row, :3] * [1, 1, 0], VELOCITY_COLOUR)
        label(scene, start + np.array([0, 0, 0.05]), f"turn {command[2]:+.1f} rad/s, is {self.qvel[row, 5]:+.1f}")

    # Episodes.

    def bind_state(self) -> VelocityState:
        n, actions, legs = self.num_envs, self.model.nu, len(self.robot.feet)
        settings, randomize = self.settings, self.settings.randomize
        self._positions, self._touching = self.batch.bind("geom_xpos"), self.batch.bind("sensordata")
        self._draws = Draws(self.batch, randomize, self.model.geom(GROUND).id, int(self.model.jnt_bodyid[0]))
        own = {
            "command": np.zeros((n, 3)),
            "phase": np.zeros(n),
            "action": np.zeros((n, actions)),
            "velocity": np.zeros((n, 3)),
            "down": np.zeros((n, 3)),
            "feet": np.zeros((n, legs, 3)),
            "contact": np.zeros((n, legs)),
            "air_time": np.zeros((n, legs)),
            "ground": np.zeros((n, 1 + legs)),
            "drawn": self._draws.drawn,
            "push": np.zeros((n, 2 if randomize.push else 0)),
            "noise": np.zeros((n, self._reading_size if randomize.noise else 0)),
            "past": np.zeros((n, (settings.history - 1) * self._reading_size), dtype=np.float32),
        }
        self.carried |= own | {f"model.{name}": values for name, values in self._draws.fields.items()}
        self.carried["stream"] = np.zeros(2, dtype=np.int64)
        if randomize.latency:
            self.carried["sent"] = np.zeros((n, randomize.latency + 1, actions))
        return VelocityState(qpos=self.qpos, qvel=self.qvel, torque=self.batch.bind("actuator_force"), **own)

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        qpos = np.tile(self.init_qpos, (count, 1))
        if self._ground is not None:
            qpos[:, :2] = self.rng.uniform(-PERIOD / 2, PERIOD / 2, (count, 2))
            qpos[:, 2] += self._ground.highest(qpos[:, :2])
        half_yaw = self.rng.uniform(-math.pi / 2, math.pi / 2, count)
        qpos[:, 3], qpos[:, 6] = np.cos(half_yaw), np.sin(half_yaw)
        qpos[:, TRUNK_POSITIONS:] += self.uniform_noise(count, self.model.nu)
        qvel = self.uniform_noise(count, self.model.nv)
        return qpos, qvel

    def randomize(self, ids: NDArray[np.int64]) -> None:
        self._draws.draw(ids, self.rng)

    def close(self) -> None:
        vars(self).pop("_draws", None)
        super().close()

    def _load_state(self, state: Mapping[str, Any]) -> None:
        super()._load_state(state)
        self._draws.derive()

    def after_reset(self, ids: NDArray[np.int64]) -> None:
        self._sense(ids)
        state = self.state
        if ids.size == self.num_envs:
            self.carried["stream"][:] = self.rng.integers(2**32), 0
        state.action[ids], state.air_time[ids] = 0, 0
        state.phase[ids] = self.rng.uniform(0, 1, ids.size)
        state.command[ids] = self.commands(ids.size, self.rng)
        self._draw_noise(ids, self.rng)
        if "sent" in self.carried:
            self.carried["sent"][ids] = 0
        if state.push.size:
            state.push[ids] = 0
        if state.past.size:  # nothing was before: the robot has stood so
            state.past[ids] = np.tile(self._noisy_reading(state.rows(ids)), self.settings.history - 1)

    def after_physics(self) -> None:
        state, every = self.state, slice(None)
        if state.past.size:
            size = self._reading_size
            state.past[:, size:] = state.past[:, :-size]
            state.past[:, :size] = self._previous_obs[:, :size]
        self._sense(every)
        if self._ground is not None:  # what repeats itself looks the same a period away
            away = periods(state.qpos[:, :2])
            for one in (state, self.before):
                one.qpos[:, :2] -= away
                one.feet[:, :, :2] -= away[:, None]
        state.air_time[:] = (state.air_time + self.dt) * (1 - state.contact)
        state.phase[:] = (state.phase + self.robot.gait_frequency * self.dt) % 1
        self._draw_noise(every, self._step_rng)
        due = self._due(self.settings.command_seconds)
        if due.any():
            state.command[due] = self.commands(self.num_envs, self._step_rng)[due]

    def _due(self, seconds: float) -> np.ndarray:
        """[N] whether an episode has lasted for a multiple of so long after this step."""
        return (self.elapsed_steps + 1) % max(1, round(seconds / self.dt)) == 0

    def commands(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """[count, 3] new commands: forward, sideways, turn."""
        settings = self.settings
        low, high = np.array([settings.forward, settings.sideways, settings.turn]).T
        size = 1.0
        if settings.curriculum_steps:
            start = settings.curriculum_start
            size = min(1.0, start + (1 - start) * self.steps_trained / settings.curriculum_steps)
        drawn = size * rng.uniform(low, high, (count, 3))
        drawn[rng.uniform(0, 1, count) < settings.standing_fraction] = 0
        return drawn

    def _sense(self, rows: Any) -> None:
        """Read trunk, feet and contacts of the rows."""
        state = self.state
        orientation = state.qpos[rows, 3:TRUNK_POSITIONS]
        state.velocity[rows] = in_body(np, orientation, state.qvel[rows, :3])
        state.down[rows] = down_in_body(np, orientation)
        feet, touching = self._positions[rows][:, self._feet], self._touching[rows][:, self._sensors] > 0
        single = self._feet.shape[1] == 1  # means of one number take their time, too
        state.feet[rows] = feet[:, :, 0] if single else feet.mean(axis=2)
        state.contact[rows] = touching[:, :, 0] if single else touching.any(axis=2)
        if self._ground is not None:
            state.ground[rows, 0] = self._ground.under(state.qpos[rows, :2])
            state.ground[rows, 1:] = self._ground.under(state.feet[rows, :, :2])

    def _draw_noise(self, rows: Any, rng: np.random.Generator) -> None:
        """Draw what the sensors of the rows err by; the rest of the observation the robot knows."""
        if size := self.settings.randomize.noise:
            sensors = np.repeat(np.array(NOISE) * size, [3, 3, self.model.nu, self.model.nu])
            drawn = rng.random((len(self.state.noise[rows]), sensors.size), dtype=np.float32)
            self.state.noise[rows, : sensors.size] = sensors * (2 * drawn - 1)

    def _moving(self, state: VelocityState) -> Array:
        """[N] 1 where the command is to move, else 0."""
        size = state.xp.einsum("nk,nk->n", state.command, state.command)
        return (size > LEAST_COMMAND**2) * 1.0

    @property
    def _name(self) -> str:
        return f"Velocity of {self.robot.name}"

    def _like(self, state: State, constant: np.ndarray) -> Array:
        """A constant as an array of the state's kind."""
        return state.xp.asarray(constant, dtype=state.qpos.dtype)


def with_robot(robot: Robot) -> type[Velocity]:
    """The task of this robot."""
    made: type[Velocity] = type("Velocity", (Velocity,), {"robot": robot})
    return made

"""How well a policy follows velocities: judged from the simulation, apart from the task's reward and its ends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from unilab.envs.mujoco_env import MujocoVecEnv
from unilab.envs.tasks.velocity.scene import Contacts
from unilab.envs.vec_env import FloatArray

SECONDS = 20.0
"""of each episode"""
COMMAND_SECONDS = 5.0
"""after which there is a new command"""
SETTLING_SECONDS = 1.0
"""after a new command, in which errors do not count"""
MOST_TILT = 60.0
"""degrees beyond which a robot has fallen"""
MOST_VELOCITY_ERROR, MOST_TURN_ERROR, MOST_FALLS = 0.25, 0.3, 0.05
"""with which a policy walks, in m/s, rad/s and as a part of the episodes"""
COMMON = (
    "forward",
    "sideways",
    "turn",
    "standing_fraction",
    "friction",
    "terrain",
    "reset_noise_scale",
    "randomize",
)
"""settings of the task that are the defaults in every evaluation"""


@dataclass(frozen=True)
class Following:
    """The outcome, a mean over all episodes."""

    velocity_error: float
    """size of the error of the planar velocity in the trunk's frame, in m/s; after a fall the velocity counts as 0"""
    turn_error: float
    """the same of the turn rate, in rad/s"""
    falls: float
    """part of the episodes in which the robot fell: its trunk touched the ground, or was tilted by over 60 degrees"""

    @property
    def walks(self) -> bool:
        """Whether this is called walking."""
        within = self.velocity_error <= MOST_VELOCITY_ERROR and self.turn_error <= MOST_TURN_ERROR
        return within and self.falls <= MOST_FALLS


def follow(
    policy: Callable[[FloatArray], FloatArray],
    task: type[MujocoVecEnv],
    *,
    episodes: int,
    seconds: float = SECONDS,
    seed: int = 0,
    num_threads: int | None = None,
    judged_contacts: Contacts = "all",
    **cfg: Any,
) -> Following:
    """Let a policy follow new commands without noise, on flat ground.

    Args:
        policy: actions [N, A] for observations [N, O].
        task: a ``Velocity``, the robot's.
        episodes: that are played, all at once.
        seconds: of each.
        seed: of starts and commands.
        num_threads: physics threads; None: all cores this process may use.
        judged_contacts: what touches the ground. A trunk that never does lies on it by its height.
        cfg: settings that the policy was trained with; commands, ground and starts are the task's defaults. With
            ``judged_command`` among them this one is followed all the time.

    Raises:
        ValueError: the episodes are over before errors count.
    """
    if seconds <= SETTLING_SECONDS:
        raise ValueError(f"seconds must be above {SETTLING_SECONDS:g}, when errors begin to count, got {seconds:g}")
    defaults = task.settings_class()
    ours: dict[str, Any] = {name: getattr(defaults, name) for name in COMMON}
    ours |= {"contacts": judged_contacts, "command_seconds": COMMAND_SECONDS, "curriculum_steps": 0}
    ours["max_episode_steps"] = None
    methods: dict[str, Any] = {"fallen": lambda env, state: np.zeros(len(state.qpos), dtype=bool)}
    if cfg.get("judged_command") is not None:
        methods["commands"] = lambda env, count, rng: np.tile(cfg["judged_command"], (count, 1))
    endless: Any = type(task.__name__, (task,), methods)
    with endless(episodes, num_threads=num_threads, seed=seed, **{**cfg, **ours}) as env:
        every, settling = round(COMMAND_SECONDS / env.dt), round(SETTLING_SECONDS / env.dt)
        obs, _ = env.reset(seed)
        touching, model, trunk = env.batch.bind("sensordata"), env.model, int(env.model.jnt_bodyid[0])
        of_trunk = model.geom_bodyid == trunk
        trunk_touches = bool((model.geom_contype[of_trunk] | model.geom_conaffinity[of_trunk]).any())
        fallen = np.zeros(episodes, dtype=bool)
        errors = []
        for step in range(round(seconds / env.dt)):
            command = env.state.command.copy()
            result = env.step(policy(obs))
            obs = result.obs
            fallen |= result.terminated | (tilt(env.qpos[:, 3:7]) > MOST_TILT)
            fallen |= touching[:, -1] > 0 if trunk_touches else env.qpos[:, 2] < env.robot.fallen_height
            if step % every >= settling:
                errors.append(command - np.where(fallen[:, None], 0.0, planar_velocity(env.qpos, env.qvel)))
        wrong = np.array(errors)
    return Following(
        velocity_error=float(np.hypot(wrong[:, :, 0], wrong[:, :, 1]).mean()),
        turn_error=float(abs(wrong[:, :, 2]).mean()),
        falls=float(fallen.mean()),
    )


def tilt(quaternions: np.ndarray) -> np.ndarray:
    """[N] degrees between the upright axis of each body and the world's."""
    upright = Rotation.from_quat(quaternions, scalar_first=True).apply([0.0, 0.0, 1.0])[:, 2]
    return np.degrees(np.arccos(np.clip(upright, -1, 1)))


def planar_velocity(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """[N, 3] forward, sideways and turn, each in the trunk's frame."""
    inside = Rotation.from_quat(qpos[:, 3:7], scalar_first=True).inv().apply(qvel[:, :3])
    return np.column_stack([inside[:, :2], qvel[:, 5]])

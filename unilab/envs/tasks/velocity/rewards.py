"""The terms of the reward, each a function of one step's arrays, numpy's or torch's, that gives [N].

What they are, and most of their weights, are those of MuJoCo Playground's joystick tasks (arXiv:2502.08844), which
follow legged_gym (arXiv:2109.11978).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unilab.envs.mujoco_env import STRICT, Finite

TRACKING_WIDTH = 0.25
"""squared error of a velocity at which its reward has fallen to 1/e, in (m/s)² and (rad/s)²"""
GAIT_WIDTH = 0.005
"""sum of squared errors of the feet's heights at which the gait's reward has fallen to 1/e, in m²"""
TARGET_AIR_TIME = 0.1
"""seconds; a foot that was longer in the air is rewarded when it touches down"""


@dataclass(frozen=True)
class RewardWeights:
    """Weight of each term, for each second; a term with weight 0 is not computed."""

    __pydantic_config__ = STRICT

    track_velocity: Finite = 1.0
    """exp(-squared error of the planar velocity / 0.25)"""
    track_turn: Finite = 0.5
    """exp(-squared error of the turn rate / 0.25)"""
    gait: Finite = 1.0
    """exp(-squared errors of the feet's heights, beside those of the gait, / 0.005)"""
    air_time: Finite = 0.1
    """seconds beyond 0.1 that a foot was in the air when it touches down, if the robot is to move"""
    vertical_velocity: Finite = -0.5
    """squared velocity up and down"""
    roll_pitch_rate: Finite = -0.05
    """squared turn rates but that about the upright axis"""
    tilt: Finite = -5.0
    """squared sine of the trunk's tilt"""
    pose: Finite = -0.1
    """squared distance of the joints from the default pose"""
    stand_still: Finite = -1.0
    """distance of the joints from the default pose, if the robot is to stand"""
    joint_limits: Finite = -1.0
    """radians beyond 95 % of the joints' ranges"""
    torque: Finite = -2e-4
    """root of the sum of squared torques, and the sum of their sizes"""
    power: Finite = -1e-3
    """torques times joint velocities, in watts"""
    action_rate: Finite = -0.01
    """squared change of the actions"""
    slip: Finite = -0.1
    """squared planar velocity of feet on the ground"""
    fall: Finite = -1.0
    """1 in the step in which the robot falls"""


@dataclass(frozen=True)
class Step:
    """One step of all rows, as the terms need it."""

    dt: float
    """seconds"""
    before: Any
    """``VelocityState`` that the step began in, with the command that it was to follow"""
    state: Any
    """``VelocityState`` that it led to"""
    moving: Any
    """[N] 1 where the command is not to stand, else 0"""
    offset: Any
    """[N, A] of the joints from the default pose"""
    beyond: Any
    """[N, A] radians of the joints beyond their soft limits"""
    foot_height: Any
    """[N, F] above where it is when standing"""
    wanted_height: Any
    """[N, F] that the gait wants"""
    fallen: Any
    """[N]"""


def _squares(step: Step, values: Any) -> Any:
    """[N] sum of the squares of ``values`` [N, K]; a sum along short rows takes several times as long."""
    return step.state.xp.einsum("nk,nk->n", values, values)


def track_velocity(step: Step) -> Any:
    error = _squares(step, step.before.command[:, :2] - step.state.velocity[:, :2])
    return step.state.xp.exp(-error / TRACKING_WIDTH)


def track_turn(step: Step) -> Any:
    return step.state.xp.exp(-((step.before.command[:, 2] - step.state.qvel[:, 5]) ** 2) / TRACKING_WIDTH)


def gait(step: Step) -> Any:
    error = _squares(step, step.foot_height - step.wanted_height)
    return step.state.xp.exp(-error / GAIT_WIDTH)


def air_time(step: Step) -> Any:
    landed = step.state.contact * (step.before.air_time > 0)
    return ((step.before.air_time + step.dt - TARGET_AIR_TIME) * landed).sum(axis=1) * step.moving


def vertical_velocity(step: Step) -> Any:
    return step.state.velocity[:, 2] ** 2


def roll_pitch_rate(step: Step) -> Any:
    return _squares(step, step.state.qvel[:, 3:5])


def tilt(step: Step) -> Any:
    return _squares(step, step.state.down[:, :2])


def pose(step: Step) -> Any:
    return _squares(step, step.offset)


def stand_still(step: Step) -> Any:
    return abs(step.offset).sum(axis=1) * (1 - step.moving)


def joint_limits(step: Step) -> Any:
    return step.beyond.sum(axis=1)


def torque(step: Step) -> Any:
    return _squares(step, step.state.torque) ** 0.5 + abs(step.state.torque).sum(axis=1)


def power(step: Step) -> Any:
    return step.state.xp.einsum("nk,nk->n", abs(step.state.torque), abs(step.state.qvel[:, 6:]))


def action_rate(step: Step) -> Any:
    return _squares(step, step.state.action - step.before.action)


def slip(step: Step) -> Any:
    velocity = (step.state.feet - step.before.feet) / step.dt
    speed = velocity[:, :, 0] ** 2 + velocity[:, :, 1] ** 2
    return step.state.xp.einsum("nf,nf->n", speed, step.state.contact) * step.moving


def fall(step: Step) -> Any:
    return step.fallen / step.dt


TERMS: dict[str, Callable[[Step], Any]] = {
    term.__name__: term
    for term in (
        track_velocity, track_turn, gait, air_time, vertical_velocity, roll_pitch_rate, tilt, pose, stand_still,
        joint_limits, torque, power, action_rate, slip, fall,
    )
}  # fmt: skip
"""by the names of their weights"""

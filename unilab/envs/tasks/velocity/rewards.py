"""What the reward consists of; ``Velocity.reward_terms`` has the formulas.

The terms, and most of their weights, are those of MuJoCo Playground's joystick tasks (arXiv:2502.08844), which follow
legged_gym (arXiv:2109.11978).
"""

from dataclasses import dataclass

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
    """squared planar velocity of feet on the ground, if the robot is to move"""
    fall: Finite = -1.0
    """1 in the step in which the robot falls"""

"""Unitree G1, 29 joints. Pose, gains and joint constants are those of MuJoCo Playground's G1 (arXiv:2502.08844)."""

from unilab.envs.robots.robot import Robot

G1 = Robot(
    model="unitree_g1/g1.xml",
    feet=("left_ankle_roll_link", "right_ankle_roll_link"),
    gait=(0.0, 0.5),
    pose={
        ".*_hip_pitch_joint": -0.312,
        ".*_knee_joint": 0.669,
        ".*_ankle_pitch_joint": -0.363,
        "waist_pitch_joint": 0.073,
        ".*_shoulder_pitch_joint": 0.2,
        "left_shoulder_roll_joint": 0.2,
        "right_shoulder_roll_joint": -0.2,
        ".*_elbow_joint": 0.6,
    },
    kp={".*_ankle_pitch_joint": 20.0, ".*_(ankle_roll|wrist_.*)_joint": 2.0, ".*": 75.0},
    kd={".*_ankle_pitch_joint": 1.0, ".*_(ankle_roll|wrist_.*)_joint": 0.2, ".*": 2.0},
    armature={
        ".*_(hip_roll|knee)_joint": 0.0251,
        ".*_(hip_pitch|hip_yaw)_joint|waist_yaw_joint": 0.0102,
        ".*_ankle_.*|waist_.*": 0.0072,
        ".*_wrist_(pitch|yaw)_joint": 0.0043,
        ".*": 0.0036,
    },
    frictionloss={".*": 0.1},
    swing={".*_hip_pitch_joint": -0.3, ".*_knee_joint": 0.6, ".*_ankle_pitch_joint": -0.3},
    fallen_height=0.4,
    gait_frequency=1.5,
    iterations=3,
)

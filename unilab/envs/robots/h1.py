"""Unitree H1, 19 joints. Its motors get position gains; pose as in MuJoCo Playground (arXiv:2502.08844)."""

from unilab.envs.robots.robot import Robot

H1 = Robot(
    model="unitree_h1/h1.xml",
    feet=("left_ankle_link", "right_ankle_link"),
    gait=(0.0, 0.5),
    pose={
        ".*_hip_pitch": -0.267,
        ".*_knee": 0.8,
        ".*_ankle": -0.543,
        "left_shoulder_roll": 0.2,
        "right_shoulder_roll": -0.2,
        ".*_elbow": 1.14,
    },
    # of the legs as in unitree_rl_gym, deploy/deploy_mujoco/configs/h1.yaml, which leaves torso and arms out
    kp={".*_hip_.*": 150.0, ".*_knee": 200.0, ".*_ankle": 40.0, "torso": 300.0, ".*": 150.0},
    kd={".*_hip_.*": 2.0, ".*_knee": 4.0, ".*_ankle": 2.0, "torso": 6.0, ".*": 2.0},
    swing={".*_hip_pitch": -0.3, ".*_knee": 0.6, ".*_ankle": -0.3},
    fallen_height=0.55,
    gait_frequency=1.5,
    iterations=3,
)

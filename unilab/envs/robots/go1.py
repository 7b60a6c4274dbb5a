"""Unitree Go1. Pose, gains and joint constants are those of MuJoCo Playground's Go1 (arXiv:2502.08844)."""

from unilab.envs.robots.robot import Robot

GO1 = Robot(
    model="unitree_go1/go1.xml",
    feet=("FR", "FL", "RR", "RL"),
    gait=(0.0, 0.5, 0.5, 0.0),  # a trot
    pose={"[FR]R_hip_joint": 0.1, "[FR]L_hip_joint": -0.1, ".*_thigh_joint": 0.9, ".*_calf_joint": -1.8},
    kp={".*": 35.0},
    kd={".*": 0.5},
    armature={".*": 0.005},
    frictionloss={".*_calf_joint": 1.0, ".*": 0.3},
    swing={".*_thigh_joint": 0.3, ".*_calf_joint": -0.6},
    fallen_height=0.1,
)

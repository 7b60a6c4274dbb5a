"""Unitree Go2, with the pose and the gains of the Go1. Its model needs a download, and it was never run."""

from unilab.envs.robots.robot import Robot

GO2 = Robot(
    model="unitree_go2/go2.xml",
    feet=("FL", "FR", "RL", "RR"),
    gait=(0.5, 0.0, 0.0, 0.5),
    pose={".L_hip_joint": 0.1, ".R_hip_joint": -0.1, ".*_thigh_joint": 0.9, ".*_calf_joint": -1.8},
    kp={".*": 35.0},
    kd={".*": 0.5},
    swing={".*_thigh_joint": 0.3, ".*_calf_joint": -0.6},
    fallen_height=0.1,
)

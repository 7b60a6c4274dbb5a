"""Booster T1, 23 joints. Gains are those of MuJoCo Playground's T1 (arXiv:2502.08844)."""

from unilab.envs.robots.robot import Robot

T1 = Robot(
    model="booster_t1/t1.xml",
    feet=("left_foot_link", "right_foot_link"),
    gait=(0.0, 0.5),
    pose={
        "Left_Shoulder_Roll": -1.4,
        "Right_Shoulder_Roll": 1.4,
        "Left_Elbow_Yaw": -0.4,
        "Right_Elbow_Yaw": 0.4,
        ".*_Hip_Pitch": -0.2,
        ".*_Knee_Pitch": 0.4,
        ".*_Ankle_Pitch": -0.2,
    },
    kp={".*Head.*|.*_Shoulder_.*|.*_Elbow_.*": 20.0, "Waist": 50.0, ".*_Ankle_.*": 10.0, ".*": 30.0},
    kd={".*Head.*|.*_Shoulder_.*|.*_Elbow_.*": 2.0, ".*": 3.0},
    swing={".*_Hip_Pitch": -0.3, ".*_Knee_Pitch": 0.6, ".*_Ankle_Pitch": -0.3},
    fallen_height=0.35,
    gait_frequency=1.5,
    timestep=0.002,
    iterations=3,
)

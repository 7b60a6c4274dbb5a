"""Google Barkour vb, in the menagerie's model for MJX, whose feet are spheres."""

from unilab.envs.robots.robot import Robot

BARKOUR = Robot(
    model="google_barkour_vb/barkour_vb_mjx.xml",
    feet=("foot_front_left", "foot_hind_left", "foot_front_right", "foot_hind_right"),
    gait=(0.5, 0.0, 0.0, 0.5),
    pose={"hip_.*": 0.5, "knee_.*": 1.0},
    kp={".*": 50.0},
    kd={".*": 0.524},
    frictionloss={".*": 0.13},
    swing={"hip_.*": 0.25, "knee_.*": 0.5},
    fallen_height=0.12,
)

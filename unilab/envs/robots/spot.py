"""Boston Dynamics Spot. Gains and joint constants are those of MuJoCo Playground's Spot (arXiv:2502.08844)."""

from unilab.envs.robots.robot import Robot

SPOT = Robot(
    model="boston_dynamics_spot/spot.xml",
    feet=("FL", "FR", "HL", "HR"),
    gait=(0.5, 0.0, 0.0, 0.5),
    pose={".*_hy": 1.04, ".*_kn": -1.8},
    kp={".*": 400.0},
    kd={".*": 22.0},
    armature={".*": 0.1},
    frictionloss={".*": 0.2},
    swing={".*_hy": 0.3, ".*_kn": -0.6},
    fallen_height=0.18,
)

"""The task with each of the robots, under the names that the registry has."""

from unilab.envs.robots.barkour import BARKOUR
from unilab.envs.robots.g1 import G1
from unilab.envs.robots.go1 import GO1
from unilab.envs.robots.go2 import GO2
from unilab.envs.robots.h1 import H1
from unilab.envs.robots.spot import SPOT
from unilab.envs.robots.t1 import T1
from unilab.envs.tasks.velocity.task import Velocity


class VelocityBarkour(Velocity):
    """Google Barkour vb."""

    robot = BARKOUR


class VelocityG1(Velocity):
    """Unitree G1."""

    robot = G1


class VelocityGo1(Velocity):
    """Unitree Go1."""

    robot = GO1


class VelocityGo2(Velocity):
    """Unitree Go2."""

    robot = GO2


class VelocityH1(Velocity):
    """Unitree H1."""

    robot = H1


class VelocitySpot(Velocity):
    """Boston Dynamics Spot."""

    robot = SPOT


class VelocityT1(Velocity):
    """Booster T1."""

    robot = T1

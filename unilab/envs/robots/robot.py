"""What a task needs to know of a robot beside its model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unilab.envs.robots.models import model_file

ByJoint = Mapping[str, float]
"""numbers by regular expressions that match whole names of joints; the first that matches counts"""


@dataclass(frozen=True)
class Robot:
    """A robot on legs: a free trunk and one position-controlled actuator for each joint."""

    model: str | Path
    """folder and file in the menagerie, ``unitree_go1/go1.xml``; or the path of a file"""
    feet: tuple[str, ...]
    """names of geoms, or of bodies all of whose colliding geoms are the foot"""
    gait: tuple[float, ...]
    """when in a gait cycle each foot begins to swing, 0 to 1"""
    pose: ByJoint
    """joint angles to stand with, in radians; joints that nothing matches are at 0"""
    kp: ByJoint
    """position gains, in N m / rad"""
    kd: ByJoint
    """damping of the joints, in N m s / rad"""
    fallen_height: float
    """a trunk that is lower than this lies on the ground, in metres"""
    swing: ByJoint = field(default_factory=dict)
    """what is added to the angles of a leg's joints when its foot is highest, in radians: a step on the spot"""
    gait_frequency: float = 2.0
    """steps of a foot in a second"""
    armature: ByJoint = field(default_factory=dict)
    """rotor inertias, in kg m²; of joints that nothing matches the model's own"""
    frictionloss: ByJoint = field(default_factory=dict)
    """dry friction of the joints, in N m; likewise"""
    timestep: float = 0.004
    """seconds of a physics step"""
    iterations: int = 1
    """of the solver"""
    ls_iterations: int = 5
    """of its line search"""

    @property
    def name(self) -> str:
        """The model's name in the menagerie; of a model elsewhere the file's name, the same in each folder."""
        return Path(self.model).name if self._is_elsewhere else str(self.model)

    @property
    def _is_elsewhere(self) -> bool:
        return isinstance(self.model, Path) or Path(self.model).is_absolute()

    def file(self) -> Path:
        """The model's file on this machine. Raises as ``model_file``."""
        if self._is_elsewhere:
            return Path(self.model)
        folder, _, file = str(self.model).partition("/")
        return model_file(folder, file)


def by_joint(values: ByJoint, joints: Sequence[str], default: float = 0.0) -> np.ndarray:
    """The number of each joint, [joints].

    Raises:
        ValueError: an expression matches no joint.
    """
    for pattern in values:
        if not any(re.fullmatch(pattern, joint) for joint in joints):
            raise ValueError(f"no joint is called '{pattern}'; there are: {', '.join(joints)}")
    matched = ([value for pattern, value in values.items() if re.fullmatch(pattern, joint)] for joint in joints)
    return np.array([values[0] if values else default for values in matched])

"""Hopper: hop forward on one leg without falling. Semantics of gymnasium's Hopper-v5."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import Bounds
from unilab.envs.tasks.planar_walker import PlanarWalker, PlanarWalkerSettings, within


@dataclass(frozen=True)
class HopperSettings(PlanarWalkerSettings):
    """Defaults of Hopper-v5."""

    healthy_state_range: Bounds = (-100.0, 100.0)
    """of every position but x and z, and of every velocity; exclusive"""
    healthy_z_range: Bounds = (0.7, float("inf"))
    """metres, exclusive"""
    healthy_angle_range: Bounds = (-0.2, 0.2)
    """of the torso in radians, exclusive"""


class Hopper(PlanarWalker):
    """Observation [N, 11], action [N, 3]."""

    model_file = "hopper.xml"
    settings_class = HopperSettings
    settings: HopperSettings

    def healthy(self) -> NDArray[np.bool_]:
        settings, qpos = self.settings, self.qpos
        healthy = within(qpos[:, 1], settings.healthy_z_range) & within(qpos[:, 2], settings.healthy_angle_range)
        healthy &= within(qpos[:, 2:], settings.healthy_state_range).all(axis=1)
        healthy &= within(self.qvel, settings.healthy_state_range).all(axis=1)
        return healthy

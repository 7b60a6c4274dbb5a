"""Hopper: hop forward on one leg without falling. Semantics of gymnasium's Hopper-v5."""

from dataclasses import dataclass

from unilab.envs.mujoco_env import Array, Bounds, State
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

    def healthy(self, state: State) -> Array:
        settings, qpos = self.settings, state.qpos
        upright = within(qpos[:, 1], settings.healthy_z_range) & within(qpos[:, 2], settings.healthy_angle_range)
        still = within(qpos[:, 2:], settings.healthy_state_range).all(axis=1)
        return upright & still & within(state.qvel, settings.healthy_state_range).all(axis=1)

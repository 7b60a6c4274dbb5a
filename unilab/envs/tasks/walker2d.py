"""Walker2d: walk forward on two legs without falling. Semantics of gymnasium's Walker2d-v5."""

from dataclasses import dataclass

from unilab.envs.mujoco_env import Array, Bounds, State
from unilab.envs.tasks.planar_walker import PlanarWalker, PlanarWalkerSettings, within


@dataclass(frozen=True)
class Walker2dSettings(PlanarWalkerSettings):
    """Defaults of Walker2d-v5."""

    healthy_z_range: Bounds = (0.8, 2.0)
    """metres, exclusive"""
    healthy_angle_range: Bounds = (-1.0, 1.0)
    """of the torso in radians, exclusive"""


class Walker2d(PlanarWalker):
    """Observation [N, 17], action [N, 6]."""

    model_file = "walker2d_v5.xml"
    settings_class = Walker2dSettings
    settings: Walker2dSettings

    def healthy(self, state: State) -> Array:
        height, angle = state.qpos[:, 1], state.qpos[:, 2]
        return within(height, self.settings.healthy_z_range) & within(angle, self.settings.healthy_angle_range)

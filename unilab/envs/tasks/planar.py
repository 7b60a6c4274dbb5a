"""Bodies that move forward in the plane. Semantics of gymnasium's HalfCheetah, Swimmer, Hopper and Walker2d of v5."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from unilab.envs.mujoco_env import Array, Bounds, Finite, MujocoSettings, MujocoVecEnv, NonNegative, PositiveInt, State

MAX_OBSERVED_SPEED = 10.0
"""of walkers"""


@dataclass(frozen=True)
class PlanarSettings(MujocoSettings):
    """Settings that all of them have."""

    forward_reward_weight: Finite = 1.0
    """reward for each metre per second"""
    ctrl_cost_weight: Finite = 0.1
    """cost of the sum of squared actions"""
    exclude_current_positions_from_observation: bool = True
    """leave x out of the observation; of Swimmer x and y"""


class Planar(MujocoVecEnv):
    """Observation [N, O]: positions without the first, velocities. Never terminates."""

    settings: PlanarSettings
    unseen: ClassVar[int] = 1
    """positions, the first ones, that are left out of the observation"""

    def observe(self, state: State) -> Array:
        first = self.unseen * self.settings.exclude_current_positions_from_observation
        return state.xp.concat([state.qpos[:, first:], state.qvel], axis=1)

    def evaluate(self, before: State, actions: Array, state: State) -> tuple[Array, Array]:
        x_velocity = (state.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        forward = self.settings.forward_reward_weight * x_velocity
        return forward - self.settings.ctrl_cost_weight * self.action_cost(actions), False


class HalfCheetah(Planar):
    """Run with six joints. Observation [N, 17], action [N, 6]."""

    model_file = "half_cheetah.xml"
    settings_class = PlanarSettings
    velocity_noise = MujocoVecEnv.normal_noise


@dataclass(frozen=True)
class SwimmerSettings(PlanarSettings):
    """Defaults of Swimmer-v5."""

    frame_skip: PositiveInt = 4
    ctrl_cost_weight: Finite = 1e-4


class Swimmer(Planar):
    """Swim with three links. Observation [N, 8], action [N, 2]."""

    model_file = "swimmer.xml"
    settings_class = SwimmerSettings
    unseen = 2


@dataclass(frozen=True)
class WalkerSettings(PlanarSettings):
    """Defaults that Hopper-v5 and Walker2d-v5 have in common."""

    frame_skip: PositiveInt = 4
    reset_noise_scale: NonNegative = 5e-3
    ctrl_cost_weight: Finite = 1e-3
    healthy_reward: Finite = 1.0
    """for each env step that ends healthy"""
    terminate_when_unhealthy: bool = True


class Walker(Planar):
    """Walk while the torso stays upright. Velocities are observed within -10 .. 10. Terminates when unhealthy."""

    settings: WalkerSettings

    @abstractmethod
    def healthy(self, state: State) -> Array:
        """[N] whether the state is within the healthy ranges."""

    def observe(self, state: State) -> Array:
        speeds = state.xp.clip(state.qvel, -MAX_OBSERVED_SPEED, MAX_OBSERVED_SPEED)
        return super().observe(State(state.qpos, speeds))

    def evaluate(self, before: State, actions: Array, state: State) -> tuple[Array, Array]:
        settings, healthy = self.settings, self.healthy(state)
        x_velocity = (state.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        gain = settings.forward_reward_weight * x_velocity + settings.healthy_reward * healthy
        reward = gain - settings.ctrl_cost_weight * self.action_cost(actions)
        return reward, ~healthy & settings.terminate_when_unhealthy


@dataclass(frozen=True)
class HopperSettings(WalkerSettings):
    """Defaults of Hopper-v5."""

    healthy_state_range: Bounds = (-100.0, 100.0)
    """of every position but x and z, and of every velocity; exclusive"""
    healthy_z_range: Bounds = (0.7, float("inf"))
    """metres, exclusive"""
    healthy_angle_range: Bounds = (-0.2, 0.2)
    """of the torso in radians, exclusive"""


class Hopper(Walker):
    """Hop on one leg. Observation [N, 11], action [N, 3]."""

    model_file = "hopper.xml"
    settings_class = HopperSettings
    settings: HopperSettings

    def healthy(self, state: State) -> Array:
        settings, qpos = self.settings, state.qpos
        upright = within(qpos[:, 1], settings.healthy_z_range) & within(qpos[:, 2], settings.healthy_angle_range)
        still = within(qpos[:, 2:], settings.healthy_state_range).all(axis=1)
        return upright & still & within(state.qvel, settings.healthy_state_range).all(axis=1)


@dataclass(frozen=True)
class Walker2dSettings(WalkerSettings):
    """Defaults of Walker2d-v5."""

    healthy_z_range: Bounds = (0.8, 2.0)
    """metres, exclusive"""
    healthy_angle_range: Bounds = (-1.0, 1.0)
    """of the torso in radians, exclusive"""


class Walker2d(Walker):
    """Walk on two legs. Observation [N, 17], action [N, 6]."""

    model_file = "walker2d_v5.xml"
    settings_class = Walker2dSettings
    settings: Walker2dSettings

    def healthy(self, state: State) -> Array:
        height, angle = state.qpos[:, 1], state.qpos[:, 2]
        return within(height, self.settings.healthy_z_range) & within(angle, self.settings.healthy_angle_range)


def within(values: Array, bounds: tuple[float, float]) -> Array:
    """Elementwise, both bounds exclusive; False for NaN."""
    return (bounds[0] < values) & (values < bounds[1])

"""What Hopper and Walker2d share: walk forward in the plane while the torso stays upright."""

from abc import abstractmethod
from dataclasses import dataclass

from unilab.envs.mujoco_env import Array, Finite, MujocoSettings, MujocoVecEnv, NonNegative, PositiveInt, State

MAX_OBSERVED_SPEED = 10.0


@dataclass(frozen=True)
class PlanarWalkerSettings(MujocoSettings):
    """Defaults that Hopper-v5 and Walker2d-v5 have in common."""

    frame_skip: PositiveInt = 4
    reset_noise_scale: NonNegative = 5e-3
    forward_reward_weight: Finite = 1.0
    """reward for each metre per second"""
    ctrl_cost_weight: Finite = 1e-3
    """cost of the sum of squared actions"""
    healthy_reward: Finite = 1.0
    """for each env step that ends healthy"""
    terminate_when_unhealthy: bool = True
    exclude_current_positions_from_observation: bool = True
    """leave x out of the observation"""


class PlanarWalker(MujocoVecEnv):
    """Observation [N, O]: positions without x, velocities clipped to -10 .. 10. Terminates when unhealthy."""

    settings: PlanarWalkerSettings

    @abstractmethod
    def healthy(self, state: State) -> Array:
        """[N] whether the state is within the healthy ranges."""

    def observe(self, state: State) -> Array:
        first = int(self.settings.exclude_current_positions_from_observation)
        speeds = state.xp.clip(state.qvel, -MAX_OBSERVED_SPEED, MAX_OBSERVED_SPEED)
        return state.xp.concat([state.qpos[:, first:], speeds], axis=1)

    def evaluate(self, before: State, actions: Array, state: State) -> tuple[Array, Array]:
        settings, healthy = self.settings, self.healthy(state)
        x_velocity = (state.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        gain = settings.forward_reward_weight * x_velocity + settings.healthy_reward * healthy
        reward = gain - settings.ctrl_cost_weight * self.action_cost(actions)
        return reward, ~healthy & settings.terminate_when_unhealthy


def within(values: Array, bounds: tuple[float, float]) -> Array:
    """Elementwise, both bounds exclusive; False for NaN."""
    return (bounds[0] < values) & (values < bounds[1])

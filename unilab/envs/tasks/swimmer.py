"""Swimmer: swim forward in the plane with three links. Semantics of gymnasium's Swimmer-v5."""

from dataclasses import dataclass

from unilab.envs.mujoco_env import Array, Finite, MujocoSettings, MujocoVecEnv, PositiveInt, State


@dataclass(frozen=True)
class SwimmerSettings(MujocoSettings):
    """Defaults of Swimmer-v5."""

    frame_skip: PositiveInt = 4
    forward_reward_weight: Finite = 1.0
    """reward for each metre per second"""
    ctrl_cost_weight: Finite = 1e-4
    """cost of the sum of squared actions"""
    exclude_current_positions_from_observation: bool = True
    """leave x and y out of the observation"""


class Swimmer(MujocoVecEnv):
    """Observation [N, 8]: positions without x and y, velocities. Never terminates."""

    model_file = "swimmer.xml"
    settings_class = SwimmerSettings
    settings: SwimmerSettings

    def observe(self, state: State) -> Array:
        first = 2 * self.settings.exclude_current_positions_from_observation
        return state.xp.concat([state.qpos[:, first:], state.qvel], axis=1)

    def evaluate(self, before: State, actions: Array, state: State) -> tuple[Array, Array]:
        x_velocity = (state.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        forward = self.settings.forward_reward_weight * x_velocity
        return forward - self.settings.ctrl_cost_weight * self.action_cost(actions), False

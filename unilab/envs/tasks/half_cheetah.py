"""HalfCheetah: run forward in the plane with six joints. Semantics of gymnasium's HalfCheetah-v5."""

from dataclasses import dataclass

from unilab.envs.mujoco_env import Array, Finite, MujocoSettings, MujocoVecEnv, State


@dataclass(frozen=True)
class HalfCheetahSettings(MujocoSettings):
    """Defaults of HalfCheetah-v5."""

    forward_reward_weight: Finite = 1.0
    """reward for each metre per second"""
    ctrl_cost_weight: Finite = 0.1
    """cost of the sum of squared actions"""
    exclude_current_positions_from_observation: bool = True
    """leave x out of the observation"""


class HalfCheetah(MujocoVecEnv):
    """Observation [N, 17]: positions without x, velocities. Never terminates."""

    model_file = "half_cheetah.xml"
    settings_class = HalfCheetahSettings
    settings: HalfCheetahSettings
    velocity_noise = MujocoVecEnv.normal_noise

    def observe(self, state: State) -> Array:
        first = int(self.settings.exclude_current_positions_from_observation)
        return state.xp.concat([state.qpos[:, first:], state.qvel], axis=1)

    def evaluate(self, before: State, actions: Array, state: State) -> tuple[Array, Array]:
        x_velocity = (state.qpos[:, 0] - before.qpos[:, 0]) / self.dt
        forward = self.settings.forward_reward_weight * x_velocity
        return forward - self.settings.ctrl_cost_weight * self.action_cost(actions), False

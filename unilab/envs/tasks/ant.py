"""Ant: walk forward on four legs. Semantics of gymnasium's Ant-v5, its exact contact forces included.

``AntNoForces`` leaves them out of the observation and of the reward, as Ant-v4 did. docs/measured.md says what they
cost.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import Array, Bounds, Finite, MujocoSettings, MujocoVecEnv, State
from unilab.envs.tasks.contact_forces import ContactForcesVecEnv
from unilab.settings import SettingsError


@dataclass(frozen=True)
class AntSettings(MujocoSettings):
    """Defaults of Ant-v5."""

    forward_reward_weight: Finite = 1.0
    """reward for each metre per second"""
    ctrl_cost_weight: Finite = 0.5
    """cost of the sum of squared actions"""
    contact_cost_weight: Finite = 5e-4
    """cost of the sum of squared contact forces; with 0 and no forces observed they are not computed"""
    healthy_reward: Finite = 1.0
    """for each env step that ends healthy"""
    main_body: int | str = 1
    """the body whose forward speed counts"""
    terminate_when_unhealthy: bool = True
    healthy_z_range: Bounds = (0.2, 1.0)
    """metres, inclusive"""
    contact_force_range: Bounds = (-1.0, 1.0)
    """contact forces are clipped to it"""
    exclude_current_positions_from_observation: bool = True
    """leave x and y out of the observation"""
    include_cfrc_ext_in_observation: bool = True
    """observe the clipped contact forces and torques of every body"""


@dataclass(frozen=True)
class AntState(State):
    """What Ant observes beside positions and velocities."""

    xy: Array
    """[N, 2] where the main body is; as MuJoCo has it after a step, one physics step behind ``qpos``"""
    forces: Array
    """[N, bodies, 6] clipped contact forces and torques; of the world body too, which is not observed"""


class Ant(ContactForcesVecEnv):
    """Observation [N, 105]: positions without x and y, velocities, contact forces [bodies * 6]."""

    model_file = "ant.xml"
    settings_class = AntSettings
    settings: AntSettings
    velocity_noise = MujocoVecEnv.normal_noise
    state: AntState

    def bind_state(self) -> AntState:
        self._main_body = self._body_id(self.settings.main_body)
        self._xpos = self.batch.bind("xpos")
        xy = self.carried["xy"] = np.zeros((self.num_envs, 2))
        return AntState(self.qpos, self.qvel, xy, self.new_forces())

    @property
    def uses_forces(self) -> bool:
        return bool(self.settings.include_cfrc_ext_in_observation or self.settings.contact_cost_weight)

    def _body_id(self, body: int | str) -> int:
        try:
            return self.model.body(body).id
        except (KeyError, IndexError):
            known = ", ".join(self.model.body(i).name for i in range(self.model.nbody))
            raise SettingsError("main_body", f"the model has no body {body!r}; it has: {known}") from None

    def observe(self, state: AntState) -> Array:
        first = 2 * self.settings.exclude_current_positions_from_observation
        parts = [state.qpos[:, first:], state.qvel]
        if self.settings.include_cfrc_ext_in_observation:
            # the world body, row 0, is not observed
            parts.append(state.forces[:, 1:].reshape(len(state.forces), -1))
        return state.xp.concat(parts, axis=1)

    def evaluate(self, before: AntState, actions: Array, state: AntState) -> tuple[Array, Array]:
        settings, healthy = self.settings, self.healthy(state)
        x_velocity = (state.xy[:, 0] - before.xy[:, 0]) / self.dt
        gain = settings.forward_reward_weight * x_velocity + settings.healthy_reward * healthy
        cost = settings.ctrl_cost_weight * self.action_cost(actions)
        cost = cost + settings.contact_cost_weight * state.xp.einsum("nbf,nbf->n", state.forces, state.forces)
        return gain - cost, ~healthy & settings.terminate_when_unhealthy

    def healthy(self, state: AntState) -> Array:
        """[N] whether the height is within its range and the state is finite."""
        low, high = self.settings.healthy_z_range
        xp, height = state.xp, state.qpos[:, 2]
        finite = xp.isfinite(state.qpos).all(axis=1) & xp.isfinite(state.qvel).all(axis=1)
        return finite & (low <= height) & (height <= high)

    def after_reset(self, ids: NDArray[np.int64]) -> None:
        self.state.xy[ids] = self._xpos[ids, self._main_body, :2]
        self.state.forces[ids] = 0

    def after_physics(self) -> None:
        self.state.xy[:] = self._xpos[:, self._main_body, :2]
        if self.uses_forces:
            self.compute_forces(self.state.forces)
            np.clip(self.state.forces, *self.settings.contact_force_range, out=self.state.forces)


@dataclass(frozen=True)
class AntNoForcesSettings(AntSettings):
    """As Ant, without contact forces."""

    contact_cost_weight: Finite = 0.0
    include_cfrc_ext_in_observation: bool = False


class AntNoForces(Ant):
    """Observation [N, 27]: as Ant, but contact forces are neither observed nor paid for, and not computed."""

    settings_class = AntNoForcesSettings

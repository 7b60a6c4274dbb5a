"""Ant: walk forward on four legs. Semantics of gymnasium's Ant-v5, its exact contact forces included."""

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import Array, Bounds, Finite, MujocoSettings, MujocoVecEnv, State
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


class Ant(MujocoVecEnv):
    """Observation [N, 105]: positions without x and y, velocities, contact forces [bodies * 6]."""

    model_file = "ant.xml"
    settings_class = AntSettings
    settings: AntSettings
    persistent = True
    state: AntState

    def bind_state(self) -> AntState:
        self._main_body = self._body_id(self.settings.main_body)
        self._xpos, self._contacts = self.batch.bind("xpos"), self.batch.bind("ncon")
        self._scratch = mujoco.MjData(self.model)
        xy, forces = np.zeros((self.num_envs, 2)), np.zeros((self.num_envs, self.model.nbody, 6))
        self.carried["xy"] = xy
        return AntState(self.qpos, self.qvel, xy, forces)

    def _body_id(self, body: int | str) -> int:
        try:
            return self.model.body(body).id
        except (KeyError, IndexError):
            known = ", ".join(self.model.body(i).name for i in range(self.model.nbody))
            raise SettingsError("main_body", f"the model has no body {body!r}; it has: {known}") from None

    def observation_size(self) -> int:
        skipped = 2 * self.settings.exclude_current_positions_from_observation
        forces = 6 * (self.model.nbody - 1) * self.settings.include_cfrc_ext_in_observation
        return self.model.nq + self.model.nv - skipped + forces

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

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        qpos = self.init_qpos + self.uniform_noise(count, self.model.nq)
        qvel = self.init_qvel + self.normal_noise(count, self.model.nv)
        return qpos, qvel

    def after_reset(self, ids: NDArray[np.int64]) -> None:
        self.state.xy[ids] = self._xpos[ids, self._main_body, :2]
        self.state.forces[ids] = 0

    def after_physics(self) -> None:
        """Contact forces as gymnasium has them: ``mj_rnePostConstraint`` on the state that the step left.

        Under RK4 that is the integrator's last stage, which no sensor and no batch field shows; hence the loop. It
        takes only the simulations in contact, and threads do not make it faster: the calls hold the GIL.
        """
        self.state.xy[:] = self._xpos[:, self._main_body, :2]
        if not (self.settings.include_cfrc_ext_in_observation or self.settings.contact_cost_weight):
            return
        forces = self.state.forces
        forces.fill(0)
        touching = self._contacts.nonzero()[0]
        for row in touching.tolist():
            self.batch.get_data(row, self._scratch)
            mujoco.mj_rnePostConstraint(self.model, self._scratch)
            forces[row] = self._scratch.cfrc_ext
        np.clip(forces, *self.settings.contact_force_range, out=forces)

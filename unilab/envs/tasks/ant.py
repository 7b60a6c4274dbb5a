"""Ant: walk forward on four legs. Semantics of gymnasium's Ant-v5, its exact contact forces included."""

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import Bounds, Finite, MujocoSettings, MujocoVecEnv, Rows
from unilab.envs.vec_env import FloatArray
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


class Ant(MujocoVecEnv):
    """Observation [N, 105]: positions without x and y, velocities, contact forces [bodies * 6]."""

    model_file = "ant.xml"
    settings_class = AntSettings
    settings: AntSettings
    persistent = True

    def __init__(self, num_envs: int, *, num_threads: int | None = None, seed: int | None = None, **cfg: Any) -> None:
        super().__init__(num_envs, num_threads=num_threads, seed=seed, **cfg)
        self._main_body = self._body_id(self.settings.main_body)
        self._xpos, self._contacts = self.batch.bind("xpos"), self.batch.bind("ncon")
        self._xy = np.zeros((num_envs, 2))
        self._forces = np.zeros((num_envs, self.model.nbody, 6))
        self._scratch = mujoco.MjData(self.model)
        self.carried = {"xy": self._xy}

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

    def observe(self, rows: Rows, out: FloatArray) -> None:
        first = 2 * self.settings.exclude_current_positions_from_observation
        parts = [self.qpos[rows, first:], self.qvel[rows]]
        if self.settings.include_cfrc_ext_in_observation:
            # the world body, row 0, is not observed
            parts.append(self._forces.reshape(self.num_envs, -1)[rows, 6:])
        np.concatenate(parts, axis=1, out=out)

    def evaluate(self, actions: FloatArray, reward: FloatArray, terminated: NDArray[np.bool_]) -> None:
        settings = self.settings
        xy = self._xpos[:, self._main_body, :2]
        x_velocity = (xy[:, 0] - self._xy[:, 0]) / self.dt
        self._xy[:] = xy
        healthy = self.healthy()
        gain = settings.forward_reward_weight * x_velocity + settings.healthy_reward * healthy
        cost = settings.ctrl_cost_weight * self.action_cost(actions)
        cost = cost + settings.contact_cost_weight * np.einsum("nbf,nbf->n", self._forces, self._forces)
        np.subtract(gain, cost, out=reward)
        np.logical_and(~healthy, settings.terminate_when_unhealthy, out=terminated)

    def healthy(self) -> NDArray[np.bool_]:
        """[N] whether the height is within its range and the state is finite."""
        low, high = self.settings.healthy_z_range
        finite = np.isfinite(self.qpos).all(axis=1) & np.isfinite(self.qvel).all(axis=1)
        return finite & (low <= self.qpos[:, 2]) & (self.qpos[:, 2] <= high)

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        qpos = self.init_qpos + self.uniform_noise(count, self.model.nq)
        qvel = self.init_qvel + self.normal_noise(count, self.model.nv)
        return qpos, qvel

    def after_reset(self, ids: NDArray[np.int64]) -> None:
        self._xy[ids] = self._xpos[ids, self._main_body, :2]
        self._forces[ids] = 0

    def after_physics(self) -> None:
        """Contact forces as gymnasium has them: ``mj_rnePostConstraint`` on the state that the step left.

        Under RK4 that is the integrator's last stage, which no sensor and no batch field shows; hence the loop. It
        takes only the simulations in contact, and threads do not make it faster: the calls hold the GIL.
        """
        if not (self.settings.include_cfrc_ext_in_observation or self.settings.contact_cost_weight):
            return
        self._forces.fill(0)
        touching = self._contacts.nonzero()[0]
        for row in touching.tolist():
            self.batch.get_data(row, self._scratch)
            mujoco.mj_rnePostConstraint(self.model, self._scratch)
            self._forces[row] = self._scratch.cfrc_ext
        np.clip(self._forces, *self.settings.contact_force_range, out=self._forces)

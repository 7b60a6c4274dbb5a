"""Humanoid: walk forward, or stand up, with 17 joints. Semantics of gymnasium's Humanoid-v5 and HumanoidStandup-v5.

Their contact forces are exact. ``HumanoidNoForces`` and ``HumanoidStandupNoForces`` leave them out of the observation
and of the reward; docs/measured.md says what they cost.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unilab.envs.mujoco_env import Array, Bounds, Finite, MujocoSettings, NonNegative, State
from unilab.envs.tasks.contact_forces import ContactForcesVecEnv

ROOT = 6
"""velocities of the root, which no actuator moves"""


@dataclass(frozen=True)
class HumanoidBaseSettings(MujocoSettings):
    """Defaults that Humanoid-v5 and HumanoidStandup-v5 have in common."""

    reset_noise_scale: NonNegative = 1e-2
    ctrl_cost_weight: Finite = 0.1
    """cost of the sum of squared actions"""
    exclude_current_positions_from_observation: bool = True
    """leave x and y out of the observation"""
    include_cinert_in_observation: bool = True
    """observe mass and inertia of every body about the centre of mass"""
    include_cvel_in_observation: bool = True
    """observe the velocity of every body"""
    include_qfrc_actuator_in_observation: bool = True
    """observe the actuators' torques"""
    include_cfrc_ext_in_observation: bool = True
    """observe contact forces and torques of every body"""


@dataclass(frozen=True)
class HumanoidState(State):
    """What a humanoid observes beside positions and velocities, one physics step behind them as MuJoCo has it."""

    x: Array
    """[N] where the centre of mass is"""
    inertia: Array
    """[N, bodies, 10]"""
    velocity: Array
    """[N, bodies, 6]"""
    torque: Array
    """[N, nv] of the actuators"""
    forces: Array
    """[N, bodies, 6] contact forces and torques; of the world body too, which is not observed"""


class HumanoidBase(ContactForcesVecEnv):
    """Observation [N, 348]: positions without x and y, velocities, then what is known of each body and joint."""

    settings: HumanoidBaseSettings
    state: HumanoidState

    def bind_state(self) -> HumanoidState:
        bind = self.batch.bind
        self._centres = bind("xipos")
        self._mass = self.model.body_mass / self.model.body_mass.sum()
        x = self.carried["x"] = np.zeros(self.num_envs)
        return HumanoidState(
            self.qpos, self.qvel, x, bind("cinert"), bind("cvel"), bind("qfrc_actuator"), self.new_forces()
        )

    def observe(self, state: HumanoidState) -> Array:
        settings, rows = self.settings, len(state.qpos)
        parts = [state.qpos[:, 2 * settings.exclude_current_positions_from_observation :], state.qvel]
        # the world body, row 0, is not observed
        if settings.include_cinert_in_observation:
            parts.append(state.inertia[:, 1:].reshape(rows, -1))
        if settings.include_cvel_in_observation:
            parts.append(state.velocity[:, 1:].reshape(rows, -1))
        if settings.include_qfrc_actuator_in_observation:
            parts.append(state.torque[:, ROOT:])
        if settings.include_cfrc_ext_in_observation:
            parts.append(state.forces[:, 1:].reshape(rows, -1))
        return state.xp.concat(parts, axis=1)

    def after_reset(self, ids: NDArray[np.int64]) -> None:
        self.state.x[ids] = self._centres[ids, :, 0] @ self._mass
        self.state.forces[ids] = 0

    def after_physics(self) -> None:
        self.state.x[:] = self._centres[:, :, 0] @ self._mass
        if self.uses_forces:
            self.compute_forces(self.state.forces)

    @staticmethod
    def impact(state: HumanoidState, weight: float, bounds: tuple[float, float]) -> Array:
        """[N] cost of the squared contact forces, clipped."""
        return state.xp.clip(weight * (state.forces**2).sum(axis=(1, 2)), *bounds)


@dataclass(frozen=True)
class HumanoidSettings(HumanoidBaseSettings):
    """Defaults of Humanoid-v5."""

    forward_reward_weight: Finite = 1.25
    """reward for each metre per second of the centre of mass"""
    contact_cost_weight: Finite = 5e-7
    """cost of the sum of squared contact forces; with 0 and no forces observed they are not computed"""
    contact_cost_range: Bounds = (float("-inf"), 10.0)
    """that cost is clipped to it"""
    healthy_reward: Finite = 5.0
    """for each env step that ends healthy"""
    terminate_when_unhealthy: bool = True
    healthy_z_range: Bounds = (1.0, 2.0)
    """metres, exclusive"""


class Humanoid(HumanoidBase):
    """Walk forward without falling."""

    model_file = "humanoid.xml"
    settings_class = HumanoidSettings
    settings: HumanoidSettings

    @property
    def uses_forces(self) -> bool:
        return bool(self.settings.include_cfrc_ext_in_observation or self.settings.contact_cost_weight)

    def evaluate(self, before: HumanoidState, actions: Array, state: HumanoidState) -> tuple[Array, Array]:
        settings = self.settings
        low, high = settings.healthy_z_range
        healthy = (low < state.qpos[:, 2]) & (state.qpos[:, 2] < high)
        gain = settings.forward_reward_weight * (state.x - before.x) / self.dt + settings.healthy_reward * healthy
        cost = settings.ctrl_cost_weight * self.action_cost(actions)
        cost = cost + self.impact(state, settings.contact_cost_weight, settings.contact_cost_range)
        return gain - cost, ~healthy & settings.terminate_when_unhealthy


@dataclass(frozen=True)
class HumanoidNoForcesSettings(HumanoidSettings):
    """As Humanoid, without contact forces."""

    contact_cost_weight: Finite = 0.0
    include_cfrc_ext_in_observation: bool = False


class HumanoidNoForces(Humanoid):
    """Observation [N, 270]: as Humanoid, but contact forces are neither observed nor paid for, and not computed."""

    settings_class = HumanoidNoForcesSettings


@dataclass(frozen=True)
class HumanoidStandupSettings(HumanoidBaseSettings):
    """Defaults of HumanoidStandup-v5."""

    impact_cost_weight: Finite = 0.5e-6
    """cost of the sum of squared contact forces; with 0 and no forces observed they are not computed"""
    impact_cost_range: Bounds = (float("-inf"), 10.0)
    """that cost is clipped to it"""


class HumanoidStandup(HumanoidBase):
    """Stand up from the floor. Never terminates."""

    model_file = "humanoidstandup.xml"
    settings_class = HumanoidStandupSettings
    settings: HumanoidStandupSettings

    @property
    def uses_forces(self) -> bool:
        return bool(self.settings.include_cfrc_ext_in_observation or self.settings.impact_cost_weight)

    def evaluate(self, before: HumanoidState, actions: Array, state: HumanoidState) -> tuple[Array, Array]:
        settings = self.settings
        cost = settings.ctrl_cost_weight * self.action_cost(actions)
        cost = cost + self.impact(state, settings.impact_cost_weight, settings.impact_cost_range)
        # gymnasium's reward divides the height by the time of a physics step, and reads no weight of it
        return state.qpos[:, 2] / self.model.opt.timestep - cost + 1, False


@dataclass(frozen=True)
class HumanoidStandupNoForcesSettings(HumanoidStandupSettings):
    """As HumanoidStandup, without contact forces."""

    impact_cost_weight: Finite = 0.0
    include_cfrc_ext_in_observation: bool = False


class HumanoidStandupNoForces(HumanoidStandup):
    """Observation [N, 270]: as HumanoidStandup, but contact forces are neither observed nor paid for."""

    settings_class = HumanoidStandupNoForcesSettings

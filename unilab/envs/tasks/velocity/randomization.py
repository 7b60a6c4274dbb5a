"""Domain randomization: what differs between simulations, drawn anew for each episode; all off by default.

Ranges of other projects: MuJoCo Playground (arXiv:2502.08844) draws friction from 0.4 to 1, adds up to 1 kg to the
trunk and 5 cm to its centre of mass, and multiplies masses and armature by about 0.9 to 1.1; mjlab pushes by up to
0.5 m/s every 1 to 3 s.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from unilab.envs.mujoco_env import STRICT, FiniteBounds, NonNegative, Positive, ordered
from unilab.settings import SettingsError

NotNegative = Annotated[tuple[NonNegative, NonNegative], AfterValidator(ordered)]
Factors = Annotated[tuple[Positive, Positive], AfterValidator(ordered)]


@dataclass(frozen=True)
class Randomization:
    """None and 0: not randomized."""

    __pydantic_config__ = STRICT

    friction: NotNegative | None = None
    """of the ground"""
    trunk_mass: FiniteBounds | None = None
    """kilograms that are added to the trunk"""
    masses: Factors | None = None
    """factors of the masses and inertias of all other bodies"""
    centre_of_mass: NonNegative = 0.0
    """metres by which the trunk's is shifted along each axis, at most"""
    gains: Factors | None = None
    """factors of the position gains"""
    damping: NotNegative | None = None
    """factors of the joints' damping"""
    armature: NotNegative | None = None
    """factors of the rotor inertias"""
    motor_strength: NotNegative | None = None
    """factors of the largest torques"""
    push: NonNegative = 0.0
    """m/s by which the trunk is pushed along each horizontal axis, at most"""
    push_seconds: Positive = 2.0
    """between two pushes"""
    latency: Annotated[int, Field(ge=0)] = 0
    """env steps after which an action takes effect, at most; a whole number for each episode"""
    noise: NonNegative = 0.0
    """of observations, as a part of MuJoCo Playground's: gyro 0.2 rad/s, gravity 0.05, joints 0.03 rad and 1.5 rad/s"""


FACTORS = {
    "gains": ("actuator_gainprm", "actuator_biasprm"),
    "damping": ("dof_damping",),
    "armature": ("dof_armature",),
    "motor_strength": ("actuator_forcerange",),
}
"""fields of the model that a setting multiplies, a factor for each row; those of one setting get the same factors"""
DERIVED = {"body_mass", "body_inertia", "body_ipos", "dof_armature"}
"""fields from which MuJoCo computes constants"""
NOISE = (0.2, 0.05, 0.03, 1.5)
"""of gyro, gravity, joint angles and joint velocities"""


class Draws:
    """Fields of the model that each simulation has to itself.

    Args:
        batch: the simulations.
        settings: what differs between them.
        ground: its geom.
        trunk: its body.

    Attributes:
        fields: [N, ...] by name, live.
        drawn: [N, D] what was drawn: the friction, and of all else the difference from what it is otherwise.
    """

    def __init__(self, batch: Batch, settings: Randomization, ground: int, trunk: int) -> None:
        self._batch, self._settings, self._ground, self._trunk = batch, settings, ground, trunk
        mass = float(batch.model.body_mass[trunk])
        if settings.trunk_mass and settings.trunk_mass[0] <= -mass:
            problem = f"takes {-settings.trunk_mass[0]:g} kg from a trunk of {mass:.3g} kg"
            raise SettingsError("randomize.trunk_mass", problem)
        wanted = ["geom_friction"] if settings.friction else []
        wanted += ["body_mass", "body_inertia"] if settings.masses or settings.trunk_mass else []
        wanted += ["body_ipos"] if settings.centre_of_mass else []
        wanted += [name for setting, names in FACTORS.items() if getattr(settings, setting) for name in names]
        self.fields: dict[str, np.ndarray] = {name: batch.expand(name) for name in wanted}
        self._original = {name: values[0].copy() for name, values in self.fields.items()}
        self._friction = batch.model.geom_friction[ground, 0]
        numbers = self._redraw(np.arange(0), np.random.default_rng()).shape[1]
        self.drawn = np.zeros((batch.state.shape[0], numbers))

    def draw(self, ids: NDArray[np.int64], rng: np.random.Generator) -> None:
        """Draw all fields of the rows ``ids`` anew."""
        self.drawn[ids] = self._redraw(ids, rng)
        self.derive(ids)

    def derive(self, ids: NDArray[np.int64] | None = None) -> None:
        """Let MuJoCo compute the constants of the rows ``ids``, or of all, that depend on the fields."""
        if DERIVED & self.fields.keys():
            self._batch.set_const(ids)

    def _redraw(self, ids: NDArray[np.int64], rng: np.random.Generator) -> np.ndarray:
        """Draw all fields of the rows ``ids``; [K, D] what was drawn."""
        settings, fields, original, count = self._settings, self.fields, self._original, ids.size
        seen = [np.full((count, 1), self._friction)]
        if settings.friction:
            seen = [rng.uniform(*settings.friction, (count, 1))]
            fields["geom_friction"][ids, self._ground, 0] = seen[0][:, 0]
        if "body_mass" in fields:
            masses = original["body_mass"]
            factor = rng.uniform(*(settings.masses or (1.0, 1.0)), (count, masses.size))
            added = rng.uniform(*(settings.trunk_mass or (0.0, 0.0)), count)
            factor[:, self._trunk] = 1 + added / masses[self._trunk]
            fields["body_mass"][ids] = masses * factor
            fields["body_inertia"][ids] = original["body_inertia"] * factor[:, :, None]
            seen.append(factor - 1)
        if settings.centre_of_mass:
            shift = rng.uniform(-settings.centre_of_mass, settings.centre_of_mass, (count, 3))
            fields["body_ipos"][ids, self._trunk] = original["body_ipos"][self._trunk] + shift
            seen.append(shift)
        for setting, names in FACTORS.items():
            if bounds := getattr(settings, setting):
                rows = len(original[names[0]])
                factor = rng.uniform(bounds[0], bounds[1], (count, rows))
                for name in names:
                    others = [1] * (original[name].ndim - 1)
                    fields[name][ids] = original[name] * factor.reshape(count, rows, *others)
                seen.append(factor - 1)
        if settings.latency:
            seen.append(rng.integers(0, settings.latency, (count, 1), endpoint=True))
        return np.concatenate(seen, axis=1)

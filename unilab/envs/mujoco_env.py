"""What all MuJoCo tasks share: the physics batch, threads, actions, frame skip, partial reset, faults, exact state.

A task subclasses ``MujocoVecEnv``. Its observation, reward and termination are functions of arrays, for all rows at
once, and for numpy's arrays and torch's alike; see ``tasks/planar.py``.
"""

import importlib.util
import sys
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Self

import mujoco
import numpy as np
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field

from unilab.envs.autoreset import AutoresetVecEnv, Failures
from unilab.envs.mujoco_log import keep_warnings_out_of_files, quiet
from unilab.envs.vec_env import EnvironmentMistake, FloatArray, describe
from unilab.machine.devices import usable_cores
from unilab.settings import parse

STRICT = ConfigDict(extra="forbid")
Array = Any
"""an array of numpy's or of torch's"""

# MuJoCo resets a simulation by itself when it finds one of these, and only counts a warning.
_BAD = {
    "qpos": mujoco.mjtWarning.mjWARN_BADQPOS.value,
    "qvel": mujoco.mjtWarning.mjWARN_BADQVEL.value,
    "qacc": mujoco.mjtWarning.mjWARN_BADQACC.value,
    "action": mujoco.mjtWarning.mjWARN_BADCTRL.value,
}
_SOLVER_STATISTICS = 40
"""bytes of one mjSolverStat, three doubles and four integers; a simulation has thousands of them"""


def ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    """The bounds; a ValueError where the lower one is not below the upper one."""
    if not bounds[0] < bounds[1]:
        raise ValueError(f"the lower bound must be below the upper one, got {bounds[0]} and {bounds[1]}")
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(ordered)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
FiniteBounds = Annotated[tuple[Finite, Finite], AfterValidator(ordered)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class MujocoSettings:
    """Settings that every task has; a task adds its own and may change these defaults."""

    __pydantic_config__ = STRICT

    frame_skip: PositiveInt = 5
    """physics steps of one env step"""
    max_episode_steps: PositiveInt | None = 1000
    """time limit in env steps; None: episodes end by termination only"""
    reset_noise_scale: NonNegative = 0.1
    """size of the noise on the initial positions and velocities"""


def gymnasium_assets() -> Path:
    """Folder of gymnasium's model files, found without importing gymnasium."""
    spec = importlib.util.find_spec("gymnasium")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("gymnasium carries the MuJoCo models and is not installed; pip install gymnasium")
    return Path(spec.origin).parent / "envs" / "mujoco" / "assets"


@dataclass(frozen=True)
class State:
    """What a task's functions are given: arrays with a row for each environment, numpy's or torch's.

    A task that observes more, such as the batch's sensors, adds fields in a subclass; see ``MujocoVecEnv.bind_state``.
    """

    qpos: Array
    """[N, nq] positions, float64"""
    qvel: Array
    """[N, nv] velocities, float64"""

    @property
    def xp(self) -> ModuleType:
        """The module whose functions take these arrays: ``numpy`` or ``torch``.

        Functions and arguments are the same in both where the array API standard has them: ``xp.cos(a)``,
        ``xp.stack([a, b], axis=1)``, ``xp.concat``, ``xp.where``, ``xp.clip``, ``a.sum(axis=1)``, ...
        """
        return np if isinstance(self.qpos, np.ndarray) else sys.modules[type(self.qpos).__module__.partition(".")[0]]

    def rows(self, ids: Array) -> Self:
        """The rows ``ids`` [K] alone."""
        return type(self)(*(getattr(self, field.name)[ids] for field in fields(self)))

    def copy_from(self, other: Self) -> None:
        """Take the numbers of another state of the same shapes."""
        for field in fields(self):
            getattr(self, field.name)[...] = getattr(other, field.name)


class MujocoVecEnv(AutoresetVecEnv):
    """N simulations of one model on ``mujoco.batch.Batch``.

    A task's functions ``observe``, ``observe_critic`` and ``evaluate`` take everything that changes from their
    arguments; of the object they may read ``settings``, ``model``, ``dt`` (seconds of an env step), ``init_qpos`` [nq]
    and ``init_qvel`` [nv]. ``state`` holds live views of all rows, ``before`` what they were before the step.
    """

    simulates_here = True
    settings_class: ClassVar[type[MujocoSettings]] = MujocoSettings
    model_file: ClassVar[str]
    """absolute path of the model's XML file, or the name of one of gymnasium's"""

    def __init__(self, num_envs: int, *, num_threads: int | None = None, seed: int | None = None, **cfg: Any) -> None:
        """Load the model and allocate all buffers.

        Args:
            num_envs: number of simulations, N.
            num_threads: physics threads, the caller's included; None: all cores this process may use.
            seed: of the reset noise; None: from the operating system.
            cfg: overrides of the task's settings.

        Raises:
            SettingsError: an unknown or impossible setting.
            ValueError: ``num_envs`` or ``num_threads`` below 1.
        """
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1 (or None for all cores), got {num_threads}")
        self.settings = parse(self.settings_class, cfg)
        keep_warnings_out_of_files()
        self.model = self.load_model()
        if self.model.ntree == 1:
            # One tree has no islands to be found: the same results, bit for bit, for 5 % less work.
            self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND.value
        low, high = self.action_bounds()
        super().__init__(
            num_envs,
            action_low=low,
            action_high=high,
            max_episode_steps=self.settings.max_episode_steps,
            num_threads=num_threads or usable_cores(),
            seed=seed,
        )
        self._without_physics = frozenset(vars(self))
        self.dt = self.model.opt.timestep * self.settings.frame_skip
        self.batch = Batch(self.model, num_envs, self.num_threads, persistent=self.persistent)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.init_qpos, self.init_qvel = self.qpos[0].copy(), self.qvel[0].copy()
        self.carried: dict[str, np.ndarray] = {}
        """arrays of the task that outlive a step; saved and loaded with the state"""
        self._loaded: dict[str, np.ndarray] = {}
        """what the physics had computed for a state that was loaded, until the next step"""
        self._terms: dict[str, float] = {}
        self._steps_of_terms = 0
        self._ctrl = self.batch.bind("ctrl")
        self._warnings = self.batch.warning[:, :, 1]
        self._before = self.batch.state.copy()
        self.state = self.bind_state()
        self.before = self.state.rows(np.arange(num_envs))
        self._allocate(self._width("observe"), self._width("observe_critic"))

    def _width(self, method: str) -> int:
        """Numbers that a row observes, asked when nothing is computed yet; 0: no privileged observation."""
        with np.errstate(all="ignore"):
            seen = getattr(self, method)(self.state)
        if seen is None and method == "observe_critic":
            return 0
        if np.ndim(seen) != 2 or len(seen) != self.num_envs:
            raise self._mistake(method, seen, f"an array of shape ({self.num_envs}, numbers of a row)")
        return seen.shape[1]

    # What a task provides.

    @abstractmethod
    def observe(self, state: Any) -> Array:
        """The observation [K, O] of the K rows of ``state``; also called before the first episode, which tells O."""

    @abstractmethod
    def evaluate(self, before: Any, actions: Array, state: Any) -> tuple[Array, Array]:
        """The step that ``actions`` [N, A] (float32) made of ``before``, which gave ``state``.

        Returns:
            reward and terminated, each [N] or one value for all rows. The reward may be a dictionary of named terms:
            it is their sum, and each is among the metrics.
        """

    def initial_state(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions [count, nq] and velocities [count, nv] of ``count`` new episodes: the model's, with reset noise."""
        qpos = self.init_qpos + self.uniform_noise(count, self.model.nq)
        return qpos, self.init_qvel + self.velocity_noise(count, self.model.nv)

    def load_model(self) -> mujoco.MjModel:
        """The compiled model, by default that of ``model_file``."""
        path = Path(self.model_file)
        if path.is_absolute():
            return mujoco.MjModel.from_xml_path(str(path))
        with quiet():
            return mujoco.MjModel.from_xml_path(str(gymnasium_assets() / path))

    @property
    def persistent(self) -> bool:
        """Keep one MjData a simulation; costs memory, needed to read more of it than the batch binds."""
        return False

    def action_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest action [A], from ``model`` and ``settings`` alone; by default the controls' limits."""
        limited = self.model.actuator_ctrllimited.astype(bool)
        low, high = self.model.actuator_ctrlrange.T
        return np.where(limited, low, -np.inf), np.where(limited, high, np.inf)

    def apply_action(self, actions: FloatArray) -> Array:
        """The controls [N, nu] for ``actions`` [N, A]; called before each step, when ``before`` has been taken."""
        return actions

    def randomize(self, ids: NDArray[np.int64]) -> None:
        """Draw anew what differs between the simulations of rows ``ids``, which begin new episodes.

        Such are fields of the model that ``batch.expand`` has given to each simulation; an array that ``carried`` has
        as well is saved and loaded with the state. The positions are placed and nothing is computed yet.
        """

    def observe_critic(self, state: Any) -> Array | None:
        """The privileged observation [K, C] of the K rows of ``state``; None: there is none."""
        return None

    def bind_state(self) -> State:
        """The arrays that the task's functions are given, as live views [N, ...] of ``batch`` or arrays of its own.

        A task with more than positions and velocities returns a subclass: ``Sensed(self.qpos, self.qvel,
        self.batch.bind("sensordata"))``.
        """
        return State(self.qpos, self.qvel)

    def after_reset(self, ids: NDArray[np.int64]) -> None:
        """New episodes were placed in rows ``ids`` and their derived fields computed; nothing observed yet."""

    def after_physics(self) -> None:
        """All rows were stepped; nothing evaluated or observed yet."""

    # For tasks and their users.

    def figures(self) -> dict[str, float]:
        """What the metrics have beside the reward's terms: numbers of this moment."""
        return {}

    def deployment(self) -> dict[str, Any]:
        model, kinds = self.model, self.model.actuator_trntype
        known: dict[str, Any] = {"step_seconds": self.dt}
        if self.action_dim == model.nu and (kinds == mujoco.mjtTrn.mjTRN_JOINT.value).all():
            known["joint_names"] = [model.joint(joint).name for joint in model.actuator_trnid[:, 0]]
        return known

    def visible_model(self) -> mujoco.MjModel:
        """The model with all that is to be seen in pictures; positions are the same."""
        return self.model

    def annotate(self, scene: mujoco.MjvScene, row: int) -> None:
        """Add marks to a picture of the row, such as ``unilab.envs.rendering.marks.arrow``."""

    @staticmethod
    def action_cost(actions: Array) -> Array:
        """[N] sum of the squared actions."""
        return (actions**2).sum(axis=1)

    def uniform_noise(self, count: int, size: int) -> np.ndarray:
        """[count, size] uniform within ``reset_noise_scale`` of zero."""
        scale = self.settings.reset_noise_scale
        return self.rng.uniform(-scale, scale, (count, size))

    def normal_noise(self, count: int, size: int) -> np.ndarray:
        """[count, size] normal with standard deviation ``reset_noise_scale``."""
        return self.settings.reset_noise_scale * self.rng.standard_normal((count, size))

    velocity_noise = uniform_noise
    """the noise of the initial velocities; a task that has the other one names that"""

    def set_state(self, ids: NDArray[np.int64], qpos: np.ndarray, qvel: np.ndarray) -> FloatArray:
        """Begin new episodes in rows ``ids`` (ascending) at qpos [K, nq], qvel [K, nv].

        Returns:
            The observation of all rows, [N, O].

        Raises:
            ValueError: a NaN or infinity in the state.
        """
        self._check_open()
        if not (np.isfinite(qpos).all() and np.isfinite(qvel).all()):
            raise ValueError(f"{self._name}: set_state needs finite qpos and qvel")
        self.elapsed_steps[ids] = 0
        self._place(np.asarray(ids), qpos, qvel)
        return self._obs

    def bytes_taken(self) -> tuple[int, int, int]:
        """Bytes of the model, of each physics thread, and of each row without the buffers of ``AutoresetVecEnv``.

        A row has fields of the model to itself once ``randomize`` has drawn them: with the first ``reset``.
        """
        data = mujoco.MjData(self.model)
        mujoco.mj_step(self.model, data)
        # the rest of the arena is address space, never touched
        simulation = data.nbuffer + data.maxuse_arena + _SOLVER_STATISTICS * len(data.solver)
        views = [getattr(self.before, field.name)[0] for field in fields(self.before)]
        row = 2 * self._before[0].nbytes + 2 * sum(view.nbytes for view in views)
        drawn = map(self.batch.expanded, MODEL_FIELDS)
        row += sum(values[0].nbytes for values in drawn if values is not None)
        return 2 * self.model.nbuffer, simulation, row + (simulation if self.persistent else 0)

    # The steps of ``AutoresetVecEnv``.

    def _advance(self, actions: FloatArray) -> Failures:
        self.before.copy_from(self.state)
        for name, array in self._loaded.items():
            getattr(self.before, name.removeprefix("state."))[...] = array
        self._loaded = {}
        self._ctrl[...] = self.apply_action(actions)
        np.copyto(self._before, self.batch.state)
        failures: Failures = {}
        try:
            self.batch.step(nstep=self.settings.frame_skip)
        except SimulationError as error:
            failures = {int(row): ("simulation", self.batch.error(int(row))) for row in error.ids}
        self.after_physics()
        evaluated = self.evaluate(self.before, actions, self.state)
        if not (isinstance(evaluated, tuple) and len(evaluated) == 2):
            raise self._mistake("evaluate", evaluated, "a tuple (reward, terminated)")
        reward = evaluated[0]
        if isinstance(reward, Mapping):
            terms = np.empty((len(reward), self.num_envs))
            for row, (name, term) in zip(terms, reward.items(), strict=True):
                if np.shape(term) not in ((), row.shape):
                    raise self._mistake("evaluate", term, f"an array of shape {row.shape}", f"as reward/{name} ")
                row[:] = term
            means, summed = terms.mean(axis=1), terms.sum(axis=0)
            usable = np.isfinite(summed)
            if not usable.all():  # a row that failed says nothing of the others
                means = terms[:, usable].mean(axis=1) if usable.any() else means[:0]
            for name, mean in zip(reward, means.tolist(), strict=False):
                self._terms[name] = self._terms.get(name, 0.0) + mean
            self._steps_of_terms += bool(means.size)
            reward = summed
        for part, value, buffer in (
            ("reward", reward, self._reward),
            ("terminated", evaluated[1], self._terminated),
        ):
            if value is None or np.shape(value) not in ((), buffer.shape):
                raise self._mistake("evaluate", value, f"an array of shape {buffer.shape}", f"as {part} ")
            buffer[...] = value
        self._write_obs(slice(None), self.state)
        # A sum is one cheap pass and is not finite if any term is not.
        if self._warnings.any() or not np.isfinite(self.batch.state.sum()):
            for field, kind in _BAD.items():  # that MuJoCo found during the step
                for row in self._warnings[:, kind].nonzero()[0].tolist():
                    failures.setdefault(row, (field, "NaN, infinite or beyond 1e10"))
            for field, values in (("qpos", self.qpos), ("qvel", self.qvel)):  # that its last physics step left
                for row in (~np.isfinite(values)).any(axis=1).nonzero()[0].tolist():
                    failures.setdefault(row, (field, "not finite"))
        return failures

    def _write_obs(self, rows: Any, state: State) -> None:
        """Write what is observed of ``state``, the state of these rows, into the buffers."""
        for method, buffer in (("observe", self._obs), ("observe_critic", self._critic)):
            if size := buffer.shape[1]:
                seen = getattr(self, method)(state)
                if np.shape(seen) != (len(state.qpos), size):  # numpy would broadcast it
                    raise self._mistake(method, seen, f"an array of shape {(len(state.qpos), size)}")
                buffer[rows] = seen

    def _begin(self, ids: NDArray[np.int64]) -> None:
        returned, count = self.initial_state(ids.size), ids.size
        shapes = [np.shape(part) for part in returned] if isinstance(returned, tuple) else []
        if shapes != [(count, self.model.nq), (count, self.model.nv)]:
            got = f"arrays of shapes {shapes}" if shapes else describe(returned)
            raise EnvironmentMistake(
                f"{self._name}: initial_state({count}) returned {got}; expected positions {(count, self.model.nq)} and "
                f"velocities {(count, self.model.nv)}"
            )
        self._place(ids, *returned)

    def _place(self, ids: NDArray[np.int64], qpos: np.ndarray, qvel: np.ndarray) -> None:
        self._loaded = {}
        self.batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.qpos[ids], self.qvel[ids] = qpos, qvel
        self.randomize(ids)
        self.batch.forward(ids)
        self.after_reset(ids)
        self._write_obs(ids, self.state.rows(ids))

    def metrics(self) -> dict[str, float]:
        means = {f"reward/{name}": total / self._steps_of_terms for name, total in self._terms.items()}
        self._terms, self._steps_of_terms = {}, 0
        return means | self.figures()

    def _state_before(self, row: int) -> np.ndarray:
        return self._before[row].copy()

    def _state(self) -> dict[str, Any]:
        own = {name: array.copy() for name, array in (self.carried | self._computed() | self._loaded).items()}
        return {"physics": self.batch.state.copy()} | own

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.batch.reset(stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.batch.state[:] = np.asarray(state["physics"])
        for name, array in self.carried.items():
            array[...] = np.asarray(state[name])
        # only the physics may write there
        self._loaded = {name: np.asarray(state[name]) for name in self._computed()}

    def _computed(self) -> dict[str, np.ndarray]:
        """What the physics computed for ``state`` in the last step, live: the next one needs it as ``before``."""
        views = {field.name: getattr(self.state, field.name) for field in fields(self.state)}
        known = {"qpos", "qvel"} | {name for name, view in views.items() if view is self.carried.get(name)}
        return {f"state.{name}": view for name, view in views.items() if name not in known}

    def close(self) -> None:
        super().close()
        # The batch's threads end with the last view of its memory.
        for name in vars(self).keys() - self._without_physics:
            if isinstance(getattr(self, name), Batch | np.ndarray | State):
                delattr(self, name)
        self.carried.clear()

"""What the harness asks of a trainer, and where trainers come from: by name, or ``package.module:Class``."""

import importlib
import inspect
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from unilab.errors import UserError
from unilab.ipc.memory_budget import MemoryBudget
from unilab.run.progress import Progress, Summary
from unilab.settings import SettingsError, changes, flatten, nearest, parse

OnProgress = Callable[[Progress], bool]
KeptPolicy = Callable[[int], tuple[float, dict[str, float]]]
"""called with a number of episodes; returns the seconds that it was trained for, and what its environment says of it"""
ENTERED = "HARNESS_PYTHON"
"""variable of the environment: the interpreter that ``enter`` made a process one of"""


class TrainerError(UserError, ValueError):
    """There is no such trainer, or it lacks a method."""


class Trainer(ABC):
    """A trainer as the harness sees it: it names its settings, says what they will take, and trains.

    A class that inherits from this one has to give ``defaults`` and ``run``, and may give the rest. Settings are
    dictionaries of dotted names. Nothing but ``run`` may start processes or allocate. One that describes its rounds as
    well (``harness.trainers.rounds.Describes``) gets predictions and verdicts.
    """

    device_settings: tuple[str, ...] = ()
    """names of the settings whose values are devices"""
    learning_code: tuple[str, ...] = ()
    """modules that decide what a run learns, with all that they load; empty: not stated"""
    resumes: bool = True
    """whether a run can go on from what an earlier one saved"""
    unilab_environments: bool = False
    """whether its environments are those that ``unilab.envs`` knows, so that a plan finds a wrong name"""

    @abstractmethod
    def defaults(self) -> dict[str, Any]:
        """Every setting and its default; ``env`` is one of them, and ``seed`` gets another value each repeat."""

    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Every setting with the value that a run uses."""
        return self.defaults() | dict(settings)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check each setting: it is known, and of the type of its default; a default of None allows anything.

        Raises:
            SettingsError: naming the setting, and the nearest known one.
        """
        defaults = self.defaults()
        for name, value in settings.items():
            if name not in defaults:
                raise SettingsError(name, f"unknown setting; {nearest(name, defaults)}")
            kind = type(defaults[name])
            alike = {float: (int, float), list: (list, tuple), tuple: (list, tuple), type(None): (object,)}
            if not isinstance(value, alike.get(kind, kind)) or (isinstance(value, bool) and kind in (int, float)):
                raise SettingsError(name, f"expected {kind.__name__} as in {defaults[name]!r}, got {value!r}")

    def dotted(self, settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Groups taken apart; a setting whose value is a dictionary stays as it is."""
        known = self.defaults()
        for name, value in settings.items():
            full = f"{prefix}{name}"
            is_group = full not in known and any(other.startswith(f"{full}.") for other in known)
            if is_group and isinstance(value, Mapping):
                yield from self.dotted(value, f"{full}.")
            else:
                yield full, value

    def check_together(self, settings: Mapping[str, Any]) -> None:  # noqa: B027 most have nothing to add
        """Raises ``SettingsError`` where settings, each possible by itself, contradict each other or a default."""

    def check_environment(self, settings: Mapping[str, Any]) -> None:  # noqa: B027 most train in any
        """Raises ``SettingsError`` where this trainer, or a network that the settings describe, does not fit the
        environment. That the environment can be made is known."""

    def changes(self) -> Mapping[str, str]:
        """What each setting may change (``unilab.settings.changes``); it is not known of a setting that is missing."""
        return {}

    def placements(self, settings: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        """Settings that change placement alone, and the values of each that make sense on this machine beside
        ``settings``: what ``search: {placement: auto}`` stands for. The trainer's default comes first. Devices may be
        named that are not there. Empty: the trainer does not say."""
        return {}

    def idle(self, settings: Mapping[str, Any]) -> frozenset[str]:
        """Names of settings that change nothing beside the others: they are not searched, and not shown."""
        return frozenset()

    def budget(self, settings: Mapping[str, Any]) -> MemoryBudget | None:
        """What a run will hold in memory, or None when it cannot be predicted."""
        return None

    def warmup_iterations(self, settings: Mapping[str, Any]) -> int:
        """Learner iterations after which each buffer has been wrapped once; 0 where nothing is to be waited for."""
        return 0

    def threads(self, settings: Mapping[str, Any]) -> dict[str, int]:
        """How a run divides the cores of this machine, by the name of the part; empty when it is not known."""
        return {}

    def pausable(self, settings: Mapping[str, Any]) -> bool:
        """Whether all of its work is done on the CPUs of this machine, by the processes that it starts.

        Only such trials take turns (``harness.measure.interleaving``): work on a device, on other machines or in a
        simulator elsewhere goes on while the processes are stopped. A trainer that does not say so never does.
        """
        return False

    def interpreter(self, settings: Mapping[str, Any]) -> str | None:
        """Program of the Python that has to run it, see ``enter``; None: the one that runs the harness."""
        return None

    @abstractmethod
    def run(
        self,
        settings: Mapping[str, Any],
        on_progress: OnProgress,
        *,
        log_dir: Path,
        max_iterations: int,
        max_seconds: float | None = None,
        save_interval: int = 50,
        resume: Path | None = None,
        keep_seconds: float | None = None,
    ) -> Summary:
        """Train until ``on_progress`` returns False or a limit is reached.

        ``save_interval`` is iterations between checkpoints, or 0: none while it trains, because it is measured.
        ``keep_seconds`` is the wall time between two policies that are kept for ``kept``; only a trainer that has this
        method is given it. ``on_progress`` is called after every iteration with counters since the start; their
        differences are what is measured.
        """

    def evaluate(self, settings: Mapping[str, Any], log_dir: Path, episodes: int) -> float:
        """Mean return of so many whole episodes, played without noise by the policy that ``run`` has just trained.

        Args:
            settings: those of the run, whose seed decides about the episodes.
            log_dir: of the run.
            episodes: at least so many are played.
        """
        raise NotImplementedError

    @property
    def evaluates(self) -> bool:
        """Whether it has ``evaluate``."""
        return type(self).evaluate is not Trainer.evaluate

    def kept(self, settings: Mapping[str, Any], log_dir: Path) -> Sequence[KeptPolicy]:
        """The policies that ``run`` has just kept, oldest first, to be judged by their environment.

        Args:
            settings: those of the run, whose seed decides about the episodes.
            log_dir: of the run.
        """
        raise NotImplementedError

    @property
    def keeps(self) -> bool:
        """Whether it has ``kept``."""
        return type(self).kept is not Trainer.kept


def threads_text(trainer: Trainer, settings: Mapping[str, Any]) -> str:
    """``Trainer.threads`` as records have it."""
    return ", ".join(f"{part} {count}" for part, count in trainer.threads(settings).items())


class ConfiguredTrainer(Trainer):
    """A trainer whose settings are a dataclass, in environments that may be this project's."""

    unilab_environments = True
    config_type: type
    """of the settings"""

    def config(self, settings: Mapping[str, Any]) -> Any:
        """The settings as the dataclass, those that are not given with their defaults."""
        return parse(self.config_type, settings)

    def defaults(self) -> dict[str, Any]:
        return flatten(self.config_type())

    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return flatten(self.config(settings))

    def changes(self) -> Mapping[str, str]:
        return changes(self.config_type)

    def check(self, settings: Mapping[str, Any]) -> None:
        self.config(settings)

    def pausable(self, settings: Mapping[str, Any]) -> bool:
        from unilab.envs.registry import simulates_here

        chosen = self.defaults() | dict(settings)
        return {chosen[name] for name in self.device_settings} == {"cpu"} and simulates_here(chosen["env"])


REGISTRY = {
    "appo": "harness.trainers.own:APPOTrainer",
    "sac": "harness.trainers.own:SACTrainer",
    "td3": "harness.trainers.own:TD3Trainer",
}
"""ours, which are loaded when one is asked for"""


def get(name: str) -> Trainer:
    """The trainer of that name.

    Raises:
        TrainerError: unknown name, or nothing to import there.
    """
    if ":" not in name and name not in REGISTRY:
        raise TrainerError(f"unknown trainer '{name}'; {nearest(name, REGISTRY)} (or package.module:Class)")
    module, _, attribute = REGISTRY.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise TrainerError(f"trainer '{name}' cannot be loaded: {error}") from error
    # whatever else is there may do anything when it is called
    if not (isinstance(found, type) and issubclass(found, Trainer)):
        raise TrainerError(f"'{name}' is no trainer: expected a class that inherits from harness.trainers.Trainer")
    if inspect.isabstract(found):
        raise TrainerError(f"trainer '{name}' lacks the methods {', '.join(sorted(found.__abstractmethods__))}")
    try:
        return found()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise TrainerError(f"trainer '{name}' cannot be loaded: {error}") from error


def enter(python: str | None, program: str, keep_fd: int | None = None) -> None:
    """Replace this process by one of the interpreter ``python``, with the same number, arguments and environment.

    There this project is found and, if both are of one version, what else the interpreter lacks and this one has.

    Args:
        python: None, or that of this process: nothing happens.
        program: module that runs there as the main one, or the file of a script.
        keep_fd: descriptor that stays open.
    """
    if python in (None, os.environ.get(ENTERED)):
        return
    assert python is not None
    if keep_fd is not None:
        os.set_inheritable(keep_fd, True)
    root, run = str(Path(__file__).resolve().parents[2]), "path" if program.endswith(".py") else "module"
    code = (
        f"import runpy, sys; sys.path[0] = {sys.path[0]!r}; "
        f"sys.path += [{root!r}] + {sys.path!r} * (sys.version_info[:2] == {sys.version_info[:2]!r}); "
        f"sys.argv = {sys.argv!r}; runpy.run_{run}({program!r}, run_name='__main__')"
    )
    os.execve(python, [python, "-c", code], os.environ | {ENTERED: python})


def calm_thread_pools(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep the thread pools of several processes from fighting for cores; before torch or numpy is imported.

    Each process starts with as many threads as there are cores. Trainers set their own counts where they want more.
    What the user has set stays.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(variable, "1")

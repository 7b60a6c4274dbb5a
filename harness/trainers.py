"""What the harness asks of a trainer, and where trainers come from: by name, or ``package.module:Class``."""

import importlib
import os
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unilab.algos.torch.appo.config import APPOConfig
from unilab.training.progress import Progress, Summary
from unilab.training.settings import flatten, nearest, parse

if TYPE_CHECKING:  # unilab.ipc loads torch, which takes longer than a wrong suite may take to be refused
    from unilab.ipc.budget import MemoryBudget

OnProgress = Callable[[Progress], bool]


class TrainerError(ValueError):
    """No such trainer, or it lacks something."""


class Trainer(Protocol):
    """A trainer as the harness sees it: it describes its settings, predicts its memory, and runs.

    Settings are dictionaries of dotted names. Nothing but ``run`` may start processes or allocate.
    """

    device_settings: tuple[str, ...]
    """names of the settings whose values are devices"""

    def defaults(self) -> dict[str, Any]:
        """Every setting and its default."""
        ...

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises ``unilab.training.settings.SettingsError`` for a name or value that cannot be."""
        ...

    def budget(self, settings: Mapping[str, Any]) -> "MemoryBudget | None":
        """What a run will hold in memory, or None when it cannot be predicted."""
        ...

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
    ) -> Summary:
        """Train until ``on_progress`` returns False or a limit is reached."""
        ...


class APPOTrainer:
    """Asynchronous PPO."""

    device_settings: tuple[str, ...] = ("collector_device", "learner_device")

    def defaults(self) -> dict[str, Any]:
        return flatten(APPOConfig())

    def check(self, settings: Mapping[str, Any]) -> None:
        parse(APPOConfig, settings)

    def budget(self, settings: Mapping[str, Any]) -> "MemoryBudget | None":
        from unilab.ipc.memory_budget import estimate_appo

        return estimate_appo(parse(APPOConfig, settings))

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
    ) -> Summary:
        from unilab.algos.torch.appo.runner import APPORunner

        with APPORunner.from_config(parse(APPOConfig, settings)) as runner:
            return runner.learn(
                max_iterations,
                save_interval,
                str(log_dir),
                on_iteration=on_progress,
                max_seconds=max_seconds,
                resume=resume,
            )


REGISTRY: dict[str, Callable[[], Trainer]] = {"appo": APPOTrainer}


def get(name: str) -> Trainer:
    """The trainer of that name.

    Raises:
        TrainerError: unknown name, or nothing to import there.
    """
    if ":" not in name:
        if name not in REGISTRY:
            raise TrainerError(f"unknown trainer '{name}'; {nearest(name, REGISTRY)} (or package.module:Class)")
        return REGISTRY[name]()
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise TrainerError(f"trainer '{name}' cannot be loaded: {error}") from error


def calm_thread_pools(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep the thread pools of several processes from fighting for cores; before torch or numpy is imported.

    Idle OpenMP threads spin by default, which halves the speed of whatever else runs on their cores; and each
    process starts with as many threads as there are cores. Trainers set their own counts where they want more.
    What the user has set stays.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(variable, "1")

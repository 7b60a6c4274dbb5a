"""A trainer of another package: its settings here, its training in a driver that alone imports the package.

A driver is a function that trains until its ``Report`` says no more, saves what it trained and gives its ``Act``. It
runs in the process of a repeat or of ``harness train``, or in the interpreter that the setting ``python`` names
(``harness.trainers.trainer.enter``).
"""

import dataclasses
import functools
import importlib
import importlib.util
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.trainers.trainer import ENTERED, ConfiguredTrainer, KeptPolicy, OnProgress
from unilab.errors import UserError
from unilab.run.config import STRICT, NonNegativeInt, PositiveInt
from unilab.run.progress import Progress, Summary
from unilab.run.signals import stop_on_signals
from unilab.settings import Placement, SettingsError

if TYPE_CHECKING:
    from unilab.envs import VecEnv

Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""a trained policy without noise: actions [N, A] for observations [N, O]"""
UNKNOWN = dict.fromkeys(
    (
        "learner_busy_seconds", "learner_wait_seconds", "collector_busy_seconds", "collector_wait_seconds",
        "policy_lag", "policy_lag_mean",
    ),
    math.nan,
)  # fmt: skip
"""counters that are not 0 but unknown unless a driver reports them"""


class ForeignTrainerError(UserError, RuntimeError):
    """Another package ended its training by itself."""


class StopTraining(Exception):
    """Ends a training loop that has no other way out than its number of iterations."""


@dataclass
class Report:
    """What a driver calls with its counters after each iteration; False once it should stop."""

    on_progress: OnProgress
    signals: stop_on_signals
    max_iterations: int
    max_seconds: float
    keep_seconds: float
    """between two policies that are kept"""
    kept: list[tuple[float, Act]] = field(default_factory=list)
    """policies as they were, each with the wall time of training"""
    began: float = field(default_factory=time.monotonic)
    """before the environments and networks are made, as with our own trainers"""
    progress: Progress = field(default_factory=Progress)
    stopped_by: str | None = None

    def __call__(self, policy: Callable[[], Act], **counters: Any) -> bool:
        """Report fields of ``unilab.run.progress.Progress``, all cumulative; the wall time is added here.

        ``policy`` gives the policy as it is now, and is called when one is to be kept.
        """
        self.progress = Progress(**{**UNKNOWN, "wall_seconds": time.monotonic() - self.began, **counters})
        seconds = self.progress.wall_seconds
        if seconds - (self.kept[-1][0] if self.kept else 0.0) >= self.keep_seconds:
            self.kept.append((seconds, policy()))
        if not self.on_progress(self.progress):
            self.stopped_by = "callback"
        elif self.progress.iteration >= self.max_iterations:
            self.stopped_by = "iterations"
        elif seconds >= self.max_seconds:
            self.stopped_by = "seconds"
        return not self.stopping

    @property
    def stopping(self) -> bool:
        """A stop was asked for: for drivers that can end between two reports."""
        if self.signals.signal is not None:
            self.stopped_by = self.signals.signal.name
        return self.stopped_by is not None


class UpdateCounter:
    """Steps of a PyTorch optimizer since this was made, where a package does not count them."""

    def __init__(self, optimizer: Any) -> None:
        self.count = 0
        optimizer.register_step_post_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def in_turns(env_steps: int, collecting: float, learning: float) -> dict[str, Any]:
    """Counters of a trainer that collects and learns in turns: while one is busy, for so many seconds, the other waits.

    It learns with the weights that acted, and from every env step.
    """
    return {
        "env_steps": env_steps,
        "collected_env_steps": env_steps,
        "collector_busy_seconds": collecting,
        "collector_wait_seconds": learning,
        "learner_busy_seconds": learning,
        "learner_wait_seconds": collecting,
        "policy_lag": 0.0,
        "policy_lag_mean": 0.0,
    }


@dataclass(frozen=True)
class ForeignConfig:
    """The settings that all foreign trainers have."""

    __pydantic_config__ = STRICT

    env: str = "HalfCheetah"
    env_cfg: dict[str, Any] = field(default_factory=dict)
    """overrides of the environment's own settings"""
    seed: NonNegativeInt = 0
    device: Placement[str] = "cpu"
    """of the networks"""
    threads: Placement[PositiveInt] = 1
    """of PyTorch's operations in the process that learns"""
    python: Placement[str | None] = None
    """interpreter that has the package; None: this one"""


class ForeignTrainer(ConfiguredTrainer):
    """Trains with another package. Its settings are a ``ForeignConfig``."""

    device_settings: tuple[str, ...] = ("device",)
    resumes = False
    driver: str
    """``module:function``, called with all settings (groups as dictionaries), a ``Report`` and the log folder"""
    package: str
    """module that has to be there"""
    extra: str
    """of this project, which installs it"""

    def __init__(self) -> None:
        self._policy: Act | None = None
        self._kept: list[tuple[float, Act]] = []

    def check_together(self, settings: Mapping[str, Any]) -> None:
        """Check that the interpreter is there and, as far as can be seen without starting it, has the package."""
        config: ForeignConfig = self.config(settings)
        remedy = f"pip install -e '.[{self.extra}]' in this project's checkout"
        if config.python is None:
            if importlib.util.find_spec(self.package) is None:
                raise SettingsError("python", f"this interpreter has no {self.package}: {remedy}, or name one that has")
        elif shutil.which(config.python) is None:
            raise SettingsError("python", f"there is no program {config.python}; name an interpreter, or {remedy}")

    def threads(self, settings: Mapping[str, Any]) -> dict[str, int]:
        """The threads that the settings name; what else a package starts is not known."""
        chosen = self.defaults() | dict(settings)
        names = {"env_threads": "env", "inference_threads": "inference", "threads": "learner"}
        return {part: chosen[name] for name, part in names.items() if name in chosen}

    def interpreter(self, settings: Mapping[str, Any]) -> str | None:
        named = self.config(settings).python or sys.executable
        python = str(Path(shutil.which(named) or named).absolute())
        return None if python == sys.executable else python

    def run(
        self,
        settings: Mapping[str, Any],
        on_progress: OnProgress,
        *,
        log_dir: Path,
        max_iterations: int,
        max_seconds: float | None = None,
        resume: Path | None = None,
        keep_seconds: float | None = None,
        **_: Any,
    ) -> Summary:
        """Train until ``on_progress`` returns False, a signal or a limit; the package's own model is saved then.

        Raises:
            ForeignTrainerError: it ended by itself.
            SettingsError: it cannot start, or a resume was asked for.
            whatever the package raises.
        """
        if resume is not None:
            raise SettingsError("resume", f"training with {self.package} starts anew each time; leave --resume out")
        self.check_together(settings)
        if self.interpreter(settings) not in (None, os.environ.get(ENTERED)):
            raise SettingsError("python", "the process has to be that interpreter's (harness.trainers.trainer.enter)")
        module, function = self.driver.split(":")
        train = getattr(importlib.import_module(module), function)
        with stop_on_signals() as signals:
            seconds, apart = (math.inf if given is None else given for given in (max_seconds, keep_seconds))
            report = Report(on_progress, signals, max_iterations, seconds, apart)
            # packages take no tuples
            plain = json.loads(json.dumps(dataclasses.asdict(self.config(settings))))
            policy: Act = train(plain, report, log_dir)
        if not report.stopping:
            raise ForeignTrainerError(f"{self.package} ended training although nobody asked it to")
        end, self._policy = report.progress.wall_seconds, policy
        self._kept = [*(one for one in report.kept if one[0] < end), (end, policy)]
        return Summary(report.progress, str(report.stopped_by), None)

    def evaluate(self, settings: Mapping[str, Any], log_dir: Path, episodes: int) -> float:
        """Play the episodes that our own trainers play with this seed."""
        from unilab.algos.torch.evaluate import MOST_ENVS, play

        assert self._policy is not None, "run comes before"
        num_envs = min(episodes, MOST_ENVS)
        with self._acting(settings, self._policy, num_envs) as (env, act, seed):
            returns, _ = play(env, act, seed, -(-episodes // num_envs))
        return float(np.mean(returns))

    def kept(self, settings: Mapping[str, Any], log_dir: Path) -> Sequence[KeptPolicy]:
        def play(seconds: float, policy: Act, episodes: int) -> tuple[float, dict[str, float]]:
            with self._acting(settings, policy, 1) as (env, act, seed):
                return seconds, env.judge(act, episodes, seed)

        return [functools.partial(play, *one) for one in self._kept]

    @contextmanager
    def _acting(self, settings: Mapping[str, Any], policy: Act, num_envs: int) -> Iterator[tuple["VecEnv", Act, int]]:
        """Environments, the policy within their bounds of actions, and the seed that decides about the episodes."""
        from unilab.envs import make
        from unilab.run.seeding import derive_seed

        def act(obs: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.clip(policy(obs).reshape(len(obs), -1), env.action_low, env.action_high)

        config: ForeignConfig = self.config(settings)
        seed = derive_seed(config.seed, "evaluation")
        with make(self.evaluated_in(config), num_envs, env_cfg_override=config.env_cfg, seed=seed) as env:
            yield env, act, seed

    def evaluated_in(self, config: ForeignConfig) -> str:
        """Name of the environment."""
        return config.env

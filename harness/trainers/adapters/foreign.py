"""A trainer of another package: its settings here, its training in a process of its own (``drive.py``).

The package is never imported into a process of the harness, so what it does at import stays outside, and it may live
in another interpreter.
"""

import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import unilab
from harness.trainers.adapters import drive
from harness.trainers.trainer import ConfiguredTrainer, OnProgress
from unilab.errors import UserError
from unilab.run.config import STRICT, NonNegativeInt, PositiveInt
from unilab.run.progress import Progress, Summary
from unilab.settings import SettingsError, flatten

KILL_SECONDS = drive.STOP_SECONDS + 1.0
"""from asking for a stop to SIGKILL"""
LOG_LINES = 20
UNKNOWN = dict.fromkeys(
    (
        "learner_busy_seconds", "learner_wait_seconds", "collector_busy_seconds", "collector_wait_seconds",
        "policy_lag", "policy_lag_mean",
    ),
    math.nan,
)  # fmt: skip
"""counters that are not 0 but unknown unless a driver reports them"""


class ForeignTrainerError(UserError, RuntimeError):
    """A foreign trainer failed or its process died; its traceback is a note, its output in the log that is named."""


@dataclass(frozen=True)
class ForeignConfig:
    """The settings that all foreign trainers have."""

    __pydantic_config__ = STRICT

    env: str = "HalfCheetah"
    env_cfg: dict[str, Any] = field(default_factory=dict)
    """overrides of the environment's own settings"""
    seed: NonNegativeInt = 0
    device: str = "cpu"
    """of the networks"""
    threads: PositiveInt = 1
    """of PyTorch's operations in the process that learns"""
    python: str | None = None
    """interpreter that has the package; None: this one"""


class ForeignTrainer(ConfiguredTrainer):
    """Trains with another package.

    Args:
        config_type: the settings, a ``ForeignConfig``.
        driver: ``module:function``, called with all settings, a ``drive.Reporter`` and the log folder.
        package: module that has to be there.
        extra: of this project, which installs it.
    """

    device_settings: tuple[str, ...] = ("device",)

    def __init__(self, config_type: type[ForeignConfig], driver: str, package: str, extra: str) -> None:
        super().__init__(config_type)
        self._driver, self._package, self._extra = driver, package, extra

    def check_together(self, settings: Mapping[str, Any]) -> None:
        """The interpreter is there and, as far as can be seen without starting it, has the package."""
        config: ForeignConfig = self.config(settings)
        remedy = f"pip install -e '.[{self._extra}]' in this project's checkout"
        if config.python is None:
            if importlib.util.find_spec(self._package) is None:
                raise SettingsError(
                    "python", f"this interpreter has no {self._package}: {remedy}, or name one that has"
                )
        elif shutil.which(config.python) is None:
            raise SettingsError("python", f"there is no program {config.python}; name an interpreter, or {remedy}")

    def threads(self, settings: Mapping[str, Any]) -> dict[str, int]:
        """Those that the settings name: what else a package starts is not known."""
        chosen = self.defaults() | dict(settings)
        names = {"env_threads": "env", "inference_threads": "inference", "threads": "learner"}
        return {part: chosen[name] for name, part in names.items() if name in chosen}

    def pausable(self, settings: Mapping[str, Any]) -> bool:
        """The package's processes descend from the trial's."""
        from unilab.envs.registry import simulates_here

        chosen = self.defaults() | dict(settings)
        return {chosen[name] for name in self.device_settings} == {"cpu"} and simulates_here(chosen["env"])

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
        """Train until ``on_progress`` returns False or a limit is reached; the package's own model is saved then.

        Raises:
            ForeignTrainerError: it failed, died, or ended by itself.
            SettingsError: it cannot start, or a resume was asked for.
        """
        if resume is not None:
            raise SettingsError("resume", f"training with {self._package} starts anew each time; leave --resume out")
        self.check_together(settings)
        config: ForeignConfig = self.config(settings)
        job = {"driver": self._driver, "settings": flatten(config), "log_dir": str(log_dir.absolute())}
        python = sys.executable if config.python is None else str(Path(str(shutil.which(config.python))).absolute())
        with DriverProcess(python, job, log_dir.absolute() / "driver.log") as process:
            for progress in process.progress():
                if not on_progress(progress):
                    reason = "callback"
                elif progress.iteration >= max_iterations:
                    reason = "iterations"
                elif max_seconds is not None and progress.wall_seconds >= max_seconds:
                    reason = "seconds"
                else:
                    continue
                summary = Summary(progress, reason, None)
                break
            else:
                problem = f"{self._package} ended training although nobody asked it to; log: {process.log}"
                raise ForeignTrainerError(problem)
        if how := process.failure():  # what was measured before stays true
            warnings.warn(
                f"{self._package} may have left no model: asked to stop, its process {how}; log: {process.log}",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        return summary


class DriverProcess:
    """``drive.py`` with a job, from entering to leaving the context; it belongs to our process group."""

    def __init__(self, python: str, job: Mapping[str, Any], log: Path) -> None:
        self.log = log
        self._python = python
        self._job = {**job, "path": _path(python)}

    def __enter__(self) -> "DriverProcess":
        reports, report_fd = os.pipe()
        self._reports: IO[str] = os.fdopen(reports, encoding="utf-8")
        command = [self._python, str(Path(drive.__file__).resolve()), str(report_fd)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, pass_fds=[report_fd],
                    cwd=self.log.parent,  # packages leave files behind
                )  # fmt: skip
        except OSError as error:
            self._reports.close()
            raise SettingsError("python", f"{self._python} cannot be started: {error.strerror or error}") from None
        finally:
            os.close(report_fd)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(self._job).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it died at once; why is in the log, which the end of its reports leads to
            pass
        return self

    def progress(self) -> Iterator[Progress]:
        """What the driver reports, until it ends.

        Raises:
            ForeignTrainerError: it raised or died.
        """
        for line in self._reports:
            message = json.loads(line)
            if "progress" in message:
                yield Progress(**{**UNKNOWN, **message["progress"]})
            elif "error" in message:
                error = ForeignTrainerError(f"{message['error']}; log: {self.log}")
                error.add_note(f"in the trainer's process {self._process.pid}:\n{message['traceback']}")
                raise error
            else:
                return
        self._process.wait()
        how = self.failure() or "ended without a word"
        error = ForeignTrainerError(f"the trainer's process {self._process.pid} {how}; log: {self.log}")
        error.add_note("its output ends:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]))
        raise error

    def failure(self) -> str | None:
        """How the process, which is gone, came to a bad end; None: it did not."""
        code = self._process.returncode
        if code == 0:
            return None
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Ask it to stop, wait for it, and end it when that takes too long."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died before it read its job, which closing tries to send again
            self._process.stdin.close()
        self._reports.close()  # nor can a full pipe keep it from ending
        try:
            self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _path(python: str) -> list[str]:
    """Where the driver finds this project and, if the interpreter is of our version, what else it lacks."""
    root = str(Path(unilab.__file__).resolve().parent.parent)
    version = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    ours = "{} {}".format(*sys.version_info)
    same = python == sys.executable or subprocess.run(version, capture_output=True, text=True).stdout.strip() == ours
    return [root, *(os.path.abspath(path) for path in sys.path if same)]  # noqa: PTH100 archives are no folders

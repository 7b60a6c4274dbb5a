"""``train``: one configuration, of an environment or from a file such as best.yaml, in this process."""

import dataclasses
import re
import shlex
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files.yaml_file import Document, InputError, Mistakes, to_yaml
from harness.measure.record import write_atomic
from harness.measure.repeat import UNLIMITED
from harness.predict import checks
from harness.runs import folder as run_folder
from harness.study import timelines
from harness.suite.text import number_text
from harness.trainers import trainer as trainers
from harness.trainers.trainer import Trainer, TrainerError
from unilab.ipc.memory_budget import MemoryAvailable
from unilab.run.progress import Progress, Summary
from unilab.settings import SettingsError, nearest

KEYS = ("trainer", "env", "settings")
GROUPS = ("settings",)
"""whose keys contain dots"""
CURVE_SECONDS = 0.5
"""between rows of a run's curve"""
TRAINER = "appo"
"""of an environment, unless another is named"""


@dataclass(frozen=True)
class RunConfiguration:
    """A configuration that was checked."""

    name: str
    trainer_name: str
    trainer: Trainer
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    """warnings: what may be intended, or a mistake"""

    def content(self) -> dict[str, Any]:
        """As a file that ``train`` takes, every setting stated so that a later default cannot change it."""
        settings = self.trainer.complete(self.settings)
        env = settings.pop("env")
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
        return {"trainer": self.trainer_name, "env": env, "settings": plain}


def named(name: str, results: Path, trainer: str | None = None, overrides: Sequence[str] = ()) -> RunConfiguration:
    """What ``train`` is given: a file, the folder of a run, a study, whose ``best.yaml`` is meant, or an environment.

    Args:
        name: of it; a study is named as for ``report``.
        trainer: with an environment, which ``name`` then is; None: what there is of that name, in this order.

    Raises:
        InputError: it is none of them, or something keeps it from running here.
    """
    from unilab.envs import names

    path = Path(name)
    file = path if path.suffix in (".yaml", ".yml") or path.is_file() else run_folder.configuration_of(path)
    if file is not None and trainer is not None:
        problem = "is for an environment; this file names its trainer, which --set trainer=NAME replaces"
        raise InputError(name, None, f"--trainer {trainer}", problem)
    if file is None and trainer is None:
        from harness.study.results import find  # loads SciPy, which takes long

        try:
            file = find(name, results) / "best.yaml"
        except InputError:
            if not checks.is_environment(name):
                known = {*names(), *(path.parent.parent.name for path in results.glob("*/*/suite.yaml"))}
                problem = f"is no file, no folder of a run, no study in {results} and no environment; "
                raise InputError(name, None, "", problem + nearest(name, known)) from None
    if file is not None:
        return load(file, overrides)
    trainer = trainer or TRAINER
    document = Document.parse(to_yaml({"trainer": trainer, "env": name}), f"train {name}", overrides, GROUPS)
    document = dataclasses.replace(document, raw={})  # nobody wrote these lines, so that no error names one
    chosen = "{trainer}-{env}".format(**document.content)  # --set may have replaced both
    return _checked(document, re.sub(r"[^A-Za-z0-9_.-]+", "-", chosen))


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfiguration:
    """Read and check a configuration: ``trainer``, ``env`` and ``settings`` by dotted names, or nested.

    Raises:
        InputError: everything that keeps it from running here.
    """
    study = path.resolve().parent
    name = path.stem if path.stem != "best" else f"{study.parent.name}-{study.name}"
    return _checked(Document.load(path, overrides, flat_groups=GROUPS), name)


def _checked(document: Document, run_name: str) -> RunConfiguration:
    content, mistakes = document.content, Mistakes()
    found, trainer = mistakes.found, None
    if "settings" not in content and {"name", "search", "fixed"} & content.keys():
        problem = f"this is a suite and no configuration: python -m harness run {shlex.quote(document.file)}"
        raise document.error((next(key for key in content if key not in KEYS),), problem)
    for key in ("trainer", "env"):
        if not isinstance(content.get(key), str):
            found.append(document.error((key,), "expected a name" if key in content else "is missing"))
    if not isinstance(content.get("settings", {}), dict):
        found.append(document.error(("settings",), "expected keys and values"))
    if isinstance(content.get("trainer"), str):
        try:
            trainer = trainers.get(content["trainer"])
        except TrainerError as error:
            found.append(document.error(("trainer",), str(error)))
    can_go_on = not found
    for key in [one for one in content if one not in KEYS]:
        known = [] if trainer is None else trainer.defaults()
        is_setting = any(name == key or name.startswith(f"{key}.") for name in known)
        remedy = f"it is a setting of the trainer: settings.{key}" if is_setting else nearest(key, KEYS)
        found.append(document.error((key,), f"unknown key; {remedy}"))
    if trainer is None or not can_go_on:
        raise InputError.together(found)

    settings = dict(trainer.dotted(content.get("settings", {})))
    with mistakes.collected():
        checks.check_environment_name(document, trainer, content["env"])
    for name, value in settings.items():  # each by itself, so that an error names its line
        with mistakes.collected():
            if name == "env":
                raise document.error(("settings", name), "the environment is set by 'env' at the top")
            checks.check_value(document, trainer, ("settings", name), value)
    mistakes.check()
    notes = checks.try_environment(document, trainer, content["env"], {("settings",): settings})
    settings = {"env": content["env"]} | settings
    try:
        trainer.check(settings)
        trainer.check_together(settings)
    except SettingsError as error:
        raise document.error(("settings", error.key), error.problem) from None
    return RunConfiguration(run_name, content["trainer"], trainer, settings, tuple(notes))


def run(
    job: RunConfiguration,
    out: Path,
    *,
    iterations: int | None,
    seconds: float | None,
    resume: Path | None,
    overwrite: bool,
    on_progress: Callable[[Progress], None],
    trace: bool = False,
) -> Summary:
    """Train until a limit or a signal; checkpoints and metrics go to ``out``, and the timeline if ``trace``.

    ``run_folder.check`` says whether ``out`` may be written. ``resume`` is a checkpoint, or a folder with one. With
    ``overwrite`` the metrics of an earlier run go, unless this one goes on with it.

    Raises:
        UserError: whatever may happen to a training: it does not fit, a process dies, a file is no checkpoint.
        FloatingPointError: its numbers exploded.
    """
    if trace:
        timelines.check_trainer(job.trainer)
    trainers.calm_thread_pools()
    predicted = job.trainer.budget(job.settings)
    if predicted is not None:
        predicted.check(MemoryAvailable.here())

    from unilab.run.metric_writer import CURVE_FILE, CsvLogger

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise run_folder.unwritable(out, error.strerror or str(error)) from None
    stale = [*out.glob("events.out.tfevents.*"), out / CURVE_FILE] if overwrite else []
    if resume is not None and run_folder.goes_on(out, resume):
        stale = []
    curve, next_row = CsvLogger(out / CURVE_FILE), 0.0
    unwritten: Progress | None = None

    def more(progress: Progress) -> bool:
        nonlocal next_row, unwritten
        if not next_row:  # the first iteration is done
            for path in stale:
                path.unlink(missing_ok=True)
            write_atomic(out / run_folder.CONFIG_FILE, to_yaml(job.content()))
        unwritten = progress
        if time.monotonic() >= next_row:
            next_row = time.monotonic() + CURVE_SECONDS
            curve.add(progress)
            unwritten = None
        on_progress(progress)
        return True

    settings = job.settings | (timelines.begin(out) if trace else {})
    with run_folder.writing(out):
        summary = job.trainer.run(
            settings, more, log_dir=out, max_iterations=iterations or UNLIMITED, max_seconds=seconds, resume=resume
        )
        if unwritten is not None:
            curve.add(unwritten)
    return summary


def exit_code(summary: Summary) -> int:
    """0, or 128 + the signal's number when one ended the training."""
    by = summary.stopped_by
    return 128 + signal.Signals[by] if by in signal.Signals.__members__ else 0


def describe(summary: Summary, folder: Path) -> str:
    """The end of a training in words: what was reached, where it is, and what to do with it."""
    progress = summary.progress
    seconds = max(progress.wall_seconds, 1e-9)
    by = "Ctrl-C" if summary.stopped_by == "SIGINT" else summary.stopped_by
    text = f"stopped by {by} after {progress.iteration} iterations, {progress.env_steps:,} steps, "
    text += f"{progress.wall_seconds:.1f} s ({progress.env_steps / seconds:,.0f} steps/s); "
    text += f"return {number_text(progress.episode_return)}"
    where = shlex.quote(str(folder))
    if summary.checkpoint is not None:
        text += f"\ncheckpoint: {summary.checkpoint}"
        if summary.best_checkpoint is not None:
            text += f"\nbest by return: {summary.best_checkpoint}"
        text += f"\nTry it: python -m harness eval {shlex.quote(str(summary.checkpoint))}"
        text += f"\nGo on with it: {run_folder.go_on_command(folder)}"
    elif not progress.iteration:
        text += "\nnothing was learned, so nothing was saved"
    if run_folder.configuration_of(folder):
        text += f"\nLook at it: python -m harness report {where}"
    if any(folder.glob("events.out.tfevents.*")):
        text += f"\nAll metrics: tensorboard --logdir {where}"
    return text

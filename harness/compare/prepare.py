"""What is to be measured on either side: its code, its configuration, and for how long."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.compare.measure import Schedule, Version
from harness.compare.revisions import CompareError, checkouts
from harness.compare.sides import Side
from harness.measure import provenance
from harness.measure.interleaving import FILE, possible
from harness.measure.process import Limits
from harness.predict import memory as budget
from harness.predict import plan
from harness.runs import training
from harness.suite import schema as suites
from harness.suite.schema import Constraints, Measure, Suite
from harness.suite.schema import Limits as SuiteLimits
from harness.trainers import trainer as trainers
from harness.trainers.trainer import Trainer
from unilab.ipc.memory_budget import MemoryBudget

TURNS = ("harness/measure/interleaving.py", "harness/turns.py")
"""where code of these and of earlier days has them"""


@dataclass(frozen=True)
class Options:
    """What was asked for beside the two sides; None: nothing was said."""

    suite: Path | None = None
    """its baseline is measured for sides that are commits"""
    config: Path | None = None
    """instead of a suite's baseline"""
    pairs: int = 8
    seconds: float | None = None
    warmup_seconds: float | None = None
    turns: bool = True


@dataclass(frozen=True)
class Configuration:
    """What a trainer is to run, checked."""

    trainer: str
    settings: dict[str, Any]
    threads: str
    host_limit: int | None
    budget: MemoryBudget | None
    memory_fraction: float
    pausable: bool
    """see ``Trainer.pausable``"""


@contextmanager
def prepared(base: Side, new: Side, options: Options) -> Iterator[tuple[tuple[Version, Version], Schedule, list[str]]]:
    """Both sides ready to be measured, and the metrics that decide; the commits' worktrees last as long as the context.

    Raises:
        CompareError: a configuration is missing, or does not fit into this machine.
        InputError: a suite or a configuration is wrong.
    """
    suite = _suite(base, new, options)
    configurations = [_configuration(side, options) for side in (base, new)]
    measure = suite.measure if suite else Measure()
    if options.seconds is not None:
        measure = dataclasses.replace(measure, seconds=options.seconds, return_at=None)
    if options.warmup_seconds is not None:
        measure = dataclasses.replace(measure, warmup_seconds=options.warmup_seconds)
    limits = suite.limits if suite else SuiteLimits()
    deciding = [objective.metric for objective in (suite.objectives if suite else Suite.objectives)]
    here = provenance.commit()
    with checkouts([side.commit for side in (base, new) if side.commit is not None]) as folders:
        timeout = max(limits.trial_timeout_seconds, 2 * measure.least_seconds)
        versions = []
        for side, own in zip((base, new), configurations, strict=True):
            allowed = Limits(timeout, limits.progress_timeout_seconds, own.host_limit)
            code = folders[side.commit] if side.commit is not None else None
            commit, changed = (here.commit, here.dirty) if side.commit is None else (side.commit, False)
            versions.append(Version(own.trainer, own.settings, allowed, commit, changed, own.threads, code))
        together = "--no-turns" if not options.turns else "" if measure.turns else "the suite says measure.turns: false"
        together = together or _why_not_together(configurations, [version.code for version in versions])
        yield (versions[0], versions[1]), Schedule(measure, options.pairs, together), deciding


def _why_not_together(configurations: Sequence[Configuration], codes: Sequence[Path | None]) -> str:
    """Why the four repeats of a block cannot be alive at the same time; empty when they can."""
    if not possible():
        return "the processes of a trial can be stopped and continued on Linux alone"
    if not all(own.pausable for own in configurations):
        return "work on a device, on other machines or in a simulator elsewhere goes on while processes are stopped"
    if not all(code is None or _takes_turns(code) for code in codes):
        return "the code of one side is older than taking turns"
    budgets = [own.budget for own in configurations]
    if None in budgets:
        return "how much memory one side takes is not predicted"
    fraction = min(own.memory_fraction for own in configurations)
    fit = budget.fit_together([*budgets, *budgets], fraction)
    return "" if fit else "four repeats at a time do not fit into the memory"


def _takes_turns(code: Path) -> bool:
    """Whether the trials of this code read the file that tells them of turns."""
    files = [code / name for name in TURNS if (code / name).is_file()]
    return any(f'"{FILE}"' in file.read_text(encoding="utf-8") for file in files)


def _suite(base: Side, new: Side, options: Options) -> Suite | None:
    """The suite whose window, limits and objectives apply: the one given, or that of a study."""
    if options.suite is not None:
        return plan.make(options.suite).suite
    study = base.study or new.study
    return suites.load(study / "suite.yaml").suite if study is not None else None


def _configuration(side: Side, options: Options) -> Configuration:
    """A study stands for its best configuration, a commit for the one given with --suite or --config."""
    if side.pooled:
        raise CompareError(f"{side.name}: several studies; name the one whose best configuration is to be measured")
    if side.study is not None:
        best = side.study / "best.yaml"
        if not best.is_file():
            raise CompareError(f"{side.name}: no best.yaml in {side.study}, so there is no configuration to measure")
        return _from_file(best)
    if side.configuration is not None:
        return _from_file(side.configuration)
    if options.config is not None:
        return _from_file(options.config)
    if options.suite is None:
        raise CompareError(
            f"{side.name}: which configuration is to be measured at this commit? Add --suite SUITE (its baseline is) "
            "or --config FILE, such as a study's best.yaml"
        )
    made = plan.make(options.suite)
    fraction = made.suite.constraints.host_memory_fraction
    name, settings = made.launch(made.baseline)
    return _checked(str(options.suite), name, trainers.get(name), settings, fraction)


def _from_file(path: Path) -> Configuration:
    job = training.load(path)
    return _checked(str(path), job.trainer_name, job.trainer, job.settings, Constraints().host_memory_fraction)


def _checked(where: str, name: str, trainer: Trainer, settings: dict[str, Any], fraction: float) -> Configuration:
    predicted = trainer.budget(settings)
    verdict = budget.judge(predicted, fraction)
    if not verdict.fits:
        raise CompareError(f"{where}: does not fit into this machine: {verdict.reason}")
    seed = {"seed": trainer.defaults()["seed"]} if "seed" in trainer.defaults() else {}
    threads = ", ".join(f"{part} {count}" for part, count in trainer.threads(settings).items())
    return Configuration(
        name, seed | settings, threads, verdict.host_limit, predicted, fraction, trainer.pausable(settings)
    )

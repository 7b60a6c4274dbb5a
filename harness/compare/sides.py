"""What BASE and NEW name, and what is to be measured on either side: its code, its configuration, and for how long."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files.temporary import temporary_folder
from harness.files.yaml_file import InputError
from harness.measure import provenance
from harness.measure.interleaving import FILE, possible
from harness.measure.process import RepeatLimits
from harness.predict import memory as budget
from harness.predict.checks import Settings
from harness.predict.plan import Plan, calibrated
from harness.runs import training
from harness.study.results import find
from harness.suite.schema import Limits, Suite
from harness.suite.space import Space
from unilab.errors import UserError

SUFFIXES = (".yaml", ".yml")
PREFIX = "harness-compare-"
"""of temporary folders"""
TURNS = "harness/measure/interleaving.py"
"""a checkout whose trials take turns has this file, and in it the name of the file through which they are told"""


class CompareError(UserError, ValueError):
    """Two sides that cannot be compared as they were named: what, where, and what to do."""


@dataclass(frozen=True)
class Side:
    """One of the two: studies, a commit or a configuration."""

    name: str
    """as it was given"""
    studies: tuple[Path, ...] = ()
    """their folders; several are sessions of one side"""
    commit: str | None = None
    """full hash"""
    configuration: Path | None = None
    """YAML with trainer, env and settings"""

    @property
    def text(self) -> str:
        """For people."""
        if self.commit is not None:
            return f"commit {self.commit[:12]}" + (f" ({self.name})" if not self.commit.startswith(self.name) else "")
        return ", ".join(f"study {study}" for study in self.studies) or f"configuration {self.configuration}"

    def as_dict(self) -> dict[str, Any]:
        """For a program: its name, and what that is."""
        study, *pooled = map(str, self.studies) if self.studies else [None]
        content = {"study": study, "commit": self.commit, "configuration": self.configuration, "pooled": pooled}
        return {"name": self.name} | {kind: named for kind, named in content.items() if named}


def resolve(name: str, results: Path) -> Side:
    """The side that a name means: a study as ``report`` takes it, a YAML file, or a commit, whichever is there first.

    A study has the names that ``harness.study.results.find`` knows. Several studies, with commas between them, are
    sessions of one side.

    Raises:
        CompareError: none of them.
    """
    path = Path(name)
    with suppress(InputError):
        return Side(name, (find(name, results),))
    if path.suffix in SUFFIXES and path.is_file():
        return Side(name, configuration=path)
    if "," in name:
        parts = [resolve(part, results) for part in name.split(",")]
        for other in [part for part in parts if not part.studies]:
            raise CompareError(f"{name}: the sessions of a side are studies, and {other.name} is a {other.text}")
        studies = tuple(study for part in parts for study in part.studies)
        if len({study.resolve() for study in studies}) < len(studies):
            raise CompareError(f"{name}: a study is there twice; it is one session, however often it is named")
        return Side(name, studies)
    commit = revision(name)
    if commit is not None:
        return Side(name, commit=commit)
    if path.is_dir():
        raise CompareError(f"{path / 'suite.yaml'}: is no file; a study is a folder with one, <results>/<suite>/<id>")
    raise CompareError(
        f"{name}: neither a study (a folder, or a suite or <suite>/<id> below {results}) nor a configuration (a .yaml "
        "file) nor a commit of the repository that this code lies in; `python -m harness list` names the studies"
    )


# -- commits


def revision(name: str) -> str | None:
    """The full hash of a commit; None when git knows no commit of that name here."""
    if name.startswith("-"):
        return None
    try:
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        found = provenance.git(provenance.REPOSITORY, *asked)
    except OSError:  # no git here, so no commits
        return None
    return found.stdout.strip() if found.returncode == 0 else None


@contextmanager
def checkouts(commits: Sequence[str]) -> Iterator[dict[str, Path]]:
    """The files of each commit in a folder of its own, removed afterwards whatever happens; git does not list it.

    The folders' names are equally long: the length of a path may change how fast code runs.

    Raises:
        CompareError: git cannot check one of them out.
    """
    if not commits:
        yield {}
        return
    with temporary_folder(PREFIX) as temporary:
        folders = {commit: temporary / commit[:12] for commit in commits}
        for commit, folder in folders.items():
            for step in (["read-tree", commit], ["checkout-index", "--all", f"--prefix={folder}/"]):
                done = provenance.git(provenance.REPOSITORY, *step, GIT_INDEX_FILE=f"{folder}.index")
                if done.returncode != 0:
                    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                    raise CompareError(f"{commit[:12]}: git cannot check it out into {folder}: {reason}")
        yield folders


# -- configurations


@dataclass(frozen=True)
class Version:
    """What is to be measured of one side, checked."""

    plan: Plan
    """whose baseline is measured"""
    limits: RepeatLimits
    commit: str
    dirty: bool = False
    code: Path | None = None
    """folder of the code that runs it; None: the code of this process"""

    @property
    def settings(self) -> Settings:
        """As ``Plan.settings``."""
        return self.plan.settings(self.plan.baseline)


def version_of(side: Side, made: Plan | None, config: Path | None, results: Path, limits: Limits) -> Version:
    """A study stands for its best configuration, a commit for the one given with --suite or --config.

    Args:
        side: whose.
        made: the plan of a suite, whose baseline is measured at commits.
        config: instead of a suite's baseline.
        results: has what is known of memory on this machine.
        limits: of a repeat.

    Raises:
        CompareError: there is none, or it does not fit into this machine.
        InputError: a suite or a configuration is wrong.
    """
    if len(side.studies) > 1:
        raise CompareError(f"{side.name}: several studies; name the one whose best configuration is to be measured")
    file = side.configuration or config
    for study in side.studies:
        file = study / "best.yaml"
        if not file.is_file():
            raise CompareError(f"{side.name}: no best.yaml in {study}, so there is no configuration to measure")
    if file is not None:
        job = training.load(file)
        suite = Suite(str(file), job.settings["env"], trainer=job.trainer_name, fixed=job.settings, limits=limits)
        made = calibrated(Plan(suite, job.trainer, Space({}), {}, ()), results)
    if made is None:
        raise CompareError(
            f"{side.name}: which configuration is to be measured at this commit? Add --suite SUITE (its baseline is) "
            "or --config FILE, such as a study's best.yaml"
        )
    fit = made.fit(made.baseline)
    if not fit.fits:
        why = fit.problem or f"does not fit into this machine: {fit.reason}"
        raise CompareError(f"{made.suite.name}: {why}")
    here = provenance.commit()
    return Version(made, made.repeat_limits(fit), side.commit or here.commit, here.dirty and side.commit is None)


def why_not_together(versions: Sequence[Version]) -> str:
    """The reason why two repeats of each side cannot be alive at once and take turns; empty where they can."""
    if not possible():
        return "only Linux can stop and continue the processes of a trial"
    if not all(one.plan.trainer.pausable(one.settings) for one in versions):
        return "work on a device, on other machines or in a simulator elsewhere goes on while processes are stopped"
    for turns in (one.code / TURNS for one in versions if one.code is not None):
        if not turns.is_file() or f'"{FILE}"' not in turns.read_text(encoding="utf-8"):
            return "the code of one side is older than taking turns"
    budgets = [one.plan.trainer.budget(one.settings) for one in versions]
    if None in budgets:
        return "how much memory one side takes is not predicted"
    fraction = min(one.plan.suite.constraints.host_memory_fraction for one in versions)
    safe = max(one.plan.factor(one.plan.baseline).safe for one in versions)
    fit = budget.fit_together([*budgets, *budgets], fraction, safe)
    return "" if fit else "four repeats at a time do not fit into the memory"

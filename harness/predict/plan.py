"""What a suite comes to on this machine: the settings checked, the devices there are, trials, time and memory.

Nothing is started and nothing is created.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from harness.files.yaml_file import Document, InputError, Key, Mistakes
from harness.measure.process import RepeatLimits
from harness.measure.record import Record
from harness.measure.repeat import TrialSpec
from harness.predict import calibration
from harness.predict import memory as budget
from harness.predict.calibration import AS_PREDICTED, Factor
from harness.predict.memory import Verdict
from harness.suite import sources
from harness.suite.metrics import RETURNS
from harness.suite.schema import UNKNOWN, Suite, SuiteSource, distribution, read
from harness.suite.shipped import located
from harness.suite.space import ENUMERABLE, Space, ends
from harness.trainers import trainer as trainers
from harness.trainers.alternatives import SHARED, SideBySide
from harness.trainers.trainer import Trainer, TrainerError
from unilab.machine.devices import DeviceError, check_device
from unilab.settings import SettingsError, nearest

if TYPE_CHECKING:  # unilab.ipc loads torch, which takes longer than a wrong suite may take to be refused
    from unilab.ipc.memory_budget import MemoryAvailable

PROCESS_SECONDS = 6.0
"""for processes to start and end around warm-up and window"""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A suite made concrete. ``suite`` is as it applies here: without the devices that are not there."""

    suite: Suite
    trainer: Trainer
    space: Space
    baseline: Settings
    """the baseline's value of everything that is searched or that it sets"""
    dropped: tuple[str, ...]
    """what was left out of the search, in words"""
    pinned: Mapping[str, Settings] = field(default_factory=dict)
    """by name, the value of everything that is searched"""
    calibration: Mapping[str, Factor] = field(default_factory=dict)
    """measured over predicted memory of past runs on this machine, by trainer; 1 for one that is not there"""
    notes: tuple[str, ...] = ()
    """what may be meant so, or not"""

    @property
    def study_id(self) -> str:
        """Of what decides the numbers, which are then never mixed in one study: the suite and the code."""
        return f"{self.suite.study_id()}-{self.code[: sources.SHORT]}"

    @property
    def code(self) -> str:
        """Digest of the code that decides the numbers; see ``harness.suite.sources``."""
        named = [self.suite.trainer, self.suite.env, *(one.trainer for one in self.suite.trainers.values())]
        return sources.digest(*sorted({name.partition(":")[0] for name in named if ":" in name}))

    def folder(self, results: Path) -> Path:
        return results / self.suite.name / self.study_id

    def settings(self, params: Settings) -> Settings:
        """All that a trial's settings differ in from the trainer's defaults."""
        return {"env": self.suite.env} | self.suite.fixed | params

    def effective(self, params: Settings) -> Settings:
        """Of a configuration the part that changes something: in one process, say, no ring has slots.

        Raises:
            SettingsError: a value is impossible.
        """
        idle = self.trainer.idle(self.settings(params))
        return {name: value for name, value in params.items() if name not in idle}

    def launch(self, params: Settings) -> tuple[str, Settings]:
        """Name and settings of the trainer that a trial runs."""
        settings = self.settings(params)
        if isinstance(self.trainer, SideBySide):
            return self.trainer.resolve(settings)
        return self.suite.trainer, settings

    def factor(self, params: Settings) -> Factor:
        """What the predicted memory of a configuration is to be multiplied by, from past runs of its trainer."""
        return self.calibration.get(self.launch(params)[0], AS_PREDICTED)

    @property
    def trials(self) -> int:
        if self.space.size > ENUMERABLE:
            return self.suite.limits.trials
        different = {self.space.identity(self.effective(self.space.decode(one))) for one in self.space.grid()}
        return min(self.suite.limits.trials, max(1, len(different)))

    @property
    def repeat_seconds(self) -> float:
        """Estimated life of one repeat; with a budget of env steps, whose time nobody knows yet, the longest there is.

        Repeats that have to be measured again because something disturbed them come on top.
        """
        measure, limits = self.suite.measure, self.suite.limits
        if measure.return_at is None:
            return PROCESS_SECONDS + measure.warmup_seconds + measure.steady_seconds
        if measure.return_at.seconds is None:
            return limits.trial_timeout_seconds
        return PROCESS_SECONDS + measure.return_at.seconds

    @property
    def look_repeats(self) -> int:
        """Repeats of the search's second look, when every trial can be measured."""
        return self.look_repeats_of(self.trials - 1)

    def look_repeats_of(self, candidates: int) -> int:
        """As ``look_repeats``, when so many trials beside the baseline can be."""
        return self.suite.looked_at(candidates) * self.suite.measure.repeats

    @property
    def confirm_repeats(self) -> int:
        """Repeats of the confirmation in total, the baseline's included, when every trial can be measured."""
        return self.confirm_repeats_of(self.trials - 1)

    def confirm_repeats_of(self, candidates: int) -> int:
        """As ``confirm_repeats``, when so many trials beside the baseline can be."""
        if self.suite.confirm is None:
            return 0
        confirmed = min(self.suite.confirm.top + len(self.pinned), candidates)
        return confirmed * self.suite.confirm.repeats + 2 * self.suite.confirm.blocks

    def confirm_repeats_in_a_row(self, places: int) -> int:
        """Of those the ones that a place measures when blocks run side by side in so many places."""
        if self.suite.confirm is None:
            return 0
        count = self.suite.confirm.blocks
        return math.ceil(self.confirm_repeats / count) * math.ceil(count / places)

    @property
    def seconds(self) -> float:
        """Estimated length of a whole run."""
        search = self.trials * self.suite.measure.repeats + self.look_repeats
        return min((search + self.confirm_repeats) * self.repeat_seconds, self.suite.limits.minutes * 60)

    def verdict(self, params: Settings, available: "MemoryAvailable | None" = None) -> Verdict:
        """Whether a configuration fits.

        Args:
            params: of the configuration.
            available: what it has to fit into; None: this machine as it is now.

        Raises:
            SettingsError: its settings contradict each other.
        """
        self.trainer.check_together(self.settings(params))
        predicted = self.trainer.budget(self.settings(params))
        fraction = self.suite.constraints.host_memory_fraction
        return budget.judge(predicted, fraction, self.factor(params), available)

    def possible(self, params: Settings, available: "MemoryAvailable | None" = None) -> tuple[Verdict, str | None]:
        """As ``verdict``; or that a setting is wrong, or that settings contradict each other."""
        try:
            self.trainer.check(self.settings(params))
            return self.verdict(params, available), None
        except SettingsError as error:
            return Verdict(), str(error)

    def spec(self, params: Settings, seed: int, folder: Path) -> TrialSpec:
        """What the process of one repeat of a configuration needs to know."""
        seeded = {"seed": seed} if "seed" in self.trainer.defaults() else {}
        trainer, settings = self.launch(params | seeded)
        return TrialSpec.of(self.suite.measure, trainer, settings, folder)

    def limits(self, verdict: Verdict) -> RepeatLimits:
        """What one repeat may take."""
        limits = self.suite.limits
        return RepeatLimits(limits.trial_timeout_seconds, limits.progress_timeout_seconds, verdict.host_limit)

    def first_seed(self, params: Settings) -> int:
        """Of a configuration's first repeat; each other one has the next."""
        return int(self.settings(params).get("seed", self.suite.sampler.seed))

    def fit_together(self, trials: Sequence[Sequence[Record]]) -> bool:
        """Whether this machine's memory is enough for one repeat of each at once.

        Args:
            trials: the records of each so far, one at least: their peaks stand for what is not predicted.
        """
        from unilab.ipc.memory_budget import HOST, BudgetItem, MemoryBudget

        budgets = []
        for records in trials:
            predicted = self.trainer.budget(self.settings(records[0].params))
            peak = max(record.peak_host_bytes for record in records)
            if predicted is None and peak and not any(record.peak_device_bytes for record in records):
                predicted = MemoryBudget((BudgetItem("measured", HOST, peak),))
            budgets.append(predicted)
        safe = max(self.factor(records[0].params).safe for records in trials)
        return budget.fit_together(budgets, self.suite.constraints.host_memory_fraction, safe)

    def memory(self) -> list[tuple[str, Verdict]]:
        """The budgets of the baseline and of the smallest and the largest configuration of the search space.

        Each setting's share is judged on its own, from the baseline: a product of all of them would take minutes.
        """
        smallest, largest = dict(self.baseline), dict(self.baseline)
        for name in self.space.dimensions:
            sized = []
            for value in self.space.ends(name):
                with suppress(SettingsError):  # what does not go with the baseline
                    sized.append((self.verdict(self.baseline | {name: value}).host_bytes, value))
            if len(sized) > 1:
                sized.sort(key=lambda pair: pair[0])
                smallest[name], largest[name] = sized[0][1], sized[-1][1]
        rows = [("baseline", self.verdict(self.baseline))]
        for what, params in (("smallest", smallest), ("largest", largest)) if smallest != largest else ():
            with suppress(SettingsError):  # what goes with the baseline need not go together
                rows.append((what, self.verdict(params)))
        return rows


def make(path: Path | str, overrides: Sequence[str] = (), results: Path | None = None) -> Plan:
    """Read, check and complete a suite.

    Args:
        path: of the suite file, or the name of a shipped suite.
        overrides: ``key=value`` over it.
        results: folder of all studies, whose memory figures calibrate the plan's; None: as predicted.

    Raises:
        InputError: everything that keeps it from running here.
    """
    return complete(read(located(path), overrides), results)


def complete(source: SuiteSource, results: Path | None = None) -> Plan:
    """As ``make``, of a suite that was read."""
    mistakes = Mistakes(source.mistakes)
    trainer: Trainer | None = None
    if source.suite.trainer or source.suite.trainers:
        with mistakes.collected():
            trainer = _trainer(source)
    if trainer is None:
        raise InputError.together(mistakes.found)
    with mistakes.collected():
        source = _with_dotted_names(source, trainer)
    with mistakes.collected():
        check_environment(source.document, trainer, source.suite.env)
    _check_settings(source, trainer, mistakes)
    mistakes.check()
    notes = _try_environments(source, trainer)
    suite, dropped = _without_what_is_not_here(source, trainer)
    space = Space(suite.search)
    baseline = _baseline(source, suite, trainer, space)
    plan = Plan(suite, trainer, space, baseline, dropped, _pinned(source, trainer, space, baseline), notes=notes)
    if results is None:
        return plan
    return dataclasses.replace(plan, calibration=calibration.load(results).factors(plan.code))


def _trainer(source: SuiteSource) -> Trainer:
    """The suite's trainer, or all of its ``trainers`` as one, each with settings and devices that were checked."""
    suite = source.suite

    def load(name: str, where: Key) -> Trainer:
        try:
            return trainers.get(name)
        except TrainerError as error:
            raise source.error(where, str(error)) from None

    if suite.trainer:
        return load(suite.trainer, ("trainer",))
    for name, variant in suite.trainers.items():
        trainer = load(variant.trainer, ("trainers", name, "trainer"))
        for key, value in variant.settings.items():
            where: Key = ("trainers", name, "settings", key)
            if key in SHARED:
                raise source.error(where, "is the same for all trainers: 'env' at the top, 'fixed.seed'")
            _check_value(source, trainer, where, {key: value})
            _check_device(source, trainer, where, value)
        check_environment(source.document, trainer, suite.env)
    return SideBySide(suite.trainers)


def _with_dotted_names(source: SuiteSource, trainer: Trainer) -> SuiteSource:
    """Settings may be nested, as in a configuration for ``train``: from here on they have dotted names."""
    groups: dict[str, Settings] = {}
    for group in ("fixed", "baseline"):
        groups[group] = {}
        for name, value in dotted(getattr(source.suite, group), trainer.defaults()):
            if name in groups[group]:
                raise source.error((group, name), "is there twice, with dots and nested; leave one of the two out")
            groups[group][name] = value
    suite = dataclasses.replace(source.suite, fixed=groups["fixed"], baseline=groups["baseline"])
    return dataclasses.replace(source, suite=suite)


def dotted(settings: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Groups taken apart; a setting whose value is a dictionary stays as it is."""
    for name, value in settings.items():
        full = f"{prefix}{name}"
        is_group = full not in known and any(other.startswith(f"{full}.") for other in known)
        if is_group and isinstance(value, Mapping):
            yield from dotted(value, known, f"{full}.")
        else:
            yield full, value


def _check_settings(source: SuiteSource, trainer: Trainer, mistakes: Mistakes) -> None:
    """Every name and every value, each on its own, so that an error names its line; and whether a pruner can judge."""
    suite, known = source.suite, trainer.defaults()
    for group, settings in (("fixed", suite.fixed), ("search", suite.search), ("baseline", suite.baseline)):
        for name, value in settings.items():
            key = (group, name)
            with mistakes.collected():
                if name not in known:
                    now = trainer.new_name(name)
                    unknown = f"the trainer '{suite.trainer}' has no such setting; {nearest(name, known)}"
                    raise source.error(key, f"is called '{now}' now" if now else unknown)
                if name == "env":
                    raise source.error(key, "the environment is set by 'env' at the top of the suite")
                if group == "search" and name in suite.fixed:
                    raise source.error(key, "is fixed as well; leave it out of one of the two")
                for sample in ends(value) if group == "search" else [value]:
                    _check_value(source, trainer, key, {name: sample})
                if group != "search":
                    _check_device(source, trainer, key, value)
    objectives = suite.objectives
    if suite.pruner is None or any(one.key.startswith("objectives") for one in source.mistakes):
        return
    if len(objectives) > 1 or objectives[0].metric not in RETURNS or objectives[0].direction != "maximize":
        given = ", ".join(f"{objective.direction} {objective.metric}" for objective in objectives)
        problem = f"needs one objective to maximize, {' or '.join(RETURNS)}, got {given}; leave the pruner out"
        mistakes.found.append(source.error(("pruner",), problem))


def _check_value(source: SuiteSource, trainer: Trainer, key: Key, settings: Settings) -> None:
    try:
        trainer.check(settings)
    except SettingsError as error:
        named = error.key in settings and len(settings) == 1
        raise source.error(key, error.problem if named else str(error)) from None


def _check_device(source: SuiteSource, trainer: Trainer, key: Key, value: Any) -> None:
    name = str(key[-1])
    try:
        if name in trainer.device_settings:
            check_device(value, name)
    except DeviceError as error:
        raise source.error(key, str(error).removeprefix(f"{name}: ")) from None


def _without_what_is_not_here(source: SuiteSource, trainer: Trainer) -> tuple[Suite, tuple[str, ...]]:
    """The suite without devices that are not there, and without choices that contradict the rest of it whatever any
    other choice is; and what was left out, in words."""
    suite, search, dropped = source.suite, dict(source.suite.search), []
    for name in trainer.device_settings:
        if isinstance(search.get(name), CategoricalDistribution):
            there = []
            for device in ends(search[name]):
                try:
                    check_device(device, name)
                    there.append(device)
                except DeviceError:
                    dropped.append(f"{name}: {device} (not on this machine)")
            if not there:
                _check_device(source, trainer, ("search", name), ends(search[name])[0])
            search[name] = distribution(there)
    base = {"env": suite.env} | suite.fixed | suite.baseline
    for name, dimension in suite.search.items():
        if isinstance(dimension, CategoricalDistribution):
            others = [{other: value} for other in search if other != name for value in ends(search[other])]
            problems = [(one, _contradiction(trainer, base | {name: one}, others)) for one in ends(search[name])]
            possible = [value for value, problem in problems if problem is None]
            if possible:
                search[name] = distribution(possible)
                dropped += [f"{name}: {value} ({problem})" for value, problem in problems if problem is not None]
    return dataclasses.replace(suite, search=search), tuple(dropped)


def _contradiction(trainer: Trainer, settings: Settings, others: Sequence[Settings]) -> str | None:
    """Why these settings cannot be used, unless one of the other choices makes them possible."""
    problem = None
    for other in ({}, *others):
        try:
            trainer.check_together(settings | other)
            return None
        except SettingsError as error:
            problem = problem or error.problem
    return problem


def _baseline(source: SuiteSource, suite: Suite, trainer: Trainer, space: Space) -> Settings:
    """What the suite says; else the trainer's default if it is searched at all; else the first value there is."""
    defaults, baseline = trainer.defaults(), dict(suite.baseline)
    for name in space.dimensions:
        if name not in baseline:
            baseline[name] = defaults[name] if space.contains(name, defaults[name]) else space.ends(name)[0]
        elif not space.contains(name, baseline[name]):
            problem = f"{baseline[name]!r} is not in the search space; add it to search.{name}"
            raise source.error(("baseline", name), problem)
    settings = {"env": suite.env} | suite.fixed | baseline
    _check_value(source, trainer, ("baseline",), settings)
    try:
        trainer.check_together(settings)
    except SettingsError as error:
        group = next((g for g in ("baseline", "fixed", "search") if error.key in getattr(suite, g)), None)
        key: Key = ("baseline",) if group is None else (group, error.key)
        raise source.error(key, error.problem if group else str(error)) from None
    return baseline


def _pinned(source: SuiteSource, trainer: Trainer, space: Space, baseline: Settings) -> dict[str, Settings]:
    """What the suite says, the rest as in the baseline."""
    pinned: dict[str, Settings] = {}
    for name, settings in source.suite.pinned.items():
        pinned[name] = {searched: baseline[searched] for searched in space.dimensions}
        for setting, value in dotted(settings, trainer.defaults()):
            key = ("pinned", name, setting)
            if setting not in space.dimensions:
                raise source.error(key, f"only what is searched can be pinned; {nearest(setting, space.dimensions)}")
            if not space.contains(setting, value):
                raise source.error(key, f"{value!r} is not in the search space; add it to search.{setting}")
            pinned[name][setting] = value
    return pinned


def _try_environments(source: SuiteSource, trainer: Trainer) -> tuple[str, ...]:
    """``try_environment`` with the settings of each trainer's baseline, and with every value that is searched."""
    suite, document = source.suite, source.document
    notes: list[str] = []
    if isinstance(trainer, SideBySide):
        for name, one in trainer.trainers.items():
            groups: dict[Key, Settings] = {("trainers", name, "settings"): suite.trainers[name].settings}
            notes += try_environment(document, one, suite.env, groups)
    else:
        groups = {("fixed",): suite.fixed, ("baseline",): suite.baseline}
        notes += try_environment(document, trainer, suite.env, groups)
    for name, dimension in suite.search.items():
        for value in ends(dimension):
            groups = {("fixed",): suite.fixed, ("search",): {name: value}}
            _check_environment(document, trainer, suite.env, groups)
    return tuple(dict.fromkeys(notes))


def try_environment(
    document: Document, trainer: Trainer, env: str, groups: Mapping[Key, Mapping[str, Any]]
) -> list[str]:
    """A few steps of an environment that is not ours, so that its mistakes are found before anything is started.

    Args:
        groups: settings, by where in the document they stand.

    Returns:
        What may be meant so, or not.

    Raises:
        InputError: its code does not do what is asked of it, or it is nothing for this trainer.
    """
    from unilab.envs import names

    notes: list[str] = []
    if trainer.unilab_environments and env not in names():
        from unilab.envs.check import check

        settings = {name: value for group in groups.values() for name, value in group.items()}
        findings = check(env, settings.get("env_cfg"), settings.get("sim_backend", "mujoco"))
        if findings.problems:
            raise InputError.together([document.error(("env",), problem) for problem in findings.problems])
        notes = [f"{env}: {note}" for note in findings.notes]
    _check_environment(document, trainer, env, groups)
    return notes


def _check_environment(document: Document, trainer: Trainer, env: str, groups: Mapping[Key, Mapping[str, Any]]) -> None:
    settings = {name: value for group in groups.values() for name, value in group.items()}
    try:
        trainer.check_environment({**settings, "env": env})
    except SettingsError as error:
        where = [key for key, group in groups.items() if error.key in group] or [()]
        raise document.error((*where[-1], error.key), error.problem) from None


def check_environment(document: Document, trainer: Trainer, env: str) -> None:
    """An unknown name is found now and not by the first trial."""
    from unilab.envs import names

    if not trainer.unilab_environments or env == UNKNOWN or env in names() or ":" in env:
        return
    import gymnasium

    if env not in gymnasium.registry:
        raise document.error(("env",), f"unknown environment '{env}'; {nearest(env, names())}")

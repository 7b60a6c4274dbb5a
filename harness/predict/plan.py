"""What a suite comes to on this machine: its configurations, trials, time and memory.

Nothing is started and nothing is created.
"""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from harness.files.yaml_file import InputError, Mistakes
from harness.measure.process import RepeatLimits
from harness.measure.record import Record
from harness.measure.repeat import TrialSpec
from harness.predict import calibration, checks
from harness.predict import memory as budget
from harness.predict.calibration import AS_PREDICTED, Factor
from harness.predict.checks import Settings
from harness.predict.memory import Fit
from harness.suite import sources
from harness.suite.schema import Measure, Suite, SuiteSource, read
from harness.suite.shipped import located
from harness.suite.space import ENUMERABLE, LISTED, Space, sample
from harness.trainers.alternatives import Alternatives
from harness.trainers.trainer import Trainer
from unilab.ipc.memory_budget import HOST, BudgetItem, MemoryAvailable, MemoryBudget
from unilab.machine.cores import core_sets
from unilab.settings import SettingsError

PROCESS_SECONDS = 6.0
"""for processes to start and end around warm-up and window"""
EPISODE_SECONDS = 0.2
"""at most, for an episode that is played after the training"""
EPISODE_STEPS = 1000
"""of most tasks; an evaluation makes as many a second as a training that is bound by its collector"""
JUDGED_SECONDS = 0.1
"""for an episode of which the environment judges a policy, hundreds side by side"""
FIRST_LOOK = 0.5
"""part of warm-up and steady window with which the search measures a trial where it looks at the best again"""


class Again(NamedTuple):
    """How many repeats there are after the first look at each trial."""

    second_look: int
    """of the second look at the best"""
    confirm: int
    """of the confirmation, the baseline's included"""
    learning: int
    """that show whether the best learns as well, the baseline's included"""


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
    """warnings: what may be intended, or a mistake"""

    @property
    def study_id(self) -> str:
        """Digest of what decides the numbers, the suite and the code: one study never mixes what differs in that."""
        return f"{self.suite.study_id()}-{self.code[: sources.SHORT]}"

    @property
    def code(self) -> str:
        """Digest of the code that decides the numbers; see ``harness.suite.sources``."""
        named = [self.suite.trainer, *self.suite.tasks, *(one.trainer for one in self.suite.trainers.values())]
        return sources.digest(*sorted({name.partition(":")[0] for name in named if ":" in name}))

    def folder(self, results: Path) -> Path:
        return results / self.suite.name / self.study_id

    def settings(self, params: Settings) -> Settings:
        """All that a trial's settings differ in from the trainer's defaults."""
        return {"env": self.suite.tasks[0]} | self.suite.fixed | params

    def effective(self, params: Settings) -> Settings:
        """Of a configuration the part that changes something: in one process, say, no ring has slots.

        Raises:
            SettingsError: a value is impossible.
        """
        idle = self.trainer.idle(self.settings(params))
        return {name: value for name, value in params.items() if name not in idle}

    def is_baseline(self, params: Settings) -> bool:
        """Whether this is the baseline's configuration in one of several environments."""
        there = {name: params[name] for name in self.space.dimensions if name in params and name != "env"}
        return "env" in params and all(self.baseline[name] == value for name, value in there.items())

    def launch(self, params: Settings) -> tuple[str, Settings]:
        """Name and settings of the trainer that a trial runs."""
        settings = self.settings(params)
        if isinstance(self.trainer, Alternatives):
            return self.trainer.resolve(settings)
        return self.suite.trainer, settings

    def factor(self, params: Settings) -> Factor:
        """What the predicted memory of a configuration is to be multiplied by, from past runs of its trainer."""
        return self.calibration.get(self.launch(params)[0], AS_PREDICTED)

    @cached_property
    def different(self) -> tuple[Settings, ...]:
        """Configurations that differ in what they change, the baseline's first; a sample where there are too many."""
        space = self.space
        drawn = space.grid() if space.size <= ENUMERABLE else sample(space, LISTED, seed=0)
        baseline = {name: self.baseline[name] for name in space.dimensions}
        every = map(self.effective, [baseline, *map(space.decode, drawn)])
        return tuple({space.identity(params): params for params in every}.values())

    @cached_property
    def configurations(self) -> tuple[Settings, ...]:
        """The candidates: all that differ, or of more than ``LISTED`` so many with a fixed seed."""
        baseline, *others = self.different
        return (baseline, *(others if len(others) < LISTED else random.Random(0).sample(others, LISTED - 1)))

    @property
    def trials(self) -> int:
        """Most trials of the search."""
        limit = self.suite.limits.trials
        return limit if self.space.size > ENUMERABLE else min(limit, len(self.different))

    @property
    def first_look(self) -> Measure:
        """How the search measures a trial: in less time where it looks at the best again."""
        measure = self.suite.measure
        if not (self.suite.guided and self.again().second_look):
            return measure
        warmup, steady = FIRST_LOOK * measure.warmup_seconds, FIRST_LOOK * measure.steady_seconds
        return dataclasses.replace(measure, warmup_seconds=warmup, seconds=steady)

    @property
    def saved_seconds(self) -> float:
        """The first look at a trial is so much shorter than any other repeat."""
        return self.suite.measure.least_seconds - self.first_look.least_seconds

    @property
    def repeat_seconds(self) -> float:
        """Estimated length of a repeat after the first look; with a budget of env steps the longest that it may take.

        Repeats that have to be measured again because something disturbed them come on top.
        """
        measure, limits = self.suite.measure, self.suite.limits
        around = PROCESS_SECONDS + EPISODE_SECONDS * (measure.evaluate or 0)
        if measure.judge is not None:  # until one succeeds; of those that could be judged half are
            kept = math.ceil(measure.least_seconds / measure.judge.every_seconds)
            around += JUDGED_SECONDS * measure.judge.episodes * math.ceil((kept + 1) / 2)
        if measure.return_at is None:
            return around + measure.warmup_seconds + measure.steady_seconds
        if measure.return_at.seconds is None:
            return limits.trial_timeout_seconds
        return around + measure.return_at.seconds

    @property
    def concurrency(self) -> int:
        """Repeats that run side by side on this machine."""
        return 1 if self.suite.measure.cores is None else len(core_sets(self.suite.measure.cores))

    @property
    def spreads_repeats(self) -> bool:
        """Whether repeats of one trial can run side by side: not with a pruner, whom the first one tells whether there
        are others, nor on nodes of a cluster, where a trial stays on its own."""
        return self.suite.measure.cores is not None and self.suite.pruner is None

    def again(self, candidates: int | None = None) -> Again:
        """The repeats after the first look, when so many trials beside the baseline can be measured; None: all."""
        suite, confirm = self.suite, self.suite.confirm
        candidates = self.trials - 1 if candidates is None else candidates
        second_look = suite.looked_at(candidates) * suite.measure.repeats
        if confirm is None:
            return Again(second_look, 0, 0)
        confirmed = min(confirm.top + len(self.pinned), candidates)
        learning = 2 * confirm.learning.seeds if confirm.learning and self.trials > 1 else 0
        return Again(second_look, confirmed * confirm.repeats + 2 * confirm.blocks, learning)

    def learning_seconds(self, rate: float) -> float:
        """Estimated length of a repeat that learns, at so many env steps a second."""
        assert self.suite.confirm is not None and self.suite.confirm.learning is not None
        learning = self.suite.confirm.learning
        episode = min(EPISODE_SECONDS, EPISODE_STEPS / rate)
        return PROCESS_SECONDS + episode * learning.evaluate + learning.env_steps / rate

    def seconds_of(self, trials: int, concurrency: int, repeat: float) -> float:
        """Estimated length of so many trials of the search and of what confirms the best, so many side by side.

        What learns is not counted. ``repeat`` is the length of a repeat after the first look.
        """
        again, confirm, repeats = self.again(), self.suite.confirm, self.suite.measure.repeats
        if self.spreads_repeats:
            first_looks = math.ceil(trials * repeats / concurrency)
        else:
            first_looks = math.ceil(trials / concurrency) * repeats
        in_a_row = math.ceil(again.second_look / concurrency)
        if confirm is not None:  # a block is one work; the last one can be shorter
            of_a_block = math.ceil(again.confirm / confirm.blocks)
            in_a_row += min(of_a_block * math.ceil(confirm.blocks / concurrency), again.confirm)
        return first_looks * (repeat - self.saved_seconds) + in_a_row * repeat

    @property
    def seconds(self) -> float:
        """Estimated length of a whole run, without what learns: how fast that goes nobody knows yet."""
        return min(self.seconds_of(self.trials, self.concurrency, self.repeat_seconds), self.suite.limits.minutes * 60)

    def fit(self, params: Settings, available: MemoryAvailable | None = None) -> Fit:
        """Whether a configuration can be run with the memory that is ``available``; None: on this machine as it is
        now."""
        settings = self.settings(params)
        try:
            self.trainer.check(settings)
            self.trainer.check_together(settings)
            predicted = self.trainer.budget(settings)
        except SettingsError as error:
            return Fit(problem=str(error))
        return budget.fit(predicted, self.suite.constraints.host_memory_fraction, self.factor(params), available)

    def spec(self, params: Settings, seed: int, folder: Path, measure: Measure | None = None) -> TrialSpec:
        """What the process of one repeat of a configuration needs to know; ``measure`` None: as the suite says."""
        seeded = {"seed": seed} if "seed" in self.trainer.defaults() else {}
        trainer, settings = self.launch(params | seeded)
        return TrialSpec.of(measure or self.suite.measure, trainer, settings, folder)

    def repeat_limits(self, fit: Fit) -> RepeatLimits:
        """What one repeat may take."""
        limits = self.suite.limits
        return RepeatLimits(limits.trial_timeout_seconds, limits.progress_timeout_seconds, fit.host_limit)

    def first_seed(self, params: Settings) -> int:
        """Of a configuration's first repeat; each other one has the next."""
        return int(self.settings(params).get("seed", self.suite.sampler.seed))

    def fit_together(self, trials: Sequence[Sequence[Record]]) -> bool:
        """Whether this machine's memory is enough for one repeat of each trial at once.

        Of each there are the records so far, one at least. Their peaks stand for what is not predicted.
        """
        budgets = []
        for records in trials:
            predicted = self.trainer.budget(self.settings(records[0].params))
            peak = max(record.peak_host_bytes for record in records)
            if predicted is None and peak and not any(record.peak_device_bytes for record in records):
                predicted = MemoryBudget((BudgetItem("measured", HOST, peak),))
            budgets.append(predicted)
        safe = max(self.factor(records[0].params).safe for records in trials)
        return budget.fit_together(budgets, self.suite.constraints.host_memory_fraction, safe)

    def memory(self) -> list[tuple[str, Fit]]:
        """The budgets of the baseline and of the smallest and the largest configuration of the search space.

        Each setting's share is judged on its own, from the baseline: a product of all of them would take minutes.
        """
        smallest, largest = dict(self.baseline), dict(self.baseline)
        for name in self.space.dimensions:
            tried = [(self.fit(self.baseline | {name: value}), value) for value in self.space.ends(name)]
            sized = sorted((fit.host_bytes, number) for number, (fit, _) in enumerate(tried) if fit.problem is None)
            if len(sized) > 1:
                smallest[name], largest[name] = (tried[number][1] for _, number in (sized[0], sized[-1]))
        rows = [("baseline", self.baseline), ("smallest", smallest), ("largest", largest)]
        fits = [(what, self.fit(params)) for what, params in (rows if smallest != largest else rows[:1])]
        # what goes with the baseline need not go together
        return [(what, fit) for what, fit in fits if what == "baseline" or fit.problem is None]


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
            trainer = checks.trainer_of(source)
    if trainer is None:
        raise InputError.together(mistakes.found)
    source = checks.with_dotted_names(source, trainer, mistakes)
    checks.check_settings(source, trainer, mistakes)
    mistakes.found += [source.error(*one) for one in checks.contradictions(source, trainer)]
    mistakes.check()
    suite, notes, dropped = checks.searched_here(source, trainer)
    notes += checks.try_suite(suite, source.document, trainer)
    suite = checks.with_learning(suite, trainer)
    space = Space(suite.search)
    baseline = checks.baseline_of(source, suite, trainer, space)
    pinned = checks.pinned_of(source, trainer, space, baseline)
    plan = Plan(suite, trainer, space, baseline, dropped, pinned, notes=notes)
    return plan if results is None else calibrated(plan, results)


def calibrated(plan: Plan, results: Path) -> Plan:
    """With what past runs on this machine took of the memory that was predicted for them."""
    past = calibration.load(results)
    factors = {name: calibration.factor(ratios, plan.code) for name, ratios in past.items()}
    return dataclasses.replace(plan, calibration=factors)

"""A study as its folder has it, and its trials: everything that a report says comes from these."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.measure.record import Phase, Record, median, typical
from harness.measure.window import FRACTIONS
from harness.predict.bottleneck import TimeUse, limit_of, sentence
from harness.stats.inference import Interval, median_interval
from harness.study.best_trials import judged_by, of_one_kind, ranking, timed_by
from harness.study.results import RecordedStudy
from harness.suite.metrics import TIMES
from harness.suite.text import setting_text, settings_text
from unilab.machine.devices import usable_cores

ROLES = ("best", "baseline", "others")
POLICY = "checkpoint.pt"
"""what this project's trainers leave in the folder of a repeat"""
VIDEO = "best.mp4"
"""of a robot that the best policy moves, in the study's folder"""
DRAWN = ("episode_return", "env_steps_per_second", "policy_lag_mean", "peak_host_bytes")
"""metrics that charts may set against the objective"""
IN_TURNS = 0.03
"""two sides take turns where their busy fractions add up to 1, give or take this"""


class ReportedTrial:
    """One configuration and all that was measured of it.

    Args:
        number: of the trial.
        records: of its repeats, one at least.
        latest: seconds that stand for those of a repeat that did not reach the target: none in its environment was
            trained for longer.
    """

    def __init__(self, number: int, records: Sequence[Record], latest: float = math.nan) -> None:
        self.number, self.records, self.latest = number, tuple(records), latest
        self.counted = judged_by(records)
        """the repeats that count: those of the confirmation where it has them"""
        self.complete = [record for record in self.counted if record.state == "complete"]
        """the repeats that count and were measured to their end"""
        self.timed = timed_by(records)
        """the repeats that say how the time was used"""
        newest = (self.counted or self.records)[-1]
        self.state = "complete" if self.complete else newest.state
        """``complete`` if any repeat was; otherwise how the last one ended"""
        self.error = next((record.error for record in records if record.error), None)
        """the reason of its first repeat that did not end as complete"""
        self.baseline = records[0].baseline
        self.params = records[-1].params
        """what the search or the baseline set, by dotted names"""
        self.settings = settings_text(self.params)
        which = "".join(f" {self.params[name]}" for name in ("trainer", "env") if name in self.params)
        self.name = f"{number}{which}{' (baseline)' if self.baseline else ''}"
        """its number, with its trainer and its environment where a study has several"""
        self.confirmed = any(record.phase == "confirm" for record in self.complete)
        """the confirmation measured it"""
        self.kind = newest.kind
        """see ``Record.kind``"""
        self.measured = f"{'confirmation' if self.confirmed else 'search'}, {self.kind}"
        """the phase that its values are from, and their kind"""
        self.verdict = next((record.verdict for record in reversed(self.timed) if record.verdict), "")
        """what limited it, as its newest record says; empty where none does"""

    def limited_by(self, fixed: dict[str, Any], cores: int) -> str:
        """What limited it, in words.

        Of a trainer that does not describe its rounds: by how busy each side was in the steady window.

        Args:
            fixed: the settings of all trials.
            cores: that it was measured on.
        """
        if self.verdict:
            return self.verdict
        busy = median(self.timed, "collector_busy_fraction"), median(self.timed, "learner_busy_fraction")
        if any(map(math.isnan, busy)) or not any(busy):  # of a trainer that does not say
            return "not known"
        # taking turns, whether they were told to or it comes to that, their fractions add up
        in_turns = (fixed | self.params).get("mode") == "sync" or abs(sum(busy) - 1) < IN_TURNS
        waits = [median(self.timed, f"{side}_wait_fraction") for side in ("collector", "learner")]
        waits = [1 - own if math.isnan(wait) else wait for own, wait in zip(busy, waits, strict=True)]
        # all that the trainer was given, by a text such as "env 2, learner 2"
        shared = sum(map(int, re.findall(r" (\d+)(?:,|$)", self.timed[-1].threads))) > cores
        facts = TimeUse("turns" if in_turns else "free", cores, shared, busy[0], waits[0], busy[1], waits[1])
        return sentence(facts, limit_of(facts))

    def value(self, metric: str) -> float:
        """``typical`` of a numeric field over the repeats that count; NaN without any."""
        return typical(self.timed if metric in FRACTIONS else self.counted, metric)

    def having(self, metric: str) -> list[Record]:
        """The repeats that count and have the metric, or ``latest`` for it."""
        return [record for record in self.complete if math.isfinite(self.of(record, metric))]

    def values(self, metric: str) -> list[float]:
        """The metric of each repeat that counts and has it."""
        return [self.of(record, metric) for record in self.having(metric)]

    def of(self, record: Record, metric: str) -> float:
        """The metric of one of its repeats; ``latest`` where a target was not reached."""
        value = record.metric(metric)
        return self.latest if math.isnan(value) and metric in TIMES else value

    def reached(self, metric: str) -> int:
        """Repeats that have the metric, without those that ``latest`` stands for."""
        return sum(math.isfinite(record.metric(metric)) for record in self.complete)

    def interval(self, metric: str) -> Interval | None:
        """95 % interval of the median; None with fewer than six repeats, which show too little."""
        values = self.values(metric)
        return median_interval(values) if values else None


def trials_of(records: Sequence[Record], phase: Phase | None = None) -> list[ReportedTrial]:
    """Records of a phase, or of all, grouped by their trial, by number."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        if phase in (None, record.phase):
            groups.setdefault(record.trial, []).append(record)
    ends: dict[Any, list[float]] = {}  # in each environment
    for record in [record for record in records if record.state == "complete"]:
        times = record.steady_seconds, *(record.metric(metric) for metric in TIMES)
        ends.setdefault(record.params.get("env"), []).extend(filter(math.isfinite, times))
    return [
        ReportedTrial(number, own, max(ends.get(own[0].params.get("env"), ()), default=math.nan))
        for number, own in sorted(groups.items())
    ]


def finite(value: float) -> float | None:
    """As JSON can hold it, with the digits that a chart can show."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def scale(metric: str) -> float:
    """What a metric is multiplied by in a chart: bytes are drawn as MiB."""
    return 2.0**-20 if metric.endswith("_bytes") else 1.0


def plain(value: Any) -> Any:
    """A setting's value as a chart can hold it: a number, or text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "not set" if value is None else setting_text(value)
    return value if isinstance(value, int) else finite(value)


class ReportedStudy(RecordedStudy):
    """A recorded study, and its trials as a page shows them.

    Args:
        folder: of the study.
        task: the environment that a view is of; None: no view.
    """

    def __init__(self, folder: Path, task: str | None = None) -> None:
        super().__init__(folder)
        self.where = "" if task is None else f" in {task}"
        """of a view, as names have it"""

    @cached_property
    def trials(self) -> list[ReportedTrial]:
        """The trials by number, with numbers of one kind; see ``harness.study.best_trials.of_one_kind``."""
        return trials_of(of_one_kind(self.records))

    @cached_property
    def searched(self) -> list[ReportedTrial]:
        """The trials as the search measured them, without what the confirmation measured."""
        return trials_of(self.records, "search")

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the trials as the search measured them."""
        return self.rows_of(self.searched)

    def rows_of(self, trials: Sequence[ReportedTrial]) -> list[dict[str, Any]]:
        """A row for each trial, for charts: the best last, which is drawn above the others.

        Settings are ``p0``, ``p1``... in the order of the suite; of metrics see ``scale``.
        """
        metrics = [*(one.metric for one in self.suite.objectives), *DRAWN, "predicted_env_steps_per_second"]
        rows = [
            {"trial": trial.number, "name": trial.name, "role": self.role(trial), "settings": trial.settings,
             "complete": bool(trial.complete)}
            | {metric: finite(trial.value(metric) * scale(metric)) for metric in metrics}
            | {f"p{index}": plain(trial.params.get(name)) for index, name in enumerate(self.suite.search)}
            for trial in trials
        ]  # fmt: skip
        return sorted(rows, key=lambda row: -ROLES.index(row["role"]))

    def limited_by(self, trial: ReportedTrial) -> str:
        """What limited a trial on the machine that measured it."""
        machine = self.manifest.get("machine")
        cores = machine.get("cores_usable") if isinstance(machine, dict) else None
        cores = self.suite.measure.cores or (cores if isinstance(cores, int) else usable_cores())
        return trial.limited_by(self.suite.fixed, cores)

    @property
    def name(self) -> str:
        """The study as pages name it."""
        return super().name + self.where

    @cached_property
    def by_task(self) -> list["ReportedStudy"]:
        """A view for each environment, as if it were the only one: results of two are not compared."""
        tasks = self.suite.tasks
        if len(tasks) == 1:
            return [self]
        views = [ReportedStudy(self.folder, task) for task in tasks]
        for task, view in zip(tasks, views, strict=True):
            search = {name: one for name, one in self.suite.search.items() if name != "env"}
            view.suite = replace(self.suite, env=task, envs=(), search=search)
            view.records = [record for record in self.records if record.params.get("env") == task]
        return views

    @cached_property
    def order(self) -> list[ReportedTrial]:
        """Trials that met all constraints, best first: the Pareto front of several objectives, and none of several
        environments."""
        if len(self.suite.tasks) > 1:
            return []
        by_number = {trial.number: trial for trial in self.trials}
        return [by_number[number] for number in ranking(self.records, self.suite)]

    @cached_property
    def best_first(self) -> list[ReportedTrial]:
        """All trials, those without a place at the end."""
        return list({trial.number: trial for trial in [*self.order, *self.trials]}.values())

    @property
    def best_policy(self) -> Path | None:
        """The folder of the best trial's best repeat, if its policy is there to be seen."""
        objective = self.suite.objectives[0]
        if not self.order:
            return None
        best, sign = self.order[0], 1 if objective.direction == "maximize" else -1
        values = {record.log: sign * best.of(record, objective.metric) for record in best.complete}
        logs = [log for log, value in values.items() if log and not math.isnan(value)]
        folder = self.folder / max(logs, key=values.__getitem__, default="")
        return folder if (folder / POLICY).is_file() else None

    def trial(self, number: int | None) -> ReportedTrial | None:
        """The trial of that number; None where there is none."""
        return next((trial for trial in self.trials if trial.number == number), None)

    def role(self, trial: ReportedTrial) -> str:
        """One of ``ROLES``."""
        if self.order and trial.number == self.order[0].number:
            return "best"
        return "baseline" if trial.baseline else "others"

    def leaders(self, count: int) -> list[ReportedTrial]:
        """The best trials, the baseline among them, then others that were measured."""
        baseline = [trial for trial in self.trials if trial.baseline]
        ordered = {t.number: t for t in [*self.order[:1], *baseline, *self.best_first] if t.complete}
        return list(ordered.values())[:count]

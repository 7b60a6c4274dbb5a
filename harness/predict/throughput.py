"""Throughput before anything is run, from the ceilings: what a round costs, and how its sides share the cores.

Collector and learner each need wall time ``w`` and core time ``c`` for a round when they have the machine to
themselves. On cores of their own the slower one decides, ``max(w)``. On shared cores nothing is faster than the sum of
the core times over the cores: ``sum(c) / cores``. In turns the wall times add up. What goes through the learner's
process, copies and weights, is in series with it. Short runs of both sides measure how much these times grow where
the sides share cores or take turns.
"""

import math
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.predict.ceilings import Ceilings
from harness.predict.plan import Plan
from harness.trainers.rounds import Cost, Course, Describes, Workload

OVERHEAD = (1.0, 1.5)
"""bounds of the factor by which times grow in a short run of both sides; a run beyond them was disturbed"""
NICE_WEIGHT = 3.06
"""processor time that Linux gives to a thread of niceness 0 for each second of one of niceness 5"""


@dataclass(frozen=True)
class Round:
    """What the sides of one round cost, each alone on the machine."""

    collector: Cost
    learner: Cost
    """copies and weights included"""
    transfer: Cost
    """the part of the learner's that is copies and weights"""
    background: Cost
    """what goes on in threads of its own beside the learner"""


@dataclass(frozen=True)
class Rates:
    """Predicted throughput; infinite where nothing limits it."""

    env_steps_per_second: float
    samples_per_second: float
    updates_per_second: float


class Predictor:
    """Throughput of any configuration of a trainer, from the ceilings of this machine."""

    def __init__(self, ceilings: Ceilings, name: str, trainer: Describes, cores: int) -> None:
        self.ceilings = ceilings
        self._name = name
        self._trainer = trainer
        self.cores = cores
        self.resolved: dict[str, Mapping[str, Any]] = {}
        """by configuration, all of its settings: see ``harness.predict.bottleneck``"""
        self._overheads: dict[Course, list[tuple[float, float]]] = {}
        """by course: rows of an update, and the factor by which times grew in a short run"""
        for rehearsal in ceilings.rehearsals:
            workload = self.workload(rehearsal.settings) if rehearsal.trainer == name else None
            costs = None if workload is None else self.round(workload)
            if workload is not None and costs is not None:
                predicted = rates(workload, costs, self.cores).updates_per_second
                overhead = min(max(predicted / rehearsal.updates_per_second, OVERHEAD[0]), OVERHEAD[1])
                insort(self._overheads.setdefault(workload.course, []), (workload.rows, overhead))

    def overhead(self, workload: Workload) -> float:
        """The factor by which times grow when both sides run, from the short runs; 1 where there was none."""
        known = self._overheads.get(workload.course, [])
        if not known and workload.course != "turns":
            known = sorted(one for course, own in self._overheads.items() if course != "turns" for one in own)
        if not known:
            return 1.0
        rows, factors = zip(*known, strict=True)
        return float(np.interp(math.log(workload.rows), np.log(rows), factors))

    def workload(self, settings: Mapping[str, Any]) -> Workload:
        """One round of a configuration."""
        return self._trainer.workload(settings, self.cores)

    def round(self, workload: Workload) -> Round | None:
        """What each side of a round costs alone; None when a part of it was never measured."""
        sides: dict[str, Cost] = dict.fromkeys(("collector", "learner", "transfer", "background"), Cost())
        for part in workload.parts:
            cost = self.ceilings.cost(self._name, part)
            if cost is None:
                return None
            side = "background" if part.background else part.side
            sides[side] += cost.times(part.count)
        return Round(sides["collector"], sides["learner"] + sides["transfer"], sides["transfer"], sides["background"])

    def rates(self, settings: Mapping[str, Any]) -> Rates | None:
        """The predicted throughput of a configuration; None when it cannot be predicted."""
        workload = self.workload(settings)
        costs = self.round(workload)
        return None if costs is None else rates(workload, costs, self.cores, self.overhead(workload))

    def throughput(self, settings: Mapping[str, Any]) -> float:
        """Predicted env steps a second; NaN when they cannot be predicted."""
        predicted = self.rates(settings)
        return math.nan if predicted is None else predicted.env_steps_per_second


def rates(workload: Workload, costs: Round, cores: int, overhead: float = 1.0) -> Rates:
    """The throughput of a round whose sides go together as the workload says."""
    collecting, learning = seconds_of_rounds(workload, costs, cores, overhead)
    return Rates(workload.env_steps / collecting, workload.samples / learning, workload.updates / learning)


def seconds_of_rounds(workload: Workload, costs: Round, cores: int, overhead: float = 1.0) -> tuple[float, float]:
    """Wall time of one round of the collector, whose env steps are learned from, and of one of the learner.

    Args:
        overhead: factor of the times of sides that take turns, or want more cores than there are. Threads wait for one
            that was kept from its core, and the other side has used the caches.
    """
    collector, learner = costs.collector, costs.learner
    if workload.course != "turns" and collector.parallelism + learner.parallelism > cores:
        collector = Cost(collector.seconds, overhead * collector.core_seconds)
        learner = Cost(learner.seconds, overhead * learner.core_seconds)
    beside = Cost(max(learner.seconds, costs.background.seconds), learner.core_seconds + costs.background.core_seconds)
    if workload.course == "turns":
        both = overhead * (collector.seconds + learner.seconds)
        return both, both
    if workload.course == "lockstep":
        updating = Cost(beside.seconds - costs.transfer.seconds, beside.core_seconds - costs.transfer.core_seconds)
        both = costs.transfer.seconds + meeting(collector, updating, cores, workload.yields)
        return both, both
    apart = contended(collector, beside, cores, workload.yields)
    together = ideal_seconds(collector, beside, cores)
    if workload.course == "free":
        return apart
    if workload.course == "drop" and apart[0] < apart[1]:  # the collector never waits: it takes cores for nothing
        return apart[1], apart[1]
    return together, together


def ideal_seconds(collector: Cost, learner: Cost, cores: int) -> float:
    """Wall time of one round of both with nothing lost: the slower side's, or what the cores need."""
    return max(collector.seconds, learner.seconds, (collector.core_seconds + learner.core_seconds) / cores)


def contended(collector: Cost, learner: Cost, cores: int, yields: bool) -> tuple[float, float]:
    """Wall time of a round of each side while both always run: shares of cores by threads and niceness."""
    wanted = collector.parallelism, learner.parallelism
    if sum(wanted) <= cores or not all(wanted):
        return collector.seconds, learner.seconds
    weight = NICE_WEIGHT if yields else 1.0
    fair = cores * weight * wanted[1] / (weight * wanted[1] + wanted[0])
    learning = min(wanted[1], max(fair, cores - wanted[0]))
    return collector.core_seconds / (cores - learning), learner.core_seconds / learning


def meeting(collector: Cost, learner: Cost, cores: int, yields: bool) -> float:
    """Wall time until both have finished a round that they began together: what is left of one goes on alone."""
    apart = contended(collector, learner, cores, yields)
    first, second = (0, 1) if apart[0] <= apart[1] else (1, 0)
    remaining = 1 - apart[first] / apart[second] if apart[second] else 0.0
    return apart[first] + remaining * (collector, learner)[second].seconds


def predictor(plan: Plan, ceilings: Ceilings | None) -> Predictor | None:
    """The predictor of a plan's trainer; None when it does not describe its rounds or nothing was measured."""
    if ceilings is None or not isinstance(plan.trainer, Describes):
        return None
    return Predictor(ceilings, plan.suite.trainer, plan.trainer, ceilings.cores)

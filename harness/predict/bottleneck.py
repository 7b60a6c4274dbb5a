"""What limited a trial: its efficiency against the ceilings, and one sentence that says what would move the limit."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.measure.record import Record
from harness.predict.plan import Plan
from harness.predict.throughput import Predictor, ideal_seconds
from harness.trainers.rounds import Course, Describes, Lever, Limit, Workload
from unilab.settings import SettingsError

FULL = 0.85
"""part of the cores in use above which the cores are the limit"""
NOTABLE = 0.1
"""part of the time from which a verdict mentions it"""
TRANSFER = 0.3
"""part of the learner's time above which copies and weights are the limit"""
SUGGESTIONS = 3
"""settings that a verdict names at most"""

COLLECTOR_WAITS: Mapping[Course, str] = {
    "turns": "for its turn", "lockstep": "for the learner's updates", "wait": "for a free slot",
    "drop": "for a free slot", "free": "for the learner",
}  # fmt: skip
LEARNER_WAITS: Mapping[Course, str] = {
    "turns": "for its turn", "lockstep": "for the collector's steps", "wait": "for a rollout",
    "drop": "for a rollout", "free": "for transitions",
}  # fmt: skip


@dataclass(frozen=True)
class TimeUse:
    """How a trial used its steady window, as fractions of it; NaN is what is not known."""

    course: Course
    cores: int
    shared: bool
    """both sides together want more cores than there are"""
    collector_busy: float
    collector_wait: float
    learner_busy: float
    learner_wait: float
    dropped: float = 0.0
    """of the collected rollouts"""
    cores_used: float = math.nan
    """that useful work takes, by the ceilings"""
    transfer: float = 0.0
    """that copies and weights take, by the ceilings"""


def limit_of(facts: TimeUse) -> Limit:
    """What limits the throughput."""
    busy = facts.collector_busy, facts.learner_busy
    longer: Limit = "collector" if busy[0] > busy[1] else "learner"
    if facts.dropped >= NOTABLE:
        return "drop"
    if facts.transfer >= TRANSFER:
        return "transfer"
    if facts.cores_used >= FULL:
        return "cores"
    if facts.course == "turns":
        return "turns" if min(busy) >= NOTABLE else longer
    if facts.shared and math.isnan(facts.cores_used) and min(busy) >= FULL:
        return "cores"
    if facts.learner_wait < NOTABLE and facts.collector_wait < NOTABLE:
        return "cores" if facts.shared else longer
    if facts.learner_wait < NOTABLE:
        return "learner"
    return "collector" if facts.collector_wait < NOTABLE else "waiting"


def sentence(facts: TimeUse, limit: Limit, suggestions: Sequence[str] = ()) -> str:
    """The verdict: what limits, who is busy and who waits for what, what to try."""
    heads: Mapping[Limit, str] = {
        "learner": "learner-bound",
        "collector": "collector-bound",
        "cores": f"core-bound: collector and learner share {facts.cores} core{'s' if facts.cores > 1 else ''}",
        "turns": "in turns: each side waits while the other works",
        "transfer": f"transfer-bound: copies and weights take {facts.transfer:.0%} of the time",
        "drop": f"learner-bound: {facts.dropped:.0%} of the rollouts were given up unread",
        "waiting": "latency-bound: both sides wait for each other",
    }
    learner, collector = [f"learner {facts.learner_busy:.0%} busy"], [f"collector {facts.collector_busy:.0%} busy"]
    if facts.learner_wait >= NOTABLE and facts.course != "turns":
        learner.append(f"waits {facts.learner_wait:.0%} {LEARNER_WAITS[facts.course]}")
    if facts.collector_wait >= NOTABLE and facts.course != "turns":
        collector.append(f"waits {facts.collector_wait:.0%} {COLLECTOR_WAITS[facts.course]}")
    text = f"{heads[limit]}{';' if ':' in heads[limit] else ':'} {', '.join(learner)}; {', '.join(collector)}"
    return text + (f"; try {', '.join(suggestions)}" if suggestions else "")


def suggestions(levers: Sequence[Lever], settings: Mapping[str, Any], searched: Sequence[str], cores: int) -> list[str]:
    """The levers that can still be moved, those that the suite searches first.

    Args:
        levers: of the limit, the most promising first.
        settings: all settings of the trial, thread counts resolved.
        searched: names of which the suite has several values to choose from on this machine.
        cores: that threads can use.
    """
    open_ = [
        lever
        for lever in levers
        if lever.setting in settings
        and settings[lever.setting] not in lever.unless
        and not (lever.threads and settings[lever.setting] >= cores)
        and not (lever.device and lever.setting not in searched)
    ]
    open_.sort(key=lambda lever: lever.setting not in searched)
    return [lever.change.format(lever.setting) for lever in open_[:SUGGESTIONS]]


def explain(record: Record, plan: Plan, predictor: Predictor | None) -> Record:
    """The record with its prediction, efficiency and verdict; unchanged where the trainer does not describe its rounds.

    The prediction comes from the ceilings alone: the record's own measurement has no part in it.
    """
    trainer = plan.trainer
    if predictor is None or not isinstance(trainer, Describes):
        return record
    settings = plan.settings(record.params)
    try:
        workload, predicted = predictor.workload(settings), predictor.throughput(settings)
    except SettingsError:  # such a trial was never started; its record says why
        return record
    record = dataclasses.replace(record, predicted_env_steps_per_second=predicted)
    if record.state != "complete" or math.isnan(record.env_steps_per_second):
        return record
    record = dataclasses.replace(record, async_efficiency=efficiency(record, workload, predictor))
    if record.in_turns:  # how its time was used is not known
        return record
    facts = time_use_of(record, workload, predictor)
    limit = limit_of(facts)
    threads = {name: value for part in workload.parts for name, value in part.settings.items() if "_threads" in name}
    known = trainer.levers(limit)
    all_settings = plan.trainer.complete(settings) | threads
    searched = [name for name in plan.space.dimensions if len(plan.space.ends(name)) > 1]
    advice = suggestions(known, all_settings, searched, predictor.cores)
    return dataclasses.replace(record, verdict=sentence(facts, limit, advice))


def efficiency(record: Record, workload: Workload, predictor: Predictor) -> float:
    """Share of the limiting side's time that went into work that the learner learned from; 1 is perfect overlap.

    The ceilings allow a round in ``max(collector alone, learner alone, core time of both / cores)``, whatever the order
    of the sides. Where they take turns the efficiency shows what that loses.
    """
    costs = predictor.round(workload)
    if costs is None:
        return math.nan
    collected, learned = rounds(record, workload)
    return ideal_seconds(costs.collector.times(collected), costs.learner.times(learned), predictor.cores)


def rounds(record: Record, workload: Workload) -> tuple[float, float]:
    """Rounds a second of the collector (those that were learned from) and of the learner."""
    return record.env_steps_per_second / workload.env_steps, record.updates_per_second / workload.updates


def time_use_of(record: Record, workload: Workload, predictor: Predictor) -> TimeUse:
    """What a record and the ceilings say of a trial."""
    costs = predictor.round(workload)
    collected, learned = rounds(record, workload)
    used, transfer, shared = math.nan, 0.0, workload.yields
    if costs is not None:
        transfer = learned * costs.transfer.seconds
        shared = costs.collector.parallelism + costs.learner.parallelism > predictor.cores
        if shared:
            work = collected * costs.collector.core_seconds + learned * costs.learner.core_seconds
            used = work / predictor.cores
    dropped = record.dropped_rollouts * workload.env_steps
    waits = [record.collector_wait_fraction, record.learner_wait_fraction]
    collector_wait, learner_wait = (0.0 if math.isnan(wait) else wait for wait in waits)
    return TimeUse(
        workload.course, predictor.cores, shared, record.collector_busy_fraction, collector_wait,
        record.learner_busy_fraction, learner_wait, dropped / (dropped + record.env_steps) if dropped else 0.0,
        used, 0.0 if math.isnan(transfer) else transfer,
    )  # fmt: skip

"""What limited a trial: its efficiency against the ceilings, and one sentence that says what would move the limit."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.measure.record import Record, attempts_that_count, median
from harness.predict.ranking import Prediction
from harness.predict.throughput import Round, ideal_seconds
from harness.suite.metrics import RATES
from harness.suite.text import count_text
from harness.trainers.rounds import Course, Describes, Limit, Remedy, Workload
from unilab.settings import PLACEMENT, SettingsError

FULL = 0.85
"""part of the cores in use above which the cores are the limit"""
NOTABLE = 0.1
"""part of the time from which a verdict mentions it"""
TRANSFER = 0.3
"""part of the learner's time above which copies and weights are the limit"""
CROWDED = 0.4
"""threads are in each other's way if, of the time in which they are ready to run, they wait for a core at least this
part; five threads on three cores do"""
IDLE_DEVICE = 0.5
"""launching kernels is the limit if the device of a busy learner runs one for less than this part of the time"""
CLEARLY = 1.05
"""a trial's settings are proposed to another trial if it was at least this many times as fast; a smaller difference is
noise"""
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
    queued: float = math.nan
    """of the time in which threads could run: that they waited for a core"""
    held_back: float = 0.0
    """cores' worth of threads that a CPU quota stopped"""
    device_busy: float = math.nan
    """in which the learner's device ran a kernel"""


def limit_of(facts: TimeUse) -> Limit:
    """What limits the throughput. Whether kernels or their launches limit a learner on a GPU was never tried on one."""
    busy = facts.collector_busy, facts.learner_busy
    learner: Limit = "learner"
    if not math.isnan(facts.device_busy):
        learner = "launch" if facts.device_busy < IDLE_DEVICE else "device"
    longer: Limit = "collector" if busy[0] > busy[1] else learner
    if facts.held_back >= NOTABLE * facts.cores:
        return "quota"
    if facts.dropped >= NOTABLE:
        return "drop"
    if facts.transfer >= TRANSFER:
        return "transfer"
    if facts.cores_used >= FULL:
        return "cores"
    if facts.queued >= CROWDED:
        return "threads"
    if facts.course == "turns":
        return "turns" if min(busy) >= NOTABLE else longer
    if facts.shared and math.isnan(facts.cores_used) and min(busy) >= FULL:
        return "cores"
    if facts.learner_wait < NOTABLE and facts.collector_wait < NOTABLE:
        return "cores" if facts.shared else longer
    if facts.learner_wait < NOTABLE:
        return learner
    return "collector" if facts.collector_wait < NOTABLE else "waiting"


def sentence(facts: TimeUse, limit: Limit, suggestions: Sequence[str] = ()) -> str:
    """The verdict: what limits, who is busy and who waits for what, what to try."""
    cores = count_text(facts.cores, "core")
    heads: Mapping[Limit, str] = {
        "learner": "learner-bound",
        "launch": f"launch-bound: the learner is busy, and its GPU runs a kernel {facts.device_busy:.0%} of the time",
        "device": f"learner-bound: its GPU runs a kernel {facts.device_busy:.0%} of the time",
        "collector": "collector-bound",
        "cores": f"core-bound: collector and learner share {cores}",
        "threads": f"threads fight: they wait {facts.queued:.0%} of their time for one of {cores}",
        "quota": f"quota-bound: the CPU quota stopped {facts.held_back:.1f} cores' worth of threads (a higher cpu.max "
        "gives them back)",
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


@dataclass(frozen=True)
class Searched:
    """What a study's search may change, and what it has measured beside a trial. By default it changes nothing."""

    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """values to choose from, by the settings that have several of them on this machine"""
    placement: frozenset[str] = frozenset()
    """settings that change placement alone, where the search is about nothing else; empty: it is about more"""
    faster: Sequence[Mapping[str, Any]] = ()
    """settings of the trials that were clearly faster"""
    others: Sequence[Mapping[str, Any]] = ()
    """of those that were not"""
    over: bool = False
    """no other trial was worth its time"""

    @classmethod
    def beside(cls, record: Record, prediction: Prediction, known: Sequence[Record], *, over: bool) -> "Searched":
        """Beside a record's trial, by the records of the study."""
        plan = prediction.plan
        space = {name: ends for name in plan.space.dimensions if len(ends := plan.space.ends(name)) > 1}
        placement = frozenset(name for name, kind in plan.trainer.changes().items() if kind == PLACEMENT)
        objective = plan.suite.objectives[0].metric
        metric = objective if objective in RATES else RATES[0]
        trials: dict[int, list[Record]] = {}
        for one in attempts_that_count([*known, record]):
            if one.phase == "search" and one.state == "complete" and one.params.get("env") == record.params.get("env"):
                trials.setdefault(one.trial, []).append(one)
        own = median(trials.pop(record.trial, [record]), metric)
        faster, others = list[Mapping[str, Any]](), list[Mapping[str, Any]]()
        for records in trials.values():
            side = faster if median(records, metric) > CLEARLY * own else others
            side.append(prediction.resolved(records[0].params))
        return cls(space, placement if space and placement.issuperset(space) else frozenset(), faster, others, over)


def suggestions(
    remedies: Sequence[Remedy], settings: Mapping[str, Any], cores: int, search: Searched = Searched()
) -> list[str]:
    """What to change next: the remedies that are still open, those that the suite searches first.

    A remedy is left out if the search has seen that it brings nothing, if the search expects nothing of it, or if the
    search is about other settings.

    Args:
        remedies: of the limit, the most promising first.
        settings: all settings of the trial, thread counts resolved.
        cores: that threads can use.
    """
    open_ = []
    for remedy in remedies:
        name = remedy.setting
        if name not in settings or settings[name] in remedy.unless:
            continue
        own = settings[name]
        if (remedy.threads and own >= cores) or (remedy.device and name not in search.space):
            continue
        if any(remedy.moves(own, other[name]) for other in search.faster):
            is_open = True
        elif any(remedy.moves(own, other[name]) for other in search.others):
            is_open = False
        elif any(remedy.moves(own, value) for value in search.space.get(name, ())):
            is_open = not search.over
        else:
            is_open = not search.placement or name in search.placement
        if is_open:
            open_.append(remedy)
    open_.sort(key=lambda remedy: remedy.setting not in search.space)
    return [remedy.change.format(remedy.setting) for remedy in open_[:SUGGESTIONS]]


def explain(record: Record, prediction: Prediction, known: Sequence[Record] = (), *, over: bool = False) -> Record:
    """The record with its predicted throughput, efficiency and verdict; unchanged where nothing is predicted.

    The prediction comes from the ceilings alone: the record's own measurement has no part in it. The efficiency is the
    share of the limiting side's time that went into work that the learner learned from; 1 is perfect overlap. The
    ceilings allow a round in ``max(collector alone, learner alone, core time of both / cores)``, whatever the order of
    the sides. Where they take turns the efficiency shows what that loses.

    Args:
        known: the study's records. What they show to bring nothing is not proposed.
        over: the search ended because no other trial was worth its time.
    """
    plan, trainer = prediction.plan, prediction.plan.trainer
    if prediction.ceilings is None or not isinstance(trainer, Describes):
        return record
    settings, cores = plan.settings(record.params), prediction.ceilings.cores
    try:
        workload = prediction.workload(settings)
    except SettingsError:  # such a trial was never started; its record says why
        return record
    predicted = prediction.rates(workload).env_steps_per_second
    record = dataclasses.replace(record, predicted_env_steps_per_second=predicted)
    if record.state != "complete" or math.isnan(record.env_steps_per_second):
        return record

    costs = prediction.costs(workload)
    if costs is not None:
        collected, learned = rounds(record, workload)
        efficiency = ideal_seconds(costs.collector.times(collected), costs.learner.times(learned), cores)
        record = dataclasses.replace(record, async_efficiency=efficiency)
    if record.in_turns:  # how its time was used is not known
        return record

    facts = time_use_of(record, workload, costs, cores)
    limit = limit_of(facts)
    idle = trainer.idle(settings)
    remedies = [remedy for remedy in trainer.remedies(limit) if remedy.setting not in idle]
    search = Searched.beside(record, prediction, known, over=over)
    advice = suggestions(remedies, prediction.resolved(record.params), cores, search)
    return dataclasses.replace(record, verdict=sentence(facts, limit, advice))


def rounds(record: Record, workload: Workload) -> tuple[float, float]:
    """Rounds a second of the collector (those that were learned from) and of the learner."""
    return record.env_steps_per_second / workload.env_steps, record.updates_per_second / workload.updates


def time_use_of(record: Record, workload: Workload, costs: Round | None, cores: int) -> TimeUse:
    """What a record says of a trial, and what the ceilings do: the costs of its round on so many cores."""
    collected, learned = rounds(record, workload)
    used, transfer, shared = math.nan, 0.0, workload.yields
    if costs is not None:
        transfer = 0.0 if math.isnan(learned) else learned * costs.transfer.seconds
        shared = costs.collector.parallelism + costs.learner.parallelism > cores
        if shared:
            used = (collected * costs.collector.core_seconds + learned * costs.learner.core_seconds) / cores
    dropped = record.dropped_rollouts * workload.env_steps
    devices = {name: value for part in workload.parts for name, value in part.settings.items() if "_device" in name}
    device_busy = record.device_busy_fraction if devices.get("learner_device", "cpu") != "cpu" else math.nan
    if device_busy >= IDLE_DEVICE and devices.get("collector_device", "cpu") != "cpu":
        device_busy = math.nan  # whose kernels they are is not known
    waits = [record.collector_wait_fraction, record.learner_wait_fraction]
    collector_wait, learner_wait = (0.0 if math.isnan(wait) else wait for wait in waits)
    return TimeUse(
        workload.course, cores, shared, record.collector_busy_fraction, collector_wait,
        record.learner_busy_fraction, learner_wait, dropped / (dropped + record.env_steps) if dropped else 0.0,
        used, transfer,
        # where others took cores, threads wait for these others
        math.nan if record.disturbed else record.queue_wait_fraction,
        record.throttled_seconds / record.steady_seconds if record.throttled_seconds > 0 else 0.0,
        device_busy,
    )  # fmt: skip

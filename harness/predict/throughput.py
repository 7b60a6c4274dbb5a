"""Throughput before anything is run, from the ceilings: what a round costs, and how its sides share the cores.

Collector and learner each need wall time ``w`` and core time ``c`` for a round when they have the machine to
themselves. On cores of their own the slower one decides, ``max(w)``. On shared cores nothing is faster than the sum of
the core times over the cores: ``sum(c) / cores``. In turns the wall times add up. What goes through the learner's
process, copies and weights, is in series with it. Short runs of both sides measure how much these times grow where
the sides share cores or take turns.
"""

from dataclasses import dataclass

from harness.trainers.rounds import Cost, Workload

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
    """Predicted throughput: infinite where nothing limits it, NaN where nothing is known."""

    env_steps_per_second: float
    samples_per_second: float
    updates_per_second: float


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

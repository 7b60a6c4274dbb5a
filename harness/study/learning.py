"""Whether a trial learns as well as the baseline: what the seeds of ``confirm.learning`` say of both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from harness.measure.record import FIRST_SEED, Record, attempts_that_count
from harness.stats.inference import LEVEL, AsWell, Interval, non_inferiority
from harness.study.confirmation import BASELINE
from harness.suite.schema import Suite
from harness.trainers import evidence
from harness.trainers.evidence import Evidence

_compared = cache(non_inferiority)
"""every ranking of trials asks for it"""


@dataclass(frozen=True)
class Learned:
    """A trial beside the baseline, by the mean returns of their final policies, a seed each."""

    points: tuple[float, ...] = ()
    baseline_points: tuple[float, ...] = ()
    value: float = math.nan
    """mean of the trial over that of the baseline, less 1; NaN as long as seeds are missing"""
    interval: Interval | None = None
    level: float = LEVEL
    """the interval has confidence ``1 - level``: ``LEVEL`` over the number of looks"""
    verdict: AsWell = "cannot tell"
    why: str = ""
    """what the verdict rests on where that is no interval"""


def learned(records: Sequence[Record], suite: Suite, trial: int) -> Learned | None:
    """What is known of a trial; None: it was not trained for that."""
    asked = suite.confirm and suite.confirm.learning
    every = [record for record in records if record.phase == "learning"]
    if not asked or not any(record.trial == trial for record in every):
        return None
    last = FIRST_SEED + asked.seeds
    counted = [record for record in attempts_that_count(every) if record.repeat < last]
    own, base = ([record for record in counted if record.trial == side] for side in (trial, BASELINE))
    failed, base_failed = (sum(record.state != "complete" for record in side) for side in (own, base))
    points, base_points = (
        tuple(r.evaluated_return for r in side if r.state == "complete" and math.isfinite(r.evaluated_return))
        for side in (own, base)
    )
    found = Learned(points, base_points, level=LEVEL / len({record.confirm_repeats for record in every}))
    if min(len(own), len(base)) < asked.seeds:
        return replace(found, why=f"{min(len(own), len(base))} of {asked.seeds} seeds a side are there")
    if len(points) < asked.seeds or len(base_points) < asked.seeds:
        why = f"{failed} of its {asked.seeds} seeds failed, {base_failed} of the baseline's"
        return replace(found, why=why, verdict="worse" if failed > base_failed else "cannot tell")
    try:
        seen = _compared(((base_points, points),), asked.margin, level=found.level, spread=asked.spread)
    except ValueError:
        return replace(found, why="the baseline's mean return is not above 0, so that no part of it can be named")
    bounded = seen.interval if all(map(math.isfinite, seen.interval)) else None
    return replace(
        found, value=seen.value, interval=bounded, verdict=seen.verdict,
        why="" if bounded else f"{asked.seeds} seeds a side are too few to tell",
    )  # fmt: skip


def shipped_against(records: Sequence[Record], suite: Suite, trial: int) -> Evidence | None:
    """Shipped evidence that the trial learns worse than the baseline with what it changes; None: there is none."""
    params = {record.trial: record.params for record in records}
    if trial == BASELINE or BASELINE not in params:
        return None
    before = params[BASELINE]
    changed = {name: value for name, value in params[trial].items() if name not in before or value != before[name]}
    return evidence.worse(suite.trainer, changed)


def refused(records: Sequence[Record], suite: Suite) -> frozenset[int]:
    """Trials that are shown to learn worse than the baseline: none of them is the best.

    Seeds here decide. Where they cannot tell, or there are none, what was shown beforehand does.
    """
    found = {}
    for trial in {record.trial for record in records} - {BASELINE}:
        here = learned(records, suite, trial)
        found[trial] = "cannot tell" if here is None else here.verdict
    return frozenset(
        trial
        for trial, verdict in found.items()
        if verdict == "worse" or (verdict == "cannot tell" and shipped_against(records, suite, trial))
    )

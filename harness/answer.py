"""What a study found, said so that it promises no more than the measurements do: the first screen of every report."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.claims import sentence
from harness.confirm import BASELINE
from harness.record import RETURNS, Record, typical
from harness.statistics import (
    NEEDED_PAIRS,
    Interval,
    bootstrap_interval,
    gain_interval,
    noise_floor,
    paired_log_ratios,
    sign_flip_p,
)
from harness.study import judged_by, of_one_kind, ranking, timed_by
from harness.suite import Suite

LEVEL = 0.05
"""of the test behind "is better": a percentile bootstrap of so few pairs is too narrow to keep it by itself"""
SEEDS = 5
"""with fewer nothing is claimed of a return (Agarwal et al. 2021, arXiv:2108.13264)"""

Pairs = list[tuple[float, float]]


@dataclass(frozen=True)
class Answer:
    """The best configuration beside the baseline, by the first objective. None and NaN are what was not measured.

    A gain is a ratio minus 1, above 0 where the best has more; whether more is better says ``direction``. Returns may
    be 0 or negative, so that a ratio means nothing: they, and all else that is not above 0, have a difference instead.
    """

    metric: str
    direction: Literal["maximize", "minimize"]
    best: int | None
    """trial; the same as ``baseline`` where nothing was better"""
    baseline: int | None
    trials: int
    """measured to their end by the search"""
    value: float = math.nan
    """median, of returns the interquartile mean, over the repeats that count (``harness.record.typical``)"""
    baseline_value: float = math.nan
    value_interval: Interval | None = None
    """95 %, by bootstrap over the repeats; None with fewer than ``SEEDS`` of them"""
    baseline_interval: Interval | None = None
    points: tuple[float, ...] = ()
    """the repeats behind ``value``"""
    baseline_points: tuple[float, ...] = ()
    missing: int = 0
    """repeats behind the two values that ran to their end without a value, such as a target that was not reached"""
    confirmed: bool = False
    """the best was measured again after the search, in turns with the baseline"""
    pairs: int = 0
    """repeats of best and baseline that the confirmation measured side by side"""
    candidates: int = 0
    """trials that the confirmation measured beside the baseline"""
    p: float | None = None
    """of the sign-flip test over the pairs, times ``candidates``, of which the best was picked; None without pairs"""
    gain: float | None = None
    """geometric mean over the pairs; without pairs of the two values"""
    gain_interval: Interval | None = None
    """95 %, by bootstrap over the pairs; None with fewer than ``NEEDED_PAIRS`` of them"""
    difference: float | None = None
    difference_interval: Interval | None = None
    """95 %, by bootstrap over the pairs, which share a seed; None with fewer than ``SEEDS`` of them"""
    noise_floor: float | None = None
    """relative change that the baseline against itself stays below, 95 %, for as many pairs"""
    repeats: int = 0
    """behind the answer, of best and baseline together"""
    failed: int = 0
    """repeats of best and baseline that should be behind the answer, but failed or did not end in time"""
    best_failed: int = 0
    """those of the best: a configuration that fails is not better"""
    unsteady: int = 0
    """of ``repeats``"""
    disturbed: int = 0
    """of ``repeats``"""
    limited_by: str = ""
    """the verdict on the best"""
    claim: str = ""
    """one sentence"""

    @property
    def too_few_pairs(self) -> bool:
        """Even if all pairs agreed, the test would not reach ``LEVEL``."""
        return 2.0 ** (1 - self.pairs) * self.candidates >= LEVEL

    @property
    def shown(self) -> bool:
        """The best is better than the baseline beyond what noise and the luck of a search explain."""
        interval, change = self.gain_interval or self.difference_interval, self.difference
        if self.gain_interval is not None:
            change = self.gain
        if not self.confirmed or interval is None or change is None or 0 in interval or self.best_failed:
            return False
        if self.p is None or self.p >= LEVEL:
            return False
        return (change > 0) == (self.direction == "maximize") and abs(change) > (self.noise_floor or 0.0)


def answer(suite: Suite, records: Sequence[Record]) -> Answer:
    """The answer that these records of a study give."""
    objective = suite.objectives[0]
    records = of_one_kind(records)
    order = ranking(records, suite)
    best = order[0] if order else None
    own = judged_by([r for r in records if r.trial == best])
    base = judged_by([r for r in records if r.trial == BASELINE])
    measured = {r.trial for r in records if r.phase == "search" and r.state == "complete"}
    baseline = BASELINE if BASELINE in measured else None
    fields: dict[str, Any] = {}
    if best is not None:
        fields = _values(own, base if baseline is not None else [], objective.metric)
        timed = timed_by([r for r in records if r.trial == best])
        fields["limited_by"] = next((record.verdict for record in reversed(timed) if record.verdict), "")
        if baseline is not None:
            fields |= _comparison(own, base, fields, objective.metric, suite.measure.repeats)
            candidates = len({r.trial for r in records if r.phase == "confirm"} - {BASELINE})
            p = fields.pop("pair_p", None)
            fields |= {"candidates": candidates, "p": None if p is None else min(1.0, p * candidates)}
    found = Answer(objective.metric, objective.direction, best, baseline, len(measured), **fields)
    return dataclasses.replace(found, claim=sentence(found))


def _values(best: list[Record], baseline: list[Record], metric: str) -> dict[str, Any]:
    """What is known of each side on its own."""
    points, baseline_points = _points(best, metric), _points(baseline, metric)
    known = {(r.trial, r.repeat): r for r in [*baseline, *best]}.values()
    behind = [record for record in known if record.state == "complete"]
    failed = [record.trial for record in known if record.state in ("failed", "timeout")]
    return {
        "value": typical(best, metric), "baseline_value": typical(baseline, metric),
        "points": points, "baseline_points": baseline_points,
        "value_interval": _interval(points, metric), "baseline_interval": _interval(baseline_points, metric),
        "missing": sum(not math.isfinite(record.metric(metric)) for record in behind),
        "confirmed": best[0].phase == "confirm", "repeats": len(behind),
        "failed": len(failed), "best_failed": failed.count(best[0].trial),
        "unsteady": sum(record.unsteady for record in behind),
        "disturbed": sum(bool(record.disturbed) for record in behind),
    }  # fmt: skip


def _comparison(
    best: list[Record], baseline: list[Record], values: dict[str, Any], metric: str, first_repeat: int
) -> dict[str, Any]:
    """What is known of one side against the other."""
    if best[0].trial == BASELINE:
        return {"noise_floor": _noise_floor(baseline, metric, first_repeat, NEEDED_PAIRS)}
    pairs = _pairs(baseline, best, metric) if values["confirmed"] and not values["missing"] else []
    if metric in RETURNS or not _have_ratios([*values["points"], *values["baseline_points"]]):
        return {"pairs": len(pairs)} | _difference(values, pairs, metric)
    floor = _noise_floor(baseline, metric, first_repeat, len(pairs)) if pairs else None
    return {"pairs": len(pairs), "noise_floor": floor} | _gain(values, pairs)


def _have_ratios(values: Sequence[float]) -> bool:
    """All are above 0, and none so close to it that a ratio is no finite number."""
    return not values or (min(values) > 0 and math.isfinite(max(values) / min(values)))


def _gain(values: dict[str, Any], pairs: Pairs) -> dict[str, Any]:
    if not pairs:
        ratio = values["value"] / values["baseline_value"] - 1
        return {"gain": ratio if math.isfinite(ratio) else None}
    before, after = zip(*pairs, strict=True)
    interval = gain_interval(before, after) if len(pairs) >= NEEDED_PAIRS else None
    ratios = paired_log_ratios(before, after)
    return {"gain": math.expm1(float(ratios.mean())), "gain_interval": interval, "pair_p": sign_flip_p(ratios)}


def _difference(values: dict[str, Any], pairs: Pairs, metric: str) -> dict[str, Any]:
    difference = values["value"] - values["baseline_value"]
    differences = [after - before for before, after in pairs]
    return {
        "difference": difference if math.isfinite(difference) else None,
        "difference_interval": _interval(differences, metric),
        "pair_p": sign_flip_p(differences) if pairs else None,
    }


def _points(records: Sequence[Record], metric: str) -> tuple[float, ...]:
    values = (record.metric(metric) for record in records if record.state == "complete")
    return tuple(value for value in values if math.isfinite(value))


def _interval(points: Sequence[float], metric: str) -> Interval | None:
    statistic: Literal["interquartile_mean", "median"] = "interquartile_mean" if metric in RETURNS else "median"
    return bootstrap_interval(points, statistic) if len(points) >= SEEDS else None


def _pairs(baseline: Sequence[Record], best: Sequence[Record], metric: str) -> Pairs:
    """(baseline, best) by the number of the repeat: of one block of the confirmation, and with the same seed."""
    before = {r.repeat: r.metric(metric) for r in baseline if r.phase == "confirm" and r.state == "complete"}
    after = {r.repeat: r.metric(metric) for r in best if r.state == "complete"}
    return [(before[repeat], after[repeat]) for repeat in sorted(before.keys() & after.keys())]


def _noise_floor(baseline: Sequence[Record], metric: str, first_repeat: int, pairs: int) -> float | None:
    """From the baseline's two repeats in each block of the confirmation, for a mean of ``pairs`` ratios."""
    confirmed = {r.repeat - first_repeat: r.metric(metric) for r in baseline if r.phase == "confirm"}
    usable = {number: value for number, value in confirmed.items() if value > 0}
    blocks = [number for number in usable if number % 2 == 0 and number + 1 in usable]
    if metric in RETURNS or not blocks or not _have_ratios(list(usable.values())):
        return None
    ratios = paired_log_ratios([usable[number] for number in blocks], [usable[number + 1] for number in blocks])
    return noise_floor(ratios, pairs=pairs)

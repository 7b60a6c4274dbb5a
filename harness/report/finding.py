"""What a study found, said so that it promises no more than the measurements do: the first screen of every report."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.measure.record import Record, typical
from harness.stats.inference import (
    LEVEL,
    Interval,
    change_text,
    confidence_text,
    evidence_text,
    median_interval,
    needed_pairs,
    paired_change,
    verdict,
)
from harness.study.best_trials import judged_by, of_one_kind, ranking, timed_by
from harness.study.confirmation import BASELINE
from harness.suite.metrics import RETURNS
from harness.suite.schema import Suite
from harness.suite.text import number_text

SEEDS = needed_pairs()
"""with fewer nothing is claimed of a return: not even their median has a 95 % interval"""

Pairs = list[tuple[float, float]]


@dataclass(frozen=True)
class Finding:
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
    """median, of returns the interquartile mean, over the repeats that count (``harness.measure.record.typical``)"""
    baseline_value: float = math.nan
    value_interval: Interval | None = None
    """95 %, of the median; None with fewer than ``SEEDS`` repeats"""
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
    looks: int = 1
    """at the result: one more each time that ``confirm.repeats`` was changed"""
    p: float | None = None
    """of ``harness.stats.inference.paired_change`` over the pairs, at ``level``; None without pairs"""
    gain: float | None = None
    """geometric mean over the pairs; without pairs of the two values"""
    gain_interval: Interval | None = None
    """what the test does not reject; None with fewer pairs than it needs"""
    difference: float | None = None
    """mean over the pairs, which share a seed; without pairs of the two values"""
    difference_interval: Interval | None = None
    """likewise"""
    ratio: bool = False
    """the change is a gain"""
    smallest_effect: float | None = None
    """gain or difference that would have been found with a probability of 80 %; where the baseline stayed the best the
    largest of all candidates; None with too few pairs"""
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
    def level(self) -> float:
        """Of the test: the best of several candidates was picked, and each look was one more chance to be wrong."""
        return LEVEL / (max(1, self.candidates) * self.looks)

    @property
    def too_few_pairs(self) -> bool:
        """Even if all pairs agreed, the test would not reach its level."""
        return self.pairs < needed_pairs(self.level)

    @property
    def change(self) -> float | None:
        """The gain, or where a ratio means nothing the difference."""
        return self.difference if self.gain is None else self.gain

    @property
    def shown(self) -> bool:
        """The best is better than the baseline beyond what noise and the luck of a search explain."""
        if not self.confirmed or self.p is None or self.change is None or self.best_failed:
            return False
        return verdict(self.change, self.p, self.pairs, self.direction, self.level) == "better"


def conclude(suite: Suite, records: Sequence[Record]) -> Finding:
    """What these records of a study show."""
    objective, metric = suite.objectives[0], suite.objectives[0].metric
    confirmation = [r for r in records if r.phase == "confirm"]
    looks = len({r.confirm_repeats for r in confirmation}) or 1
    records = of_one_kind(records)
    order = ranking(records, suite)
    best = order[0] if order else None
    measured = {r.trial for r in records if r.phase == "search" and r.state == "complete"}
    baseline = BASELINE if BASELINE in measured else None

    def of(trial: int | None) -> list[Record]:
        return judged_by([r for r in records if r.trial == trial])

    fields: dict[str, Any] = {}
    if best is not None:
        own, base = of(best), of(baseline)
        points, baseline_points = _points(own, metric), _points(base, metric)
        known = {(r.trial, r.repeat): r for r in [*base, *own]}.values()
        behind = [record for record in known if record.state == "complete"]
        failed = [record.trial for record in known if record.state in ("failed", "timeout")]
        timed = timed_by([r for r in records if r.trial == best])
        fields = {
            "value": typical(own, metric), "baseline_value": typical(base, metric),
            "points": points, "baseline_points": baseline_points,
            "value_interval": median_interval(points) if points else None,
            "baseline_interval": median_interval(baseline_points) if baseline_points else None,
            "missing": sum(not math.isfinite(record.metric(metric)) for record in behind),
            "confirmed": own[0].phase == "confirm", "repeats": len(behind),
            "failed": len(failed), "best_failed": failed.count(best),
            "unsteady": sum(record.unsteady for record in behind),
            "disturbed": sum(bool(record.disturbed) for record in behind),
            "limited_by": next((record.verdict for record in reversed(timed) if record.verdict), ""),
        }  # fmt: skip
    if best is not None and baseline is not None:
        candidates = {r.trial for r in records if r.phase == "confirm"} - {BASELINE}
        level = LEVEL / (max(1, len(candidates)) * looks)
        fields |= {"candidates": len(candidates), "looks": looks}
        if best == BASELINE:  # none of the candidates was better: what would have been seen of them?
            sides = [pairs for trial in candidates if (pairs := _pairs(base, of(trial), metric))]
            ratio = _have_ratios(metric, [value for pairs in sides for pair in pairs for value in pair])
            effects = [_compared(pairs, ratio, level)["smallest_effect"] for pairs in sides]
            fields |= {"ratio": ratio, "smallest_effect": max(effects) if effects and None not in effects else None}
        else:
            pairs = _pairs(base, own, metric) if fields["confirmed"] and not fields["missing"] else []
            ratio = _have_ratios(metric, [*points, *baseline_points])
            before, after = fields["baseline_value"], fields["value"]
            change = after / before - 1 if ratio else after - before
            single = {"ratio": ratio, "gain" if ratio else "difference": change if math.isfinite(change) else None}
            fields |= _compared(pairs, ratio, level) if pairs else single
    found = Finding(metric, objective.direction, best, baseline, len(measured), **fields)
    return dataclasses.replace(found, claim=sentence(found))


def _compared(pairs: Pairs, ratio: bool, level: float) -> dict[str, Any]:
    """Fields of a finding that pairs of repeats decide."""
    found = paired_change([[pair] for pair in pairs], ratio=ratio, level=level)
    enough, name = len(pairs) >= needed_pairs(level), "gain" if ratio else "difference"
    return {
        "pairs": found.pairs, "p": found.p, "ratio": ratio, name: found.value,
        f"{name}_interval": found.interval if enough else None,
        "smallest_effect": found.smallest_effect if enough else None,
    }  # fmt: skip


def _have_ratios(metric: str, values: Sequence[float]) -> bool:
    """No return, all above 0, and none so close to it that a ratio is no finite number."""
    return metric not in RETURNS and (not values or (min(values) > 0 and math.isfinite(max(values) / min(values))))


def _points(records: Sequence[Record], metric: str) -> tuple[float, ...]:
    values = (record.metric(metric) for record in records if record.state == "complete")
    return tuple(value for value in values if math.isfinite(value))


def _pairs(baseline: Sequence[Record], best: Sequence[Record], metric: str) -> Pairs:
    """(baseline, best) by the number of the repeat: of one block of the confirmation, and with the same seed."""
    sides = [
        {r.repeat: r.metric(metric) for r in side if r.phase == "confirm" and r.state == "complete"}
        for side in (baseline, best)
    ]
    both = ((sides[0][repeat], sides[1][repeat]) for repeat in sorted(sides[0].keys() & sides[1].keys()))
    return [pair for pair in both if all(map(math.isfinite, pair))]


NAMES = {
    "env_steps_per_second": "env steps a second", "samples_per_second": "samples a second",
    "updates_per_second": "updates a second", "episode_return": "return", "return_at_budget": "return at the budget",
    "seconds_to_return": "seconds to the target return",
}  # fmt: skip


def sentence(found: Finding) -> str:
    """The claim that the numbers of an answer allow, with what they rest on."""
    if found.best is None:
        return "No trial was measured to its end within the constraints."
    care = doubts(found)
    return f"{_claim(found)}{'; ' if care else ''}{care}."


def _claim(found: Finding) -> str:
    if found.metric in RETURNS and _too_few_seeds(found):
        return _points_text(found)
    if found.best == found.baseline:
        if found.trials == 1:
            return f"One configuration was measured: {_value(found)}"
        seen = "" if found.smallest_effect is None else f"; {_seen(found)} would have been seen"
        return f"No configuration was better than the baseline, {_value(found)}, of {found.trials} measured{seen}"
    if found.baseline is None:
        return f"Trial {found.best} has {_value(found)}, and there is no baseline to compare it with"
    change = f"{_change(found)} {NAMES.get(found.metric, found.metric)} against the baseline"
    if not found.confirmed:
        return (
            f"Trial {found.best} measured {change}, the best of {found.trials}; it was not confirmed, and the best of "
            "a noisy search is partly the luckiest"
        )
    if found.shown:
        return f"Trial {found.best} is better than the baseline: {change} ({_evidence(found)})"
    if found.too_few_pairs:
        return (
            f"Trial {found.best} measured {change} ({_evidence(found)}); that is too few to tell a difference from "
            f"noise at {confidence_text(found.level)}"
        )
    return f"No difference is shown: trial {found.best} measured {change} ({_evidence(found)})"


def _too_few_seeds(found: Finding) -> bool:
    alone = found.baseline is None or found.best == found.baseline
    return found.value_interval is None or (not alone and found.baseline_interval is None)


def _points_text(found: Finding) -> str:
    text = f"No claim with fewer than six seeds: trial {found.best} had {NAMES[found.metric]} {_list(found.points)}"
    if found.baseline is None or found.best == found.baseline:
        return text
    return f"{text}, the baseline {_list(found.baseline_points)}"


def _value(found: Finding) -> str:
    interval = found.value_interval
    spread = "" if interval is None else f" (95 % interval {number_text(interval.low)} to {number_text(interval.high)})"
    repeats = f"{len(found.points)} repeat{'s' if len(found.points) > 1 else ''}"
    middle = f", {'interquartile mean' if found.metric in RETURNS else 'median'} of {repeats}"
    return f"{number_text(found.value)} {NAMES.get(found.metric, found.metric)}{spread}{middle}"


def _change(found: Finding) -> str:
    if found.change is None:
        return "an unknown change of"
    return change_text(found.change, fraction=found.gain is not None)


def change_of(found: Finding) -> str:
    """What the best has over the baseline, with its interval or why there is none."""
    if found.best == found.baseline:
        return "none: the best is the baseline"
    if found.change is None:
        return "not known: the two were not both measured"
    interval = found.difference_interval if found.gain_interval is None else found.gain_interval
    text = change_text(found.change, fraction=found.gain is not None)
    if interval is not None:
        return f"{text}, {evidence_text(interval, found.pairs, fraction=found.ratio, level=found.level)}"
    pairs = f"only {found.pairs} pair{'s' if found.pairs != 1 else ''}" if found.confirmed else "not confirmed"
    return f"{text}, no interval: {pairs}"


def _evidence(found: Finding) -> str:
    interval = found.difference_interval if found.gain_interval is None else found.gain_interval
    parts = [evidence_text(interval, found.pairs, fraction=found.ratio, level=found.level)]
    if found.candidates > 1:
        parts.append(f"{found.candidates} candidates")
    if found.looks > 1:
        parts.append(f"{found.looks} looks")
    if found.smallest_effect is not None and not found.shown:
        parts.append(f"{_seen(found)} would have been seen")
    return ", ".join(parts)


def _seen(found: Finding) -> str:
    return change_text(found.smallest_effect or 0.0, fraction=found.ratio, sign="")


def doubts(found: Finding) -> str:
    """How many of the repeats behind the answer failed or are not to be trusted blindly; empty when none."""
    counts = [
        (found.failed, "failed"), (found.disturbed, "disturbed"), (found.unsteady, "unsteady"),
        (found.missing, "without a value"),
    ]  # fmt: skip
    parts = [f"{count} {what}" for count, what in counts if count]
    asked = found.repeats + found.failed
    return f"of {asked} repeat{'' if asked == 1 else 's'} {', '.join(parts)}" if parts else ""


def _list(values: Iterable[float]) -> str:
    return ", ".join(number_text(value) for value in sorted(values)) or "none"

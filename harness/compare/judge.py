"""What pairs of measurements show, metric by metric.

A change counts if the exact sign-flip test of the paired log-ratios says p < 0.05 and if it is larger than the noise
floor, which the same code measured against itself gives: pairs of repeats of one side that lie as far apart as base and
new do, or farther. The floor is Student's quantile at 99.5 % for the mean of as many pairs as are compared, so that of
a thousand comparisons of a version with itself about two end with a regression.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from harness.record import METRICS, Record
from harness.statistics import NEEDED_PAIRS, Interval, bootstrap_interval, noise_floor, paired_log_ratios, sign_flip_p

LEVEL = 0.05
"""a change needs a p below"""
FLOOR_CONFIDENCE = 0.995
SMALLEST_FLOOR = 0.01
"""two copies of the same code in different folders differ by as much, which no repeat of one copy shows (Mytkowicz et
al. 2009, Producing wrong data without doing anything obviously wrong)"""
BLIND_FLOOR = 0.5
"""with a higher one not even a halving would be seen, so that nothing was compared"""

Verdict = Literal["better", "worse", "same", "undecided"]
Outcome = Literal["regression", "no regression", "nothing comparable"]
EXIT_CODES: dict[Outcome, int] = {"no regression": 0, "regression": 1, "nothing comparable": 3}


@dataclass(frozen=True)
class Pairs:
    """Records of both sides that belong together."""

    across: list[tuple[Record, Record]] = field(default_factory=list)
    """base and new"""
    within: list[tuple[Record, Record]] = field(default_factory=list)
    """two repeats of the same side: A against A"""
    notes: list[str] = field(default_factory=list)
    """what a reader has to know about them"""
    lost: int = 0
    """repeats that NEW did not complete, less those of BASE"""

    @property
    def records(self) -> list[Record]:
        """Each once."""
        return list({id(record): record for pair in self.across for record in pair}.values())


@dataclass(frozen=True)
class Judgement:
    """One metric. Fractions: -0.08 is a loss of 8 % of the value, whichever direction is better."""

    metric: str
    better: Literal["up", "down"]
    decides: bool
    """the exit code follows from it"""
    pairs: int
    base: float
    new: float
    """medians over the pairs"""
    change: float
    """geometric mean of new over base, less 1; for a metric that is not always above 0 the mean difference in units of
    the mean size of its values"""
    interval: Interval
    """of the change, 95 %"""
    p: float
    noise_floor: float
    """NaN: nothing was measured twice"""
    verdict: Verdict
    reason: str = ""
    """why it is undecided, or the verdict when it does not follow from the change"""


@dataclass(frozen=True)
class Comparison:
    """Everything that is said about two sides."""

    judgements: list[Judgement]
    pairs: Pairs

    @property
    def outcome(self) -> Outcome:
        """By the metrics that decide: one that got worse is a regression."""
        verdicts = [judgement.verdict for judgement in self.judgements if judgement.decides]
        if "worse" in verdicts:
            return "regression"
        return "no regression" if set(verdicts) - {"undecided"} else "nothing comparable"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


def compare(pairs: Pairs, deciding: Sequence[str]) -> Comparison:
    """Judge all metrics that both sides have, those that decide first; others that were 0 all the time are left out."""
    names = [*deciding, *(name for name in METRICS if name not in deciding)]
    judgements = [judge(name, pairs, name in deciding) for name in names]
    said = [one for one in judgements if one.pairs and (one.decides or one.base or one.new)]
    return Comparison(said, pairs)


def judge(metric: str, pairs: Pairs, decides: bool = True) -> Judgement:
    """One metric; what the values of the pairs show, unless one side missed a target or repeats more often."""
    found = _by_values(metric, pairs, decides)
    missed = _targets(found, pairs) if metric == "seconds_to_return" else None
    if missed is not None:
        found = missed
    if pairs.lost > 0 and found.verdict in ("same", "better"):
        reason = f"NEW did not complete {pairs.lost} repeat{'s' * (pairs.lost > 1)} that BASE did"
        found = dataclasses.replace(found, verdict="undecided", reason=reason)
    return found


def _targets(found: Judgement, pairs: Pairs) -> Judgement | None:
    """The verdict where one side missed the target more often than the other; None where both did equally often.

    A repeat without a value never got there, which is later than any other: to leave it out would favour the side that
    gets there seldom. The sign test looks at the pairs of which one side alone missed it.
    """
    times = [[record.seconds_to_return for record in pair] for pair in pairs.across]
    reached = np.isfinite(np.array(times, dtype=np.float64).reshape(-1, 2))
    base, new = (int(count) for count in (~reached).sum(axis=0))
    if base == new or not reached.any():
        return None
    alone = reached[:, 0] != reached[:, 1]
    worse = reached[:, 0] & alone
    p = float(binomtest(int(worse.sum()), int(alone.sum())).pvalue)
    missed = (("BASE", base), ("NEW", new))
    reason = ", ".join(f"{name} did not reach the target in {n} of {len(reached)}" for name, n in missed if n)
    direction: Verdict = "worse" if new > base else "better"
    if p < LEVEL:
        return dataclasses.replace(found, pairs=len(reached), p=p, verdict=direction, reason=reason)
    if found.verdict == direction:  # what the others show is the same
        return found
    return dataclasses.replace(found, pairs=len(reached), verdict="undecided", reason=reason)


def _by_values(metric: str, pairs: Pairs, decides: bool) -> Judgement:
    """By the pairs of which both sides have the metric."""
    base, new = _values(metric, pairs.across)
    first, second = _values(metric, pairs.within)
    better: Literal["up", "down"] = "up" if METRICS[metric] == "maximize" else "down"
    if not len(base):
        nothing = "it was not measured on both sides"
        unknown = Interval(math.nan, math.nan)
        return Judgement(
            metric, better, decides, 0, math.nan, math.nan, math.nan, unknown, math.nan, math.nan, "undecided", nothing
        )
    scale = _Scale(np.concatenate([base, new, first, second]))
    differences = scale.differences(base, new)
    change = scale.fraction(float(differences.mean()))
    low, high = bootstrap_interval(differences, "mean")
    p = sign_flip_p(differences)
    floor = math.nan
    if len(first):
        within = scale.differences(first, second)
        floor = max(noise_floor(within, pairs=len(base), confidence=FLOOR_CONFIDENCE), SMALLEST_FLOOR)
    reason = _missing(len(base), floor)
    verdict: Verdict = "undecided" if reason else "same"
    if not reason and p < LEVEL and abs(change) > floor:
        verdict = "better" if (change > 0) == (better == "up") else "worse"
    return Judgement(
        metric, better, decides, len(base), statistics.median(base), statistics.median(new), change,
        Interval(scale.fraction(low), scale.fraction(high)), p, floor, verdict, reason,
    )  # fmt: skip


def _missing(pairs: int, floor: float) -> str:
    """What has to be measured before anything can be said; empty when enough is there."""
    if pairs < NEEDED_PAIRS:
        more = NEEDED_PAIRS - pairs
        return f"{pairs} pair{'s' if pairs > 1 else ''}, {more} more needed for p < {LEVEL:g}"
    if math.isnan(floor):
        return "no configuration was measured twice by one side, so the noise floor is not known"
    if floor > BLIND_FLOOR:
        return (
            f"the noise floor hides even a halving: more pairs than {pairs}, longer windows or a quiet machine needed"
        )
    return ""


def _values(metric: str, pairs: Sequence[tuple[Record, Record]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = np.array([(a.metric(metric), b.metric(metric)) for a, b in pairs], dtype=np.float64).reshape(-1, 2)
    values = values[np.isfinite(values).all(axis=1)]
    return values[:, 0], values[:, 1]


class _Scale:
    """Logarithms where all values are above 0; else, as for returns, differences in units of the mean size."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._logarithmic = bool((values > 0).all())
        self._unit = float(np.abs(values).mean()) or 1.0

    def differences(self, base: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        return paired_log_ratios(base, new) if self._logarithmic else (new - base) / self._unit

    def fraction(self, difference: float) -> float:
        return math.expm1(difference) if self._logarithmic else difference

"""What pairs of measurements show, metric by metric.

A change is shown where ``harness.stats.inference.paired_comparison`` finds one, the same rule that ``run`` follows.
What is as it was to this test may still have changed by less than the smallest effect that could have been seen; where
that is more than was asked for, nothing is decided. A pair is one repeat of each side, measured side by side. Of
studies, which were measured at different times, it is one session of each side with all its repeats: a machine may
differ more from one session to the next than from one repeat to the next.
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

from harness.measure.record import Record
from harness.stats.inference import LEVEL, Interval, needed_pairs, paired_comparison, paired_log_ratios
from harness.suite.metrics import METRICS

DETECT = 0.5
"""change that could have been seen at least, where nothing else is asked for"""

Verdict = Literal["better", "worse", "same", "undecided"]
Outcome = Literal["regression", "no regression", "undecided"]
EXIT_CODES: dict[Outcome, int] = {"no regression": 0, "regression": 1, "undecided": 3}
Pair = list[tuple[Record, Record]]
"""(base, new): one repeat of each, or all that a session of each has in common"""


@dataclass(frozen=True)
class Pairs:
    """Records of both sides that belong together."""

    across: list[Pair] = field(default_factory=list)
    sessions: bool = False
    """each pair is a session of base and one of new, measured at different times"""
    notes: list[str] = field(default_factory=list)
    """what a reader has to know about them"""
    lost: int = 0
    """repeats that NEW did not complete, less those of BASE"""

    @property
    def records(self) -> list[Record]:
        """Each once."""
        return list({id(record): record for pair in self.across for both in pair for record in both}.values())


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
    """medians over the repeats"""
    change: float
    """geometric mean of new over base, less 1; for a metric that is not always above 0 the mean difference in units of
    the mean size of its values"""
    interval: Interval
    """of the change, 95 %: what the test does not reject"""
    p: float
    smallest_effect: float
    """change that would have been found with a probability of 80 %"""
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
        """By the metrics that decide. Sessions that differ, for whatever reason, are no regression of the code."""
        verdicts = {judgement.verdict for judgement in self.judgements if judgement.decides}
        if "worse" in verdicts and not self.pairs.sessions:
            return "regression"
        return "no regression" if verdicts and not verdicts & {"worse", "undecided"} else "undecided"

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


def compare(pairs: Pairs, deciding: Sequence[str], detect: float = DETECT) -> Comparison:
    """Judge all metrics that both sides have, those that decide first; others that were 0 all the time are left out.

    ``detect``: a change of this size, as a fraction, must be one that could have been seen.
    """
    names = [*deciding, *(name for name in METRICS if name not in deciding)]
    judgements = [judge(name, pairs, name in deciding, detect) for name in names]
    said = [one for one in judgements if one.pairs and (one.decides or one.base or one.new)]
    return Comparison(said, pairs)


def judge(metric: str, pairs: Pairs, decides: bool = True, detect: float = DETECT) -> Judgement:
    """One metric; what the values of the pairs show, unless one side missed a target or repeats more often."""
    found = _by_values(metric, pairs, decides, detect)
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
    missed = np.array(
        [[sum(math.isnan(both[side].seconds_to_return) for both in pair) for side in (0, 1)] for pair in pairs.across]
    ).reshape(-1, 2)
    repeats = sum(map(len, pairs.across))
    base, new = (int(count) for count in missed.sum(axis=0))
    if base == new or base + new == 2 * repeats:
        return None
    worse, better = (int((sign * (missed[:, 1] - missed[:, 0]) > 0).sum()) for sign in (1, -1))
    p = float(binomtest(worse, worse + better).pvalue)
    sides = (("BASE", base), ("NEW", new))
    reason = ", ".join(f"{name} did not reach the target in {n} of {repeats}" for name, n in sides if n)
    direction: Verdict = "worse" if new > base else "better"
    if p < LEVEL:
        return dataclasses.replace(found, pairs=len(missed), p=p, verdict=direction, reason=reason)
    if found.verdict == direction:  # what the others show is the same
        return found
    return dataclasses.replace(found, pairs=len(missed), verdict="undecided", reason=reason)


def _by_values(metric: str, pairs: Pairs, decides: bool, detect: float) -> Judgement:
    """By the pairs of which both sides have the metric."""
    values = [found for pair in pairs.across if len(found := _values(metric, pair))]
    better: Literal["up", "down"] = "up" if METRICS[metric] == "maximize" else "down"
    if not values:
        nothing = "it was not measured on both sides"
        unknown = Interval(math.nan, math.nan)
        return Judgement(
            metric, better, decides, 0, math.nan, math.nan, math.nan, unknown, math.nan, math.nan, "undecided", nothing
        )
    both = np.concatenate(values)
    scale = _Scale(both)
    compared = paired_comparison([scale.differences(own[:, 0], own[:, 1]).mean() for own in values])
    smallest = scale.fraction(compared.smallest_effect)
    verdict: Verdict = "same"
    reason = ""
    if compared.found:
        verdict = "better" if (compared.mean > 0) == (better == "up") else "worse"
    elif reason := _missing(len(values), smallest, detect, pairs.sessions):
        verdict = "undecided"
    return Judgement(
        metric, better, decides, len(values), statistics.median(both[:, 0]), statistics.median(both[:, 1]),
        scale.fraction(compared.mean), Interval(*map(scale.fraction, compared.interval)), compared.p, smallest,
        verdict, reason,
    )  # fmt: skip


def _missing(pairs: int, smallest: float, detect: float, sessions: bool) -> str:
    """What has to be measured before anything can be said; empty when enough is there."""
    more = needed_pairs() - pairs
    if more > 0 and sessions:
        have = f"{pairs} session{'s' if pairs > 1 else ''} a side"
        return f"{have}, and one session differs from the next by itself: {more} more needed, or --measure"
    if more > 0:
        return f"{pairs} pair{'s' if pairs > 1 else ''}, {more} more needed for p < {LEVEL:g}"
    if smallest > detect:
        what = "sessions" if sessions else "pairs"
        return (
            f"a change of {100 * detect:.3g}% could have gone unseen: more {what} than {pairs}, longer windows or a "
            "quiet machine needed"
        )
    return ""


def _values(metric: str, pair: Pair) -> NDArray[np.float64]:
    """``[repeats, 2]``: base and new."""
    values = np.array([[one.metric(metric) for one in both] for both in pair], dtype=np.float64).reshape(-1, 2)
    return values[np.isfinite(values).all(axis=1)]


class _Scale:
    """Logarithms where all values are above 0; else, as for returns, differences in units of the mean size."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._logarithmic = bool((values > 0).all())
        self._unit = float(np.abs(values).mean()) or 1.0

    def differences(self, base: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
        return paired_log_ratios(base, new) if self._logarithmic else (new - base) / self._unit

    def fraction(self, difference: float) -> float:
        with np.errstate(over="ignore"):
            return float(np.expm1(difference)) if self._logarithmic else difference

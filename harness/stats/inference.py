"""The one rule that tells better from worse, intervals and ranks: pure functions.

All take any sequence of finite numbers and raise ``ValueError`` for an empty one and for NaN or infinity: a value that
is missing has to be left out by the caller, who knows what it means.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy  # which loads its parts when they are used
from numpy.typing import ArrayLike, NDArray

TIE_DECIMALS = 12
"""means that differ by less are equal, in units of the largest difference"""
LEVEL = 0.05
"""of the test behind "better" and "worse", for one comparison that is looked at once"""
POWER = 0.8
"""probability with which the smallest effect that could have been seen is found"""
EXACT_PAIRS = 16
"""up to so many differences each of the 2^n sign patterns is looked at; beyond, as many random ones"""
DRAWN = 2**12
"""random patterns at a time"""
EXACT_SPLITS = 2**16
"""up to so many ways to deal two samples out anew each is looked at; beyond, so many random ones"""
BOOTSTRAPS = 2000
"""samples that are drawn"""
BOOTSTRAPPED = 5
"""seeds, at least, that an interval is drawn from"""
SIMULATED_PAIRS = 12
SIMULATIONS = 1000
"""of the power with few pairs, where the test has few levels"""

Verdict = Literal["better", "worse", "same", "undecided"]
AsWell = Literal["as well", "worse", "cannot tell"]
"""whether B has as much as A, but for a margin"""


class Interval(NamedTuple):
    """From ``low`` to ``high``, both included."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half: of n values, floor(n / 4) are left out at each end (Agarwal et al. 2021, 2108.13264)."""
    return float(scipy.stats.trim_mean(_finite(values), 0.25))


def bootstrap_interval(values: ArrayLike, level: float = LEVEL) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ends of the percentile bootstrap interval of the interquartile mean over seeds (Agarwal et al. 2021).

    Args:
        values: ``[seeds]`` or ``[seeds, points]``, of which each point has an interval of its own. With fewer than
            ``BOOTSTRAPPED`` seeds the interval is too narrow.
        level: the interval has confidence ``1 - level``.
    """
    sample = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(sample), (BOOTSTRAPS, len(sample)))
    low, high = np.quantile(scipy.stats.trim_mean(sample[drawn], 0.25, axis=1), [level / 2, 1 - level / 2], axis=0)
    return low, high


def median_interval(values: ArrayLike, level: float = LEVEL) -> Interval | None:
    """The interval of the median of independent values, with confidence ``1 - level`` at least for any distribution.

    It holds the medians that the sign test does not reject. None with fewer values than ``needed_pairs``, as all of
    them may well lie on one side of it.
    """
    sample = np.sort(_finite(values))
    rank = int(scipy.stats.binom.ppf(level / 2, len(sample), 0.5))  # from the k-th smallest to the k-th largest
    return Interval(float(sample[rank - 1]), float(sample[-rank])) if rank else None


class Change(NamedTuple):
    """What measurements say of the change from A to B: one test, and the interval that belongs to it."""

    value: float
    """mean of B less that of A; of ratios the geometric mean of B over A, less 1"""
    interval: Interval
    """the values that the test does not reject; without bounds where it can reject none"""
    p: float
    """of the hypothesis that there is no change"""
    least_p: float
    """that the test can give with so many values"""
    pairs: int = 0
    """0 where nothing pairs the values"""
    smallest_effect: float = math.inf
    """the value that would have been found with probability ``POWER``; infinite with fewer than ``needed_pairs``"""


def paired_comparison(differences: ArrayLike, level: float = LEVEL) -> Change:
    """The one rule that says "B is better than A": the sign-flip permutation test of the mean, and its inversion.

    The p-value is the part of the 2^n ways to swap A and B inside the pairs that give a mean at least as far from 0.
    Up to ``EXACT_PAIRS`` pairs all are looked at; beyond, as many random ones. The interval holds the means that the
    test does not reject, so that it excludes 0 exactly where ``p < level``. The smallest effect is for differences
    that spread normally, by their standard deviation.
    """
    sample = _finite(differences)
    p, interval = _sign_flip(sample, level)
    smallest = math.inf
    if len(sample) >= needed_pairs(level):
        smallest = float(sample.std(ddof=1)) * _found_deviations(len(sample), level)
    return Change(float(sample.mean()), interval, p, least_p(len(sample)), len(sample), smallest)


def unpaired_comparison(before: ArrayLike, after: ArrayLike, level: float = LEVEL) -> Change:
    """As ``paired_comparison`` where nothing pairs the values of A and B, such as seeds of two trainers.

    The p-value is twice the part of the ways to deal all values out anew that move the means at least as far apart.
    """
    a, b = _finite(before), _finite(after)
    size = float(np.abs([*a, *b]).max()) or 1.0
    means, patterns = _exchange_means(a / size, b / size)
    p, interval = _inverted(means, patterns, level)
    low, high = (end * size for end in interval)
    return Change(float(b.mean() - a.mean()), Interval(low, high), p, min(1.0, 1 / patterns))


class NonInferiority(NamedTuple):
    """Whether B has as much as A, but for a margin that was stated beforehand."""

    value: float
    """mean of B over that of A, less 1; of several tasks the mean"""
    interval: Interval
    """of the value; without bounds where the samples are too small for the test"""
    verdict: AsWell


def non_inferiority(
    tasks: Sequence[tuple[ArrayLike, ArrayLike]], margin: float, *, level: float = LEVEL, spread: float | None = None
) -> NonInferiority:
    """Whether B has less than A by ``margin`` at most: as a new treatment is compared with a proven one.

    Both sides are divided by A's mean in each task and then pooled: ``unpaired_comparison`` has the interval. B has as
    much where the interval lies above ``-margin``, less where it lies below 0. Otherwise nothing can be told.

    What it can show, by 2,000 simulations each of returns that spread normally by a part of their mean: of two sides
    that are alike, 20 seeds in each of three tasks show that B has 10 % less at most with a probability of 0.96 (spread
    0.15), 0.80 (0.2), 0.46 (0.3) and 0.28 (0.4); that it has 15 % less at most with 1.00, 0.99, 0.81 and 0.55. In one
    task 10 seeds a side show 10 % with 0.26 (spread 0.15) and 0.14 (0.2), 20 seeds with 0.54 and 0.33. A side that does
    have 10 % less is said to have as much in 0.02 of all cases, and one that is alike to have less in 0.02 to 0.03.

    Args:
        tasks: seeds of A and of B in each; their numbers may differ.
        margin: part of A's mean that B may have less.
        level: the interval has confidence ``1 - level``, so that the test has half of it.
        spread: standard deviation of a seed over the mean of A, where it is known from elsewhere. The interval then
            rests on it, and two seeds a side have one.

    Raises:
        ValueError: A's mean is not above 0 in one of the tasks, so that a part of it means nothing; or as for all here.
    """
    before, after = [], []
    for base, new in tasks:
        a, b = _finite(base), _finite(new)
        if a.mean() <= 0:
            raise ValueError(f"a part of the mean needs a mean above 0, got {a.mean():g}")
        before.append(a / a.mean())
        after.append(b / a.mean())
    pooled = np.concatenate(before), np.concatenate(after)
    if spread is None:
        value, interval = unpaired_comparison(*pooled, level)[:2]
    else:
        value = float(pooled[1].mean() - pooled[0].mean())
        beyond = float(scipy.stats.norm.isf(level / 2)) * spread * math.sqrt(sum(1 / len(side) for side in pooled))
        interval = Interval(value - beyond, value + beyond)
    decided: AsWell = "as well" if interval.low > -margin else "worse" if interval.high < 0 else "cannot tell"
    return NonInferiority(value, interval, decided)


def paired_change(pairs: Sequence[ArrayLike], *, ratio: bool, unit: float = 1.0, level: float = LEVEL) -> Change:
    """The change from A to B over pairs, by ``paired_comparison``.

    Args:
        pairs: of each its repeats, ``[repeats, 2]``: A and B. However many it has, it counts once.
        ratio: by the logarithms of B over A; otherwise by B - A.
        unit: of differences.

    Raises:
        ValueError: a ratio of values that are not above 0; or as for all here.
    """
    sides = [np.asarray(pair, dtype=np.float64) for pair in pairs]
    if not ratio:
        return paired_comparison([(own[:, 1] - own[:, 0]).mean() / unit for own in sides], level)
    if any((own <= 0).any() for own in sides):
        raise ValueError("a ratio needs values above 0")
    found = paired_comparison([np.log(own[:, 1] / own[:, 0]).mean() for own in sides], level)
    with np.errstate(over="ignore"):
        ends = found.value, *found.interval, found.smallest_effect
        value, low, high, smallest = (float(np.expm1(difference)) for difference in ends)
    return found._replace(value=value, interval=Interval(low, high), smallest_effect=smallest)


def verdict(change: float, p: float, least_p: float, direction: str, level: float = LEVEL) -> Verdict:
    """Whether B is better than A: what ``run`` claims of its best configuration, and ``compare`` of NEW.

    ``p`` is that of a test at ``level``. Where ``least_p``, the smallest that the test can give, is not below the level
    nothing is decided. ``direction`` is "maximize" or "minimize".
    """
    if least_p >= level:
        return "undecided"
    if p >= level:
        return "same"
    return "better" if (change > 0) == (direction == "maximize") else "worse"


def change_text(change: float, *, fraction: bool, sign: str = "+") -> str:
    """A change for people: of a fraction percent."""
    return f"{change:{sign}.1%}" if fraction else f"{change:{sign},.4g}"


def evidence_text(interval: Interval | None, pairs: int, *, fraction: bool, level: float = LEVEL) -> str:
    """What a verdict rests on, as "95 % interval +6.1% to +9.9%, 8 pairs"; without an interval that has no bounds."""
    text = f"{pairs} pair{'' if pairs == 1 else 's'}"
    if interval is None or not all(map(math.isfinite, interval)):
        return text
    low, high = (change_text(end, fraction=fraction) for end in interval)
    return f"{confidence_text(level)} interval {low} to {high}, {text}"


def confidence_text(level: float) -> str:
    """The confidence of the interval that belongs to a test at ``level``, in percent."""
    return f"{100 * (1 - level):.3g} %"


def least_p(pairs: int) -> float:
    """The smallest p-value that a paired test can give: all pairs agree."""
    return min(1.0, 2.0 ** (1 - pairs))


def needed_pairs(level: float = LEVEL) -> int:
    """With fewer no paired test falls below the level: n pairs that all agree give p = 2 / 2^n."""
    return math.floor(math.log2(2 / level)) + 1


def _sign_flip(sample: NDArray[np.float64], level: float) -> tuple[float, Interval]:
    """The p-value and its inversion, both by counting means of subsets.

    To flip the pairs of a subset leaves the mean at least as far from 0 where the mean of the subset, or that of the
    rest, is not on the same side of 0 as the mean of all. So the means that are not rejected lie between the k-th of
    these from below and the k-th from above (Hartigan 1969, Using subsample values as typical values).
    """
    size = float(np.abs(sample).max()) or 1.0
    p, interval = _inverted(*_subset_means(sample / size), level)
    return p, Interval(*(end * size for end in interval))


def _inverted(means: NDArray[np.float64], patterns: float, level: float) -> tuple[float, Interval]:
    """The p-value of 0 and the changes that are not rejected, from the means that an exchange of values compares."""
    # what differs by the rounding of its sum is a tie, whichever side is called A
    means = np.sort(means.round(TIE_DECIMALS))
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    rank = next(k for k in range(math.ceil(level * patterns), -1, -1) if k == 0 or k / patterns < level)
    bounds = (means[rank - 1], means[-rank]) if rank else (-math.inf, math.inf)
    return min(1.0, (1 + beyond) / patterns), Interval(*map(float, bounds))


def _subset_means(sample: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Means of subsets, all but the empty one and the whole, and the number of patterns: a subset and its rest are one.

    Of many pairs a random part of the patterns; the whole, which flips nothing, always counts as one.
    """
    count = len(sample)
    sums, counts = np.zeros(1), np.zeros(1)
    if count <= EXACT_PAIRS:
        for value in sample:
            sums, counts = np.concatenate([sums, sums + value]), np.concatenate([counts, counts + 1])
        return sums[1:-1] / counts[1:-1], 2 ** (count - 1)
    rng = np.random.default_rng(0)
    chosen = [rng.integers(0, 2, (DRAWN, count), dtype=np.int8) for _ in range(2 ** (EXACT_PAIRS - 1) // DRAWN)]
    sums, counts = np.concatenate([own @ sample for own in chosen]), np.concatenate([own.sum(axis=1) for own in chosen])
    proper = (counts > 0) & (counts < count)
    sums, counts = sums[proper], counts[proper]
    return np.concatenate([sums / counts, (sample.sum() - sums) / (count - counts)]), len(sums) + 1


def _exchange_means(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """For each way to exchange as many values of A as of B, the mean of those of B less that of A; and half the ways.

    To exchange them leaves the means at least as far apart where this is not above 0, or not below it.
    """
    count, total = math.comb(len(a) + len(b), len(a)), len(a) + len(b)
    if count <= EXACT_SPLITS:
        kept = np.zeros((count, total), dtype=bool)
        chosen = np.array(list(itertools.combinations(range(total), len(a))))
        np.put_along_axis(kept, chosen, True, axis=1)
    else:
        order = np.random.default_rng(0).random((EXACT_SPLITS, total)).argsort(axis=1)
        kept = order < len(a)
    given, taken = ~kept[:, : len(a)], kept[:, len(a) :]
    sizes = given.sum(axis=1)
    some = sizes > 0
    means = ((taken @ b) - (given @ a))[some] / sizes[some]
    return means, (1 + len(means)) / 2


@functools.cache
def _found_deviations(pairs: int, level: float) -> float:
    """The mean that the test finds with probability ``POWER``, in standard deviations of the differences."""
    if pairs > SIMULATED_PAIRS:  # from then on Student's test finds as much
        quantiles = scipy.stats.t.isf(level / 2, pairs - 1) + scipy.stats.t.ppf(POWER, pairs - 1)
        return float(quantiles / math.sqrt(pairs))
    samples = np.random.default_rng(0).standard_normal((SIMULATIONS, pairs))
    # a sample that is moved up by more than its lower bound is short of 0 is found to lie above 0
    return float(np.quantile([-_sign_flip(sample, level)[1].low for sample in samples], POWER))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation from -1 to 1, ties with their mean rank; NaN when one side has no two different values.

    Raises:
        ValueError: different lengths.
    """
    first, second = _finite(a), _finite(b)
    if len(first) != len(second):
        raise ValueError(f"expected as many values of both sides, got {len(first)} and {len(second)}")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(scipy.stats.spearmanr(first, second).statistic)


def _finite(values: ArrayLike | Sequence[float]) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise ValueError(f"expected at least one value, all of them finite numbers, got {sample}")
    return sample

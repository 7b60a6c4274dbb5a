"""What numbers can be trusted to say: intervals, paired tests and the noise floor. Pure functions over SciPy.

All take any sequence of finite numbers and raise ``ValueError`` for an empty one and for NaN or infinity: a value that
is missing has to be left out by the caller, who knows what it means.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Statistic = Literal["median", "mean", "interquartile_mean"]
TIE_DECIMALS = 9
"""to which means are told apart, in units of the largest difference"""
EXACT_PAIRS = 20
"""up to so many differences each of the 2^n sign patterns is looked at; beyond, as many random ones"""
NEEDED_PAIRS = 6
"""with fewer no paired test falls below 0.05: five, all in the same direction, give p = 2 / 2^5 = 0.06"""


class Interval(NamedTuple):
    """From ``low`` to ``high``; NaN where one value alone says nothing about the spread."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half: of n values, floor(n / 4) are left out at each end (Agarwal et al. 2021, 2108.13264)."""
    return float(stats.trim_mean(_finite(values), 0.25))


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = "median",
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of independent values; the same seed gives the same interval."""
    sample = _finite(values)
    if len(sample) < 2:
        return Interval(math.nan, math.nan)
    if np.ptp(sample) == 0:
        return Interval(float(sample[0]), float(sample[0]))
    result = stats.bootstrap(
        (sample,), _STATISTICS[statistic], vectorized=True, method="percentile", confidence_level=confidence,
        n_resamples=resamples, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(float(result.confidence_interval.low), float(result.confidence_interval.high))


def paired_log_ratios(base: ArrayLike, new: ArrayLike) -> NDArray[np.float64]:
    """``log(new / base)`` pair by pair, ``[pairs]``: 0 is no change, and gains and losses of one factor cancel.

    Raises:
        ValueError: different lengths, or a value that is not above 0.
    """
    before, after = _finite(base), _finite(new)
    if len(before) != len(after):
        raise ValueError(f"expected as many values of both sides, got {len(before)} and {len(after)}")
    if before.min() <= 0 or after.min() <= 0:
        raise ValueError("a ratio needs values above 0")
    return np.log(after / before)


def sign_flip_p(differences: ArrayLike) -> float:
    """Two-sided p-value of the hypothesis that paired differences are symmetric around 0, by their mean.

    The sign-flip permutation test: how many of the 2^n ways to swap base and new inside the pairs give a mean at least
    as far from 0. It is exact up to ``EXACT_PAIRS`` pairs. The smallest value that n pairs can give is 2 / 2^n: with
    fewer than six nothing falls below 0.05.
    """
    sample = _finite(differences)
    if len(sample) == 1:
        return 1.0
    exact = len(sample) <= EXACT_PAIRS
    size = float(np.abs(sample).max()) or 1.0

    def mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """Means that differ by the rounding of their sums are ties, whichever side is called base."""
        return np.asarray(np.mean(values / size, axis=axis)).round(TIE_DECIMALS)

    result = stats.permutation_test(
        (sample,), mean, permutation_type="samples", vectorized=True, alternative="two-sided",
        n_resamples=math.inf if exact else 2**EXACT_PAIRS, batch=2**14, rng=np.random.default_rng(0),
    )  # fmt: skip
    return min(1.0, float(result.pvalue))


def noise_floor(log_ratios: ArrayLike, *, pairs: int | None = None, confidence: float = 0.95) -> float:
    """Relative change that a comparison of A against itself stays below with the given confidence.

    Args:
        log_ratios: of A against A, ``paired_log_ratios`` of measurements taken as those of a comparison are.
        pairs: that the comparison has the mean of; default: as many as there are ratios.

    Returns:
        As a fraction: 0.02 says that changes within 2 % happen without a cause. It is Student's quantile of a mean of
        ``pairs`` ratios whose true mean is 0, so a floor from two or three ratios is as high as so little knowledge
        asks for; a bootstrap of so few would promise too much. At most e^700: it stays a number.
    """
    sample = _finite(log_ratios)
    error = math.sqrt(float(np.mean(sample**2)) / (pairs or len(sample)))
    return float(np.expm1(min(stats.t.ppf((1 + confidence) / 2, len(sample)) * error, 700.0)))


def gain_interval(
    base: ArrayLike,
    new: ArrayLike,
    statistic: Statistic = "mean",
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of ``new / base - 1``, pairs resampled: with ``mean`` of the geometric mean of the ratios.

    Raises:
        ValueError: as ``paired_log_ratios``.
    """
    ratios = paired_log_ratios(base, new)
    low, high = bootstrap_interval(ratios, statistic, confidence=confidence, resamples=resamples, seed=seed)
    return Interval(math.expm1(low), math.expm1(high))


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
    return float(stats.spearmanr(first, second).statistic)


def _finite(values: ArrayLike | Sequence[float]) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise ValueError(f"expected at least one value, all of them finite numbers, got {sample}")
    return sample


def _interquartile(sample: NDArray[np.float64], axis: int = -1) -> Any:
    return stats.trim_mean(sample, 0.25, axis=axis)


_STATISTICS: dict[Statistic, Callable[..., Any]] = {
    "median": np.median,
    "mean": np.mean,
    "interquartile_mean": _interquartile,
}

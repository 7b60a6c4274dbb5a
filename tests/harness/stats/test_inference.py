import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.inference import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    least_p,
    median_interval,
    needed_pairs,
    non_inferiority,
    paired_change,
    paired_comparison,
    spearman,
    unpaired_comparison,
    verdict,
)


def dealt_out_anew(a, b) -> list[float]:
    """Differences of the means of both sides, however the values are dealt out."""
    pooled, whole = [*a, *b], range(len(a) + len(b))
    return [
        np.mean([pooled[i] for i in whole if i not in chosen]) - np.mean([pooled[i] for i in chosen])
        for chosen in itertools.combinations(whole, len(a))
    ]


def test_five_seeds_a_side_can_be_told_apart_without_pairs():
    apart = unpaired_comparison([1, 2, 3, 4, 5], [11, 12, 13, 14, 15])
    assert (apart.value, apart.p, apart.least_p) == (10, 2 / 252, 2 / 252)
    assert apart.interval.low > 0 and apart.value in apart.interval
    assert verdict(apart.value, apart.p, apart.least_p, "maximize") == "better"
    assert verdict(apart.value, apart.p, apart.least_p, "minimize") == "worse"
    assert verdict(1.0, 0.5, apart.least_p, "maximize") == "same"
    few = unpaired_comparison([1, 2], [11, 12])
    assert (few.p, few.interval) == (2 / 6, Interval(-math.inf, math.inf))
    assert verdict(few.value, few.p, few.least_p, "maximize") == "undecided"
    assert unpaired_comparison([0.1], [5]).p == 1 == unpaired_comparison([3, 3], [3, 3]).p


@settings(max_examples=25)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=5), st.lists(st.integers(-9, 9), min_size=2, max_size=5))
def test_unpaired_comparison_counts_every_way_to_deal_out(a, b):
    seen = unpaired_comparison(a, b)
    differences = np.array(dealt_out_anew(a, b)).round(9)
    beyond = min((differences >= round(seen.value, 9)).sum(), (differences <= round(seen.value, 9)).sum())
    assert seen.p == pytest.approx(min(1, 2 * beyond / len(differences)))
    assert (0 in seen.interval) == (seen.p >= 0.05)


def test_many_unpaired_values_are_dealt_out_at_random():
    rng = np.random.default_rng(1)
    a = rng.normal(0, 1, 30)
    assert unpaired_comparison(a, a + 1).p < 0.01 < 0.5 < unpaired_comparison(a, rng.permutation(a)).p


def test_bootstrap_interval_of_the_interquartile_mean():
    low, high = bootstrap_interval([0, 10, 20, 30, 1000])
    assert 0 < low < 20 < high < 1000
    lows, highs = bootstrap_interval([[seed, 5.0] for seed in range(6)])  # [seeds, points]
    assert lows[0] < 2.5 < highs[0] and lows[1] == highs[1] == 5
    assert [least_p(pairs) < 0.05 for pairs in (5, 6)] == [False, True]


NUMBERS = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))


def test_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean([1, 2, 3, 4, 5, 6, 7, 1000]) == (3 + 4 + 5 + 6) / 4
    assert interquartile_mean([100, 1, 2, 3, -50]) == 2  # floor(5 / 4) = 1 at each end
    assert interquartile_mean([1, 5]) == 3


def test_log_ratios_of_a_doubling_and_a_halving_cancel():
    assert [paired_change([[pair]], ratio=True).value for pair in ((10, 20), (10, 5))] == pytest.approx([1, -0.5])
    assert paired_change([[(10, 20)], [(10, 5)]], ratio=True).value == pytest.approx(0)


@pytest.mark.parametrize("pairs", [[[(0, 1)]], [[(1, -1)]], [], [[(math.nan, 1)]], [[(1, 2), (1, math.nan)]]])
def test_ratios_refuse_what_has_none(pairs):
    with pytest.raises(ValueError):
        paired_change(pairs, ratio=True)


def p(differences) -> float:
    return paired_comparison(differences).p


def test_sign_flip_by_hand():
    # means of the 8 patterns of (1, 2, 3), times 3: 6, 4, 2, 0, 0, -2, -4, -6; two are at least 6 from 0
    assert p([1, 2, 3]) == 2 / 8
    # of (3, -1): 2, 4, -4, -2; all are at least 2 from 0
    assert p([3, -1]) == 1
    # of (1, 2, -0.5), times 3: 2.5, 3.5, -1.5, -0.5 and their negatives; four reach 2.5
    assert p([1, 2, -0.5]) == 4 / 8
    assert p([0.0, 0.0]) == p([5.0]) == 1


def test_five_pairs_cannot_show_anything_and_six_can():
    five, six = paired_comparison([0.1] * 5), paired_comparison([0.1] * 6)
    assert five.p == 2 / 2**5 > 0.05
    assert five.interval == Interval(-math.inf, math.inf) and five.smallest_effect == math.inf
    assert six.p == 2 / 2**6 < 0.05
    assert six.interval == pytest.approx((0.1, 0.1)) and six.smallest_effect == pytest.approx(0)
    assert [needed_pairs(level) for level in (0.05, 0.025, 2 / 64, 0.0125)] == [6, 7, 7, 8]


def test_the_interval_by_hand():
    # six pairs: only the pattern in which none is flipped is rare enough, so that the interval ends with the values
    assert paired_comparison([1, 2, 3, 5, 8, 13]).interval == pytest.approx((1, 13))
    # seven: 3 / 64 < 0.05 < 4 / 64, so that it begins with the third smallest mean of a subset: 1, (1 + 2) / 2, 5 / 3
    assert paired_comparison([1, 2, 2, 5, 8, 13, 21]).interval == pytest.approx((1.5, 14.5))


@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_sign_flip_is_what_counting_all_patterns_gives(differences):
    sample = np.array(differences)
    seen = abs(sample.sum())
    means = [abs((sample * signs).sum()) for signs in itertools.product((-1, 1), repeat=len(sample))]
    expected = np.mean([mean >= seen - 1e-9 * max(1, seen) for mean in means])
    assert p(sample) == pytest.approx(expected)
    assert p(-sample) == pytest.approx(expected)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.sampled_from([0.05, 0.025, 0.05 / 3, 0.2, 0.5]))
def test_the_interval_excludes_0_exactly_where_the_test_finds_a_difference(differences, level):
    compared = paired_comparison(differences, level)
    assert (0 not in compared.interval) == (compared.p < level)
    turned = paired_comparison([-value for value in differences], level).interval
    assert turned == (-compared.interval.high, -compared.interval.low)


@settings(max_examples=40)
@given(st.lists(st.integers(-50, 50), min_size=6, max_size=10))
def test_the_interval_holds_the_means_that_the_test_does_not_reject(differences):
    sample = np.array(differences)
    low, high = paired_comparison(sample).interval
    outside, inside = 1e-4, min(1e-4, (high - low) / 2)
    assert p(sample - (low - outside)) < 0.05 and p(sample - (high + outside)) < 0.05
    assert p(sample - (low + inside)) >= 0.05 and p(sample - (high - inside)) >= 0.05


@pytest.mark.parametrize("pairs", [6, 8, 12])
def test_the_interval_covers_the_mean_as_often_as_it_says_and_the_smallest_effect_is_found(pairs):
    rng = np.random.default_rng(pairs)
    samples = rng.normal(10, 2, (1500, pairs))
    compared = [paired_comparison(sample) for sample in samples]
    exactly = math.floor(0.05 * 2 ** (pairs - 1)) / 2 ** (pairs - 1)  # six pairs have no level between 3.1 and 6.2 %
    assert np.mean([10 not in one.interval for one in compared]) == pytest.approx(exactly, abs=0.015)
    known = [2 * one.smallest_effect / sample.std(ddof=1) for one, sample in zip(compared, samples, strict=True)]
    assert np.ptp(known) < 1e-9
    found = [paired_comparison(sample - 10 + known[0]).p < 0.05 for sample in samples]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_many_pairs_are_sampled_instead_of_counted():
    differences = np.random.default_rng(0).normal(0.5, 1, 40)
    compared = paired_comparison(differences)
    centre, error = differences.mean(), differences.std(ddof=1) / math.sqrt(40)
    assert compared.p < 0.01 and compared.smallest_effect == pytest.approx(2.87 * error, rel=0.05)
    assert p(differences - differences.mean()) == pytest.approx(1, abs=1e-3)
    assert compared.interval == pytest.approx((centre - 2.02 * error, centre + 2.02 * error), rel=0.1)


def test_the_median_of_five_has_no_interval_and_that_of_more_covers_it_as_often_as_it_says():
    assert median_interval([1, 2, 3, 4, 5]) is None
    assert median_interval([6, 5, 4, 3, 2, 1]) == (1, 6)  # 2 / 2^6 = 3.1 % beside it
    assert median_interval(range(1, 10)) == (2, 8)  # 2 * (1 + 9) / 2^9 = 3.9 %
    rng = np.random.default_rng(1)
    for count in (6, 8, 12):
        skew = rng.exponential(1.0, (2000, count))
        covered = np.mean([math.log(2) in (median_interval(sample) or ()) for sample in skew])
        assert 0.94 <= covered <= 0.995


def test_spearman_by_hand():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match="as many"):
        spearman([1, 2], [1])


def test_sums_that_differ_by_rounding_alone_are_ties_in_the_sign_flip_test() -> None:
    base = [75.0, 3800, 4457, 5297, 5639, 8104, 9014, 9561, 5]
    new = [7263.0, 267, 4217, 9626, 8438, 3, 5905, 7171, 1571]
    pairs = np.array([base, new]).T[:, np.newaxis]
    assert paired_change(pairs, ratio=True).p == paired_change(pairs[..., ::-1], ratio=True).p
    thirds = np.array([0.1, 0.2, -0.3, 0.1, 0.2, 0.7])  # 0.1 + 0.2 is not 0.3
    assert p(thirds) == p(10 * np.round(thirds, 1)) == p(np.array([1, 2, -3, 1, 2, 7.0]))


SEEDS = st.lists(st.floats(1.0, 1e4), min_size=4, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(SEEDS, SEEDS), min_size=1, max_size=1), st.floats(0.01, 0.5), st.floats(0.1, 1e3))
def test_non_inferiority_says_what_its_interval_does_whatever_the_unit(tasks, margin, unit) -> None:
    found = non_inferiority(tasks, margin)
    assert found.interval.low <= found.value + 1e-9 and found.value <= found.interval.high + 1e-9
    assert (found.verdict == "as well") == (found.interval.low > -margin)
    if found.verdict == "worse":
        assert found.interval.high < 0 and found.value < 0
    other = non_inferiority([(np.multiply(a, unit), np.multiply(b, unit)) for a, b in tasks], margin)
    assert other.value == pytest.approx(found.value, abs=1e-6)
    alike = non_inferiority([(a, a) for a, _ in tasks], margin)
    assert alike.value == pytest.approx(0, abs=1e-9) and alike.verdict != "worse"


@settings(max_examples=40, deadline=None)
@given(SEEDS, SEEDS, st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_who_is_as_good_within_a_margin_is_so_within_a_larger_one(before, after, margin, more) -> None:
    narrow, wide = (non_inferiority([(before, after)], width).verdict for width in (margin, margin + more))
    assert narrow != "as well" or wide == "as well"


def test_non_inferiority_of_seeds_by_hand() -> None:
    base = [95.0, 100.0, 105.0, 100.0]
    assert non_inferiority([(base, [96.0, 101.0, 103.0, 100.0])], 0.2).verdict == "as well"
    assert non_inferiority([(base, [50.0, 60.0, 55.0, 52.0])], 0.2).verdict == "worse"
    few = non_inferiority([(base[:2], [50.0, 60.0])], 0.2)
    assert few.verdict == "cannot tell" and few.interval == (-math.inf, math.inf)
    known = non_inferiority([([100.0, 100.0], [90.0, 94.0])], 0.3, spread=0.1)
    assert known.value == pytest.approx(-0.08) and known.interval == pytest.approx((-0.276, 0.116), abs=1e-3)
    assert known.verdict == "as well"
    with pytest.raises(ValueError, match="above 0, got -5"):
        non_inferiority([([-4.0, -6.0], [1.0, 2.0])], 0.1)

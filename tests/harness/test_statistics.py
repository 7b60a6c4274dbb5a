import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics import (
    Interval,
    bootstrap_interval,
    gain_interval,
    interquartile_mean,
    noise_floor,
    paired_log_ratios,
    sign_flip_p,
    spearman,
)

NUMBERS = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))


def test_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean([1, 2, 3, 4, 5, 6, 7, 1000]) == (3 + 4 + 5 + 6) / 4
    assert interquartile_mean([100, 1, 2, 3, -50]) == 2  # floor(5 / 4) = 1 at each end
    assert interquartile_mean([1, 5]) == 3


def test_log_ratios_of_a_doubling_and_a_halving_cancel():
    ratios = paired_log_ratios([10, 10], [20, 5])
    assert ratios == pytest.approx([math.log(2), -math.log(2)])
    assert ratios.sum() == pytest.approx(0)


@pytest.mark.parametrize(("base", "new"), [([1, 2], [1]), ([0], [1]), ([1], [-1]), ([], []), ([math.nan], [1])])
def test_log_ratios_refuse_what_has_no_ratio(base, new):
    with pytest.raises(ValueError):
        paired_log_ratios(base, new)


def test_sign_flip_by_hand():
    # means of the 8 patterns of (1, 2, 3), times 3: 6, 4, 2, 0, 0, -2, -4, -6; two are at least 6 from 0
    assert sign_flip_p([1, 2, 3]) == 2 / 8
    # of (3, -1): 2, 4, -4, -2; all are at least 2 from 0
    assert sign_flip_p([3, -1]) == 1
    # of (1, 2, -0.5), times 3: 2.5, 3.5, -1.5, -0.5 and their negatives; four reach 2.5
    assert sign_flip_p([1, 2, -0.5]) == 4 / 8
    assert sign_flip_p([0.0, 0.0]) == 1


def test_five_pairs_cannot_show_anything_and_six_can():
    assert sign_flip_p([0.1] * 5) == 2 / 2**5 > 0.05
    assert sign_flip_p([0.1] * 6) == 2 / 2**6 < 0.05


@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_sign_flip_is_what_counting_all_patterns_gives(differences):
    sample = np.array(differences)
    seen = abs(sample.sum())
    means = [abs((sample * signs).sum()) for signs in itertools.product((-1, 1), repeat=len(sample))]
    expected = np.mean([mean >= seen - 1e-9 * max(1, seen) for mean in means])
    assert sign_flip_p(sample) == pytest.approx(expected)
    assert sign_flip_p(-sample) == pytest.approx(expected)


def test_many_pairs_are_sampled_instead_of_counted():
    differences = np.random.default_rng(0).normal(0.5, 1, 40)
    assert sign_flip_p(differences) < 0.01
    assert sign_flip_p(differences - differences.mean()) == pytest.approx(1, abs=1e-3)


@given(st.lists(NUMBERS, min_size=2, max_size=12), st.sampled_from(["median", "mean", "interquartile_mean"]))
def test_an_interval_lies_within_the_values_and_is_repeatable(values, statistic):
    interval = bootstrap_interval(values, statistic, resamples=200)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == bootstrap_interval(values, statistic, resamples=200)


def test_an_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = [10 in bootstrap_interval(rng.normal(10, 2, 40), "mean", resamples=300) for _ in range(200)]
    assert 0.88 <= np.mean(covered) <= 0.99


def test_one_value_has_no_interval():
    assert all(math.isnan(end) for end in bootstrap_interval([3.0]))
    assert bootstrap_interval([3.0, 3.0, 3.0]) == Interval(3.0, 3.0)


def test_the_noise_floor_is_students_quantile_of_the_mean():
    # 12.706 and 4.303: two-sided 95 % of Student's distribution with one and with two degrees of freedom
    assert noise_floor([0.01]) == pytest.approx(math.expm1(12.706 * 0.01), rel=1e-4)
    assert noise_floor([0.01, -0.03]) == pytest.approx(math.expm1(4.3027 * math.sqrt(0.001 / 2 / 2)), rel=1e-4)
    assert noise_floor([0.0, 0.0]) == 0
    sample = np.random.default_rng(2).normal(0, 0.03, 4000)
    assert noise_floor(sample, pairs=9) == pytest.approx(math.expm1(1.96 * 0.03 / 3), rel=0.05)


def test_means_of_a_against_a_exceed_the_noise_floor_as_seldom_as_it_says():
    rng = np.random.default_rng(3)
    rounds = [(noise_floor(rng.normal(0, 0.03, 4), pairs=6), rng.normal(0, 0.03, 6).mean()) for _ in range(2000)]
    assert np.mean([abs(mean) > math.log1p(floor) for floor, mean in rounds]) == pytest.approx(0.05, abs=0.015)


@given(st.lists(st.floats(-0.2, 0.2), min_size=1, max_size=10), st.floats(0.5, 0.99))
def test_the_noise_floor_does_not_depend_on_which_measurement_is_called_the_first(ratios, confidence):
    floor = noise_floor(ratios, confidence=confidence)
    assert floor >= 0
    assert floor == pytest.approx(noise_floor([-ratio for ratio in reversed(ratios)], confidence=confidence))
    assert noise_floor(ratios, pairs=4 * len(ratios), confidence=confidence) == pytest.approx(
        math.expm1(math.log1p(floor) / 2)
    )


def test_the_gain_interval_of_a_constant_gain_is_that_gain():
    base = [100.0, 200.0, 50.0]
    assert gain_interval(base, [1.1 * value for value in base]) == pytest.approx((0.1, 0.1))
    low, high = gain_interval(base, [110.0, 180.0, 60.0])
    assert -0.1 - 1e-9 <= low < 0.05 < high <= 0.2 + 1e-9


def test_spearman_by_hand():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match="as many"):
        spearman([1, 2], [1])


def test_sums_that_differ_by_rounding_alone_are_ties_in_the_sign_flip_test() -> None:
    base = [75.0, 3800, 4457, 5297, 5639, 8104, 9014, 9561, 5]
    new = [7263.0, 267, 4217, 9626, 8438, 3, 5905, 7171, 1571]
    assert sign_flip_p(paired_log_ratios(base, new)) == sign_flip_p(paired_log_ratios(new, base))
    thirds = np.array([0.1, 0.2, -0.3, 0.1, 0.2, 0.7])  # 0.1 + 0.2 is not 0.3
    assert sign_flip_p(thirds) == sign_flip_p(10 * np.round(thirds, 1)) == sign_flip_p(np.array([1, 2, -3, 1, 2, 7.0]))

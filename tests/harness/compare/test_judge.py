"""BASE against NEW: what pairs show."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.judge import Judgement, Pairs, compare, judge
from harness.compare.measure import Schedule
from harness.record import METRICS, Record
from harness.suite import Measure
from tests.harness.compare.studies import record


def pairs_of(base, new, within=((100, 101), (102, 101), (99, 100)), metric="env_steps_per_second") -> Pairs:
    def made(values):
        return [(record(a, metric), record(b, metric)) for a, b in values]

    return Pairs(made(zip(base, new, strict=True)), made(within))


@pytest.mark.parametrize("metric", ["env_steps_per_second", "episode_return", "peak_host_bytes", "seconds_to_return"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_direction_of_a_metric_decides_what_is_worse(metric: str, factor: float) -> None:
    base = [100, 102, 98, 101, 99, 103]
    comparison = compare(pairs_of(base, [factor * value for value in base], metric=metric), [metric])
    good = "up" if metric in ("env_steps_per_second", "episode_return") else "down"
    verdict = "better" if (factor > 1) == (good == "up") else "worse"
    only = next(one for one in comparison.judgements if one.metric == metric)
    assert (only.better, only.verdict, only.pairs) == (good, verdict, 6)
    assert only.change == pytest.approx(factor - 1) and only.p == 2 / 2**6
    assert comparison.exit_code == (1 if verdict == "worse" else 0)


def test_a_change_has_to_be_larger_than_the_noise_floor() -> None:
    base = [100.0] * 6
    quiet, noisy = [(100, 101), (101, 100), (100, 101)], [(100, 110), (110, 100), (100, 110)]
    assert judge("env_steps_per_second", pairs_of(base, [92.0] * 6, quiet)).verdict == "worse"
    judged = judge("env_steps_per_second", pairs_of(base, [92.0] * 6, noisy))
    # three ratios of 10 %, Student's 99.5 % quantile with 3 degrees of freedom, the mean of 6 pairs
    assert judged.noise_floor == pytest.approx(math.expm1(7.4533 * math.log(1.1) / math.sqrt(6)), rel=1e-4)
    assert judged.verdict == "same" and judged.p < 0.05


def test_a_noise_floor_that_hides_a_halving_says_nothing() -> None:
    comparison = compare(pairs_of([100] * 6, [90] * 6, [(100, 60), (60, 100), (100, 60)]), ["env_steps_per_second"])
    assert comparison.exit_code == 3 and "hides even a halving" in comparison.judgements[0].reason


def test_a_change_needs_the_sign_flip_test_as_well() -> None:
    judged = judge("env_steps_per_second", pairs_of([100] * 6, [60, 70, 101, 101, 60, 101]))
    assert abs(judged.change) > judged.noise_floor and judged.p >= 0.05
    assert judged.verdict == "same"


def test_changes_of_less_than_a_percent_are_nobodys_regression() -> None:
    judged = judge("env_steps_per_second", pairs_of([1000] * 8, [992] * 8, [(1000, 1000)] * 4))
    assert judged.noise_floor == 0.01 and judged.p < 0.01 and judged.verdict == "same"


def test_fewer_than_six_pairs_or_no_repeat_say_nothing_and_how_many_are_missing() -> None:
    comparison = compare(pairs_of([100] * 4, [50] * 4), ["env_steps_per_second"])
    assert comparison.judgements[0].reason == "4 pairs, 2 more needed for p < 0.05"
    assert (comparison.outcome, comparison.exit_code) == ("nothing comparable", 3)
    comparison = compare(pairs_of([100] * 9, [50] * 9, within=[]), ["env_steps_per_second"])
    assert "noise floor is not known" in comparison.judgements[0].reason and comparison.exit_code == 3
    assert compare(Pairs(), ["env_steps_per_second"]).exit_code == 3


def test_only_the_metrics_that_decide_make_a_regression() -> None:
    pairs = pairs_of([100] * 6, [100] * 6)
    for base, new in [*pairs.across, *pairs.within]:
        object.__setattr__(base, "peak_host_bytes", 1000)
        object.__setattr__(new, "peak_host_bytes", 1000)
    for _, new in pairs.across:
        object.__setattr__(new, "peak_host_bytes", 2000)
    comparison = compare(pairs, ["env_steps_per_second"])
    memory = next(one for one in comparison.judgements if one.metric == "peak_host_bytes")
    assert memory.verdict == "worse" and comparison.exit_code == 0
    assert compare(pairs, ["env_steps_per_second", "peak_host_bytes"]).exit_code == 1


def test_returns_around_zero_are_compared_by_differences() -> None:
    base, new = [-10.0, 5, 0, 10, -5, 0, 2], [-30.0, -15, -20, -10, -25, -20, -18]
    judged = judge("episode_return", pairs_of(base, new, [(1.0, 0.0), (0.0, 1.0), (0.5, 0.0)], "episode_return"))
    sizes = np.abs([*base, *new, 1, 0, 0, 1, 0.5, 0])
    assert judged.change == pytest.approx(-20 / sizes.mean()) and judged.verdict == "worse"
    assert judge("dropped_rollouts", pairs_of([0] * 6, [0] * 6, metric="dropped_rollouts")).verdict == "same"


def test_what_a_side_has_not_measured_is_left_out() -> None:
    judged = judge("env_steps_per_second", pairs_of([100, math.nan] * 6, [90, 90] * 6))
    assert judged.pairs == 6 and judged.base == 100
    assert compare(pairs_of([math.nan] * 6, [90] * 6), ["env_steps_per_second"]).exit_code == 3


def targets(base: list[float], new: list[float]) -> Judgement:
    pairs = pairs_of(base, new, metric="seconds_to_return")
    return next(one for one in compare(pairs, ["seconds_to_return"]).judgements if one.decides)


def test_a_target_that_one_side_misses_is_no_value_to_be_left_out() -> None:
    judged = targets([100.0] * 8, [100.0] * 6 + [math.nan] * 2)
    assert (judged.verdict, judged.reason) == ("undecided", "NEW did not reach the target in 2 of 8")
    judged = targets([100.0] * 14, [100.0] * 6 + [math.nan] * 8)
    assert (judged.verdict, judged.p) == ("worse", 2 / 2**8)
    assert targets([100.0] * 6 + [math.nan] * 8, [100.0] * 14).verdict == "better"
    none = targets([100.0] * 6, [math.nan] * 6)
    assert none.verdict == "worse" and none.pairs == 6
    assert targets([100.0] * 8, [150.0] * 7 + [math.nan]).verdict == "worse", "later, and seldom"
    assert targets([100.0] * 8, [50.0] * 7 + [math.nan]).verdict == "undecided", "sooner, but not always"
    assert targets([math.nan] + [100.0] * 7, [100.0] * 7 + [math.nan]).verdict == "same"


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=6, max_size=9), st.floats(0.1, 10))
def test_swapping_the_sides_or_changing_the_unit_changes_no_evidence(values, unit: float) -> None:
    within = [(100, 103), (104, 100)]
    base, new = zip(*values, strict=True)
    one = judge("env_steps_per_second", pairs_of(base, new, within))
    other = judge("env_steps_per_second", pairs_of(new, base, within))
    scaled = judge("env_steps_per_second", pairs_of([unit * b for b in base], [unit * n for n in new], within))
    assert one.p == pytest.approx(other.p) == pytest.approx(scaled.p)
    assert (1 + one.change) * (1 + other.change) == pytest.approx(1) and scaled.change == pytest.approx(one.change)
    assert one.noise_floor == pytest.approx(other.noise_floor)


def test_eight_percent_are_found_in_noise_of_two_and_nothing_is_seen_where_nothing_is() -> None:
    rng = np.random.default_rng(0)
    outcomes = {0.92: 0, 1.0: 0}
    for _ in range(150):
        for factor in outcomes:
            blocks = np.exp(rng.normal(0, 0.02, (4, 4))) * 20_000
            blocks[:, 1:3] *= factor  # base, new, new, base
            across = [(b[0], b[1]) for b in blocks] + [(b[3], b[2]) for b in blocks]
            within = [(b[0], b[3]) for b in blocks] + [(b[1], b[2]) for b in blocks]
            judged = judge("env_steps_per_second", Pairs([(record(a), record(b)) for a, b in across],
                           [(record(a), record(b)) for a, b in within]))  # fmt: skip
            outcomes[factor] += judged.verdict == "worse"
    assert outcomes[0.92] >= 145 and outcomes[1.0] <= 2


def test_pairs_are_measured_base_new_new_base() -> None:
    assert list(Schedule(Measure(), 3)) == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]


def test_every_metric_has_a_direction_and_fits_the_table() -> None:
    assert max(map(len, METRICS)) <= 30
    assert {field.name for field in dataclasses.fields(Record)} >= set(METRICS)

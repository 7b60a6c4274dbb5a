"""BASE against NEW: what pairs show."""

import dataclasses
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.cli.output import as_json
from harness.compare.measured import blocks
from harness.compare.sides import Side
from harness.compare.verdict import MetricChange, Pairs, as_dict, compare, compare_metric, show
from harness.measure.record import Record
from harness.suite.metrics import METRICS
from tests.harness.compare.studies import record


def pairs_of(base, new, metric="env_steps_per_second", **more) -> Pairs:
    return Pairs([[(record(a, metric), record(b, metric))] for a, b in zip(base, new, strict=True)], **more)


@pytest.mark.parametrize("metric", ["env_steps_per_second", "episode_return", "peak_host_bytes", "seconds_to_return"])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_direction_of_a_metric_decides_what_is_worse(metric: str, factor: float) -> None:
    base = [100, 102, 98, 101, 99, 103]
    comparison = compare(pairs_of(base, [factor * value for value in base], metric=metric), [metric])
    good = "up" if metric in ("env_steps_per_second", "episode_return") else "down"
    verdict = "better" if (factor > 1) == (good == "up") else "worse"
    only = next(one for one in comparison.metrics if one.metric == metric)
    assert (only.better, only.verdict, only.pairs) == (good, verdict, 6)
    assert only.change == pytest.approx(factor - 1) and only.p == 2 / 2**6
    assert comparison.exit_code == (1 if verdict == "worse" else 0)


def test_the_verdict_is_that_of_the_test_and_its_interval_agrees() -> None:
    base = [100.0] * 6
    judged = compare_metric("env_steps_per_second", pairs_of(base, [92.0, 93, 94, 91, 92, 93]))
    assert (judged.verdict, judged.p) == ("worse", 2 / 2**6)
    assert judged.interval == pytest.approx((-0.09, -0.06)) and judged.smallest_effect < 0.05
    judged = compare_metric("env_steps_per_second", pairs_of(base, [90, 92, 101, 101, 90, 101]))
    assert judged.verdict == "same" and judged.p >= 0.05 and 0 in judged.interval


def test_what_could_have_gone_unseen_is_undecided() -> None:
    noisy = pairs_of([100] * 6, [92, 106, 99, 104, 95, 101])
    judged = compare_metric("env_steps_per_second", noisy)
    assert judged.verdict == "same" and 0.05 < judged.smallest_effect < 0.15
    assert compare(noisy, ["env_steps_per_second"]).exit_code == 0
    comparison = compare(noisy, ["env_steps_per_second"], detect=0.05)
    assert comparison.exit_code == 3 and comparison.outcome == "undecided"
    assert "a change of 5% could have gone unseen" in comparison.metrics[0].reason
    halved = pairs_of([100, 60] * 3, [60, 100, 90, 60, 50, 70])
    assert compare(halved, ["env_steps_per_second"]).exit_code == 3, "not even a halving could have been seen"
    assert compare(pairs_of([100] * 6, [60, 90, 70, 80, 60, 80]), ["env_steps_per_second"], 0.01).exit_code == 1


def test_fewer_than_six_pairs_say_nothing_and_how_many_are_missing() -> None:
    comparison = compare(pairs_of([100] * 4, [50] * 4), ["env_steps_per_second"])
    assert comparison.metrics[0].reason == "4 pairs, 2 more needed for p < 0.05"
    assert (comparison.outcome, comparison.exit_code) == ("undecided", 3)
    assert compare(Pairs(), ["env_steps_per_second"]).exit_code == 3


def test_sessions_count_once_however_many_repeats_they_have_and_are_never_a_regression() -> None:
    """Sessions of the same code drift by 5 %, their repeats by 1 %."""
    rng = np.random.default_rng(1)
    verdicts = []
    for _ in range(300):
        drift, noise = rng.normal(0, 0.05, (6, 1, 2)), rng.normal(0, 0.01, (6, 2, 2))
        values = 1000 * np.exp(drift + noise)
        sessions = Pairs([[(record(a), record(b)) for a, b in own] for own in values], sessions=True)
        verdicts.append(compare_metric("env_steps_per_second", sessions).verdict)
    assert 0 < 300 - verdicts.count("same") <= 0.05 * 300
    one = Pairs([[(record(1000), record(900 + i)) for i in range(8)]], sessions=True)
    comparison = compare(one, ["env_steps_per_second"])
    assert comparison.exit_code == 3 and comparison.metrics[0].change == pytest.approx(-0.0965, abs=1e-3)
    assert "1 session a side" in comparison.metrics[0].reason
    slower = compare(pairs_of([100] * 6, [90] * 6, sessions=True), ["env_steps_per_second"])
    assert (slower.metrics[0].verdict, slower.exit_code) == ("worse", 3)
    assert compare(pairs_of([100] * 6, [90] * 6), ["env_steps_per_second"]).exit_code == 1


def test_only_the_metrics_that_decide_make_a_regression() -> None:
    pairs = pairs_of([100] * 6, [100] * 6)
    for ((base, new),) in pairs.across:
        object.__setattr__(base, "peak_host_bytes", 1000)
        object.__setattr__(new, "peak_host_bytes", 2000)
    comparison = compare(pairs, ["env_steps_per_second"])
    memory = next(one for one in comparison.metrics if one.metric == "peak_host_bytes")
    assert memory.verdict == "worse" and comparison.exit_code == 0
    assert compare(pairs, ["env_steps_per_second", "peak_host_bytes"]).exit_code == 1


def test_returns_around_zero_are_compared_by_differences() -> None:
    base, new = [-10.0, 5, 0, 10, -5, 0, 2], [-30.0, -15, -20, -10, -25, -20, -18]
    judged = compare_metric("episode_return", pairs_of(base, new, "episode_return"))
    sizes = np.abs([*base, *new])
    assert judged.change == pytest.approx(-20 / sizes.mean()) and judged.verdict == "worse"
    assert compare_metric("dropped_rollouts", pairs_of([0] * 6, [0] * 6, metric="dropped_rollouts")).verdict == "same"


def test_what_a_side_has_not_measured_is_left_out() -> None:
    judged = compare_metric("env_steps_per_second", pairs_of([100, math.nan] * 6, [90, 90] * 6))
    assert judged.pairs == 6 and judged.base == 100
    assert compare(pairs_of([math.nan] * 6, [90] * 6), ["env_steps_per_second"]).exit_code == 3
    same = compare(pairs_of([90.0] * 8, [90.0] * 8), ["env_steps_per_second", "evaluated_return"])
    assert same.exit_code == 3, "the second was asked for, and nobody knows it"
    assert [(one.metric, one.verdict) for one in same.metrics if one.decides][1] == ("evaluated_return", "undecided")


def targets(base: list[float], new: list[float]) -> MetricChange:
    pairs = pairs_of(base, new, metric="seconds_to_return")
    return next(one for one in compare(pairs, ["seconds_to_return"]).metrics if one.decides)


def test_a_target_that_one_side_misses_is_no_value_to_be_left_out() -> None:
    judged = targets([100.0] * 8, [100.0] * 6 + [math.nan] * 2)
    assert (judged.verdict, judged.reason) == ("undecided", "NEW did not reach the target in 2 of 8")
    judged = targets([100.0] * 14, [100.0] * 6 + [math.nan] * 8)
    assert (judged.verdict, judged.p) == ("worse", 2 / 2**8)
    assert math.isnan(judged.change) and math.isnan(judged.interval.low), "of those that got there, not of these pairs"
    assert judged.base == 100 and math.isnan(judged.new)
    assert targets([100.0] * 6 + [math.nan] * 8, [100.0] * 14).verdict == "better"
    none = targets([100.0] * 6, [math.nan] * 6)
    assert none.verdict == "worse" and none.pairs == 6
    assert targets([100.0] * 8, [150.0] * 7 + [math.nan]).verdict == "worse", "later, and seldom"
    assert targets([100.0] * 8, [50.0] * 7 + [math.nan]).verdict == "undecided", "sooner, but not always"
    assert targets([math.nan] + [100.0] * 7, [100.0] * 7 + [math.nan]).verdict == "same"


def test_sessions_that_miss_a_target_more_often_are_counted_not_their_repeats() -> None:
    """NEW misses one more in nine sessions, and BASE twenty more in one."""
    hit, miss = (record(value, "seconds_to_return") for value in (100.0, math.nan))
    often = [[(hit, hit), (hit, miss)] for _ in range(9)]
    judged = compare_metric("seconds_to_return", Pairs([*often, [(miss, hit)] * 20], sessions=True))
    assert judged.verdict == "worse" and judged.p == 2 * 11 / 2**10


def test_a_side_that_lost_repeats_is_neither_better_nor_the_same() -> None:
    for new in (100.0, 120.0):
        judged = compare_metric("env_steps_per_second", pairs_of([100.0] * 6, [new] * 6, lost=2))
        assert (judged.verdict, judged.reason) == ("undecided", "NEW did not complete 2 repeats that BASE did")


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=6, max_size=9), st.floats(0.1, 10))
def test_swapping_the_sides_or_changing_the_unit_changes_no_evidence(values, unit: float) -> None:
    base, new = zip(*values, strict=True)
    one = compare_metric("env_steps_per_second", pairs_of(base, new))
    other = compare_metric("env_steps_per_second", pairs_of(new, base))
    scaled = compare_metric("env_steps_per_second", pairs_of([unit * b for b in base], [unit * n for n in new]))
    assert one.p == pytest.approx(other.p) == pytest.approx(scaled.p)
    assert (1 + one.change) * (1 + other.change) == pytest.approx(1) and scaled.change == pytest.approx(one.change)
    assert one.smallest_effect == pytest.approx(other.smallest_effect)


def test_eight_percent_are_found_in_noise_of_two_and_nothing_is_seen_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    outcomes = {0.92: 0, 1.0: 0}
    for _ in range(300):
        for factor in outcomes:
            noise = np.exp(rng.normal(0, 0.02, (2, 8)))
            judged = compare_metric("env_steps_per_second", pairs_of(noise[0], factor * noise[1]))
            outcomes[factor] += judged.verdict == "worse"
    assert outcomes[0.92] >= 290 and outcomes[1.0] == pytest.approx(0.025 * 300, abs=5)


def test_pairs_are_measured_in_random_order_each_followed_by_its_mirror() -> None:
    orders = set()
    for seed in range(20):
        order = [tuple(side for side, _ in block) for block in blocks(8, str(seed))]
        assert set(order) <= {(0, 1, 1, 0), (1, 0, 0, 1)} and len(order) == 4
        orders.add(tuple(order))
    assert len(orders) > 8
    assert [pair for block in blocks(3, "") for _, pair in block] == [0, 0, 1, 1, 2, 2]


def test_every_metric_has_a_direction_and_fits_the_table() -> None:
    assert max(map(len, METRICS)) <= 30
    assert {field.name for field in dataclasses.fields(Record)} >= set(METRICS)


@pytest.mark.parametrize("pairs", [1, 6])
def test_the_table_fits_80_columns_and_cuts_nothing_off_and_the_json_is_one(pairs: int) -> None:
    rows = [
        [
            Record(
                "s", 0, 0, "complete", env_steps_per_second=2_222_222 + step, collector_busy_fraction=0.5 + step / 100,
                peak_host_bytes=(12_345 + step) * 2**20, wall_seconds=100 + step,
            )
            for step in (number, 9 - number)
        ]
        for number in range(pairs)
    ]  # fmt: skip
    comparison = compare(Pairs([[tuple(row)] for row in rows]), ["collector_busy_fraction", "seconds_to_return"])
    out = Console(file=io.StringIO(), width=80)
    show(comparison, Side("a", (Path("a"),)), Side("b", (Path("b"),)), out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for whole in (r"2,222,22\d", r"12,3\d\d MiB", "undecided" if pairs == 1 else "same"):
        assert re.search(whole, text)
    content = as_dict(comparison, Side("a", (Path("a"),)), Side("b", (Path("b"),)))
    as_json(content)  # raises ValueError for what JSON lacks

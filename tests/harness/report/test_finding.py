"""Answers by hand: what is claimed, and what is not."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.measure.record import Record
from harness.report.finding import Finding, conclude, standings
from harness.report.page import charts
from harness.stats.inference import paired_comparison
from harness.study.best_trials import ranking
from harness.suite import schema as suites
from harness.suite.schema import Suite
from harness.suite.text import value_text

THROUGHPUT = "env_steps_per_second"


def suite(*overrides: str) -> Suite:
    return suites.parse("name: a\ntrainer: appo\nenv: Ant\n", overrides=overrides).suite


def records(
    trial: int, values: list[float], metric: str = THROUGHPUT, *, phase="search", first=0, **more
) -> list[Record]:
    return [
        Record("s", trial, first + i, "complete", phase, baseline=trial == 0, **({metric: value} | more))
        for i, value in enumerate(values)
    ]


def confirmed(trial: int, values: list[float], metric: str = THROUGHPUT, **more) -> list[Record]:
    return records(trial, values, metric, phase="confirm", first=1, **more)


SEARCH = [*records(0, [100.0]), *records(1, [130.0]), *records(2, [110.0])]


def test_nothing_measured_is_said() -> None:
    found = conclude(suite(), [Record("s", 0, 0, "failed", error="boom")])
    assert (found.best, found.baseline, found.trials) == (None, None, 0)
    assert found.claim == "No trial was measured to its end within the constraints."


def test_the_best_of_a_search_is_not_called_better() -> None:
    found = conclude(suite(), SEARCH)
    assert (found.best, found.baseline, found.value, found.baseline_value) == (1, 0, 130.0, 100.0)
    assert found.change == pytest.approx(0.3) and found.ratio
    assert found.interval is None and found.smallest_effect is None
    assert not found.confirmed and not found.shown and found.pairs == 0
    assert found.claim == (
        "Trial 1 measured +30.0% env steps a second against the baseline, the best of 3; it was not confirmed, and "
        "the best of a noisy search is partly the luckiest."
    )


def test_what_speed_alone_leaves_open_is_said_with_the_settings_that_it_is_a_question_of() -> None:
    base, best = records(0, [100.0], params={"mode": "async", "slots": 2}), records(1, [130.0], params={"mode": "sync"})
    found = conclude(suite(), [*base, *best])
    assert found.learning == "Only speed was measured. Nothing shows whether it learns as well with mode=sync."
    assert conclude(suite(), base).learning == ""
    learns = suite("objectives=[episode_return]")
    values = {"episode_return": 3.0}
    assert conclude(learns, [*records(0, [1.0], **values), *records(1, [2.0], **values)]).learning == ""


def test_a_confirmed_gain_has_the_interval_of_its_test() -> None:
    base = [100.0, 102.0, 99.0, 101.0, 100.0, 100.0]
    gains = [1.2, 1.21, 1.19, 1.2, 1.22, 1.18]
    best = [b * g for b, g in zip(base, gains, strict=True)]
    found = conclude(suite(), [*SEARCH, *confirmed(0, base), *confirmed(1, best)])
    compared = paired_comparison([math.log(gain) for gain in gains])
    assert found.smallest_effect == pytest.approx(math.expm1(compared.smallest_effect)) and found.ratio
    assert found.change == pytest.approx(math.prod(gains) ** (1 / 6) - 1)
    assert found.interval == pytest.approx((0.18, 0.22))  # of six pairs the smallest and the largest gain
    assert (found.p, found.level) == (2 / 2**6, 0.05)
    assert (found.pairs, found.repeats, found.confirmed, found.shown) == (6, 12, True, True)
    assert found.value == pytest.approx(120.3, abs=1) and found.baseline_value == 100.0
    assert found.claim == (
        "Trial 1 is better than the baseline: +20.0% env steps a second against the baseline (95 % interval +18.0% to "
        "+22.0%, 6 pairs)."
    )


def test_what_changes_a_pair_as_a_whole_hides_no_gain() -> None:
    base = [100.0, 112.0, 96.0, 100.0, 108.0, 100.0]
    found = conclude(suite(), [*SEARCH, *confirmed(0, base), *confirmed(1, [1.03 * b for b in base])])
    assert found.shown and found.ratio and found.change == pytest.approx(0.03)


def test_no_difference_comes_with_the_one_that_would_have_been_seen() -> None:
    found = conclude(suite(), [*SEARCH, *confirmed(0, [100.0] * 6), *confirmed(1, [98, 104, 106, 101, 105, 104])])
    assert not found.shown and found.smallest_effect == pytest.approx(0.054, abs=0.005)
    assert found.claim.startswith("No difference is shown: trial 1 measured +3.0%")
    assert found.claim.endswith(f", 6 pairs, {found.smallest_effect:.1%} would have been seen).")


def test_two_pairs_are_too_few() -> None:
    found = conclude(suite(), [*SEARCH, *confirmed(0, [100.0, 101.0]), *confirmed(1, [150.0, 151.0])])
    assert found.pairs == 2 and found.interval is None and not found.shown
    assert "too few to tell a difference from noise at 95 %" in found.claim


def test_two_candidates_take_seven_pairs() -> None:
    """The better of two is the luckier of two: six pairs that agree have p = 2 / 2^6, twice that is above 5 %."""
    for count, shown in ((6, False), (7, True)):
        base, other = confirmed(0, [100.0] * count), confirmed(2, [110.0] * count)
        found = conclude(suite(), [*SEARCH, *base, *confirmed(1, [150.0] * count), *other])
        assert (found.candidates, found.p, found.level) == (2, 2 / 2**count, 0.025)
        assert found.shown is shown and found.too_few_pairs is not shown
        assert ("that is too few to tell a difference from noise at 97.5 %" in found.claim) is not shown
        assert (found.interval is not None) is shown and "2 candidates" in found.claim


def test_each_look_after_more_repeats_were_asked_for_divides_the_level() -> None:
    def after(*asked: int) -> Finding:
        """So many pairs after so many runs, each with a higher ``confirm.repeats``."""
        measured = [*SEARCH]
        for first, last in itertools.pairwise((0, *asked)):
            for trial, value in ((0, 100.0), (1, 150.0)):
                more = {"phase": "confirm", "first": 1 + first, "confirm_repeats": last}
                measured += records(trial, [value] * (last - first), **more)
        return conclude(suite(), measured)

    assert (after(6).looks, after(6).level, after(6).shown) == (1, 0.05, True)
    again = after(2, 4, 6)
    assert (again.looks, again.level, again.p, again.shown) == (3, pytest.approx(0.05 / 3), 2 / 2**6, False)
    assert "too few" in again.claim and "3 looks" in again.claim
    assert after(2, 4, 7).shown


def test_a_look_counts_whose_numbers_are_of_another_kind() -> None:
    measured = [*SEARCH]
    for trial, value in ((0, 100.0), (1, 150.0)):
        measured += confirmed(trial, [value] * 2, confirm_repeats=2, in_turns=True)
        measured += records(trial, [value] * 6, phase="confirm", first=3, confirm_repeats=8)
    found = conclude(suite(), measured)
    assert (found.pairs, found.looks, found.shown) == (6, 2, False)


def test_six_pairs_of_a_return_are_called_better_and_five_have_no_interval() -> None:
    name, asked = "episode_return", suite("objectives=[episode_return]")
    search = [*records(0, [0.0], name), *records(1, [1.0], name)]
    for count, shown in ((5, False), (6, True)):
        best = [500.0 + n for n in range(count)]
        found = conclude(asked, [*search, *confirmed(0, [0.0] * count, name), *confirmed(1, best, name)])
        assert found.p == 2 / 2**count and found.shown is shown
        assert found.interval == (pytest.approx((500, 505)) if shown else None)
        assert ("95 % interval" in found.claim) is shown
        assert ("No claim with fewer than six seeds" in found.claim) is not shown


def test_an_outlier_widens_the_interval_as_far_as_the_test_goes() -> None:
    name, asked = "episode_return", suite("objectives=[episode_return]")
    search = [*records(0, [0.0], name), *records(1, [1.0], name)]
    best = [-15.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
    found = conclude(asked, [*search, *confirmed(0, [0.0] * 7, name), *confirmed(1, best, name)])
    assert found.p == 16 / 2**7 and not found.shown
    assert found.interval is not None and 0 in found.interval
    assert found.claim.startswith("No difference is shown: ")


def test_repeats_that_failed_are_counted_and_those_of_the_best_forbid_a_claim() -> None:
    def measured(failing: int, state: str) -> Finding:
        failed = [Record("s", failing, 7 + n, state, "confirm", error="boom") for n in range(2)]
        return conclude(suite(), [*SEARCH, *confirmed(0, [100.0] * 6), *confirmed(1, [150.0] * 6), *failed])

    of_best, of_baseline = measured(1, "failed"), measured(0, "timeout")
    assert (of_best.failed, of_best.best_failed, of_best.shown) == (2, 2, False)
    assert (of_baseline.failed, of_baseline.best_failed, of_baseline.shown) == (2, 0, True)
    assert of_best.claim.startswith("No difference is shown: ")
    assert all(found.claim.endswith("; of 14 repeats 2 failed.") for found in (of_best, of_baseline))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_confirmation_of_which_all_repeats_failed_is_not_forgotten(failing: int) -> None:
    """The search's repeat stands in for them, so that their trial still has a value."""
    failed = [Record("s", failing, n, "failed", "confirm", error="boom") for n in range(6)]
    found = conclude(suite(), [*SEARCH, *confirmed(1 - failing, [100.0] * 6), *failed])
    assert found.failed == 6 and not found.shown
    assert found.claim.endswith(" 6 failed.")


def test_a_confirmation_may_find_that_nothing_was_better() -> None:
    found = conclude(suite(), [*SEARCH, *confirmed(0, [100.0] * 6), *confirmed(1, [90.0] * 6)])
    assert found.best == found.baseline == 0 and found.change is None and found.smallest_effect == pytest.approx(0)
    assert found.claim == (
        "No configuration was better than the baseline, 100 env steps a second (95 % interval 100 to 100), median of 6 "
        "repeats, of 3 measured; 0.0% would have been seen."
    )


def test_less_is_better_where_the_objective_says_so() -> None:
    name = "wall_seconds"
    found = conclude(
        suite(f"objectives=[{name}]"),
        [
            *records(0, [10.0], name), *records(1, [8.0], name),
            *confirmed(0, [10.0, 10.1, 9.9, 10.0, 10.1, 10.0], name),
            *confirmed(1, [8.0, 8.1, 7.9, 8.0, 8.1, 8.0], name),
        ],
    )  # fmt: skip
    assert found.best == 1 and found.direction == "minimize" and found.shown
    assert found.ratio and found.change == pytest.approx(-0.2, abs=0.01)


def test_without_a_baseline_there_is_nothing_to_compare_with() -> None:
    found = conclude(suite(), [Record("s", 0, 0, "failed", baseline=True), *records(1, [130.0])])
    assert (found.best, found.baseline, found.change) == (1, None, None)
    assert found.claim == (
        "Trial 1 has 130 env steps a second, median of 1 repeat, and there is no baseline to compare it with."
    )


def test_fewer_than_six_seeds_of_a_return_are_shown_as_they_are() -> None:
    name, asked = "episode_return", suite("objectives=[episode_return]")
    found = conclude(asked, [*records(0, [1.0, 3.0, 2.0], name), *records(1, [-5.0], name)])
    assert found.value == 2.0 and found.value_interval is None and found.points == (1.0, 3.0, 2.0)
    assert found.claim == "No claim with fewer than six seeds: trial 0 had return 1, 2, 3."
    found = conclude(asked, [*records(0, [1.0] * 5, name), *records(1, [7.0, 8.0], name)])
    assert found.claim == "No claim with fewer than six seeds: trial 1 had return 7, 8, the baseline 1, 1, 1, 1, 1."


def test_returns_have_interquartile_means_and_a_difference() -> None:
    name, asked = "episode_return", suite("objectives=[episode_return]")
    base, best = [-10.0, 0.0, 10.0, 0.0, 0.0, 500.0], [990.0, 1000.0, 1010.0, 1000.0, 1000.0, 1600.0]
    search = [*records(0, [0.0], name), *records(1, [1.0], name)]
    found = conclude(asked, [*search, *confirmed(0, base, name), *confirmed(1, best, name)])
    assert found.value == 1002.5 and found.baseline_value == 2.5  # the outliers at each end are left out
    assert not found.ratio and found.change == pytest.approx(1000 + 100 / 6)
    assert found.interval == pytest.approx((1000, 1100)) and found.shown
    assert found.claim == (
        "Trial 1 is better than the baseline: +1,017 return against the baseline (95 % interval +1,000 to +1,100, 6 "
        "pairs)."
    )


def test_a_target_that_a_seed_did_not_reach_counts_as_the_longest_training() -> None:
    name = "seconds_to_return"
    best = [10.0, 11.0, math.nan, 10.0, 12.0, 10.0]
    found = conclude(
        suite(f"objectives=[{name}]", "measure.target_return=5"),
        [
            *records(0, [30.0], name),
            *records(1, [10.0], name),
            *confirmed(0, [30.0] * 6, name),
            *confirmed(1, best, name),
        ],
    )
    assert found.value == 10.5 and found.missing == 1 and found.pairs == 6 and not found.shown
    assert found.latest == 30 and found.p == 4 / 2**6, "as late as the baseline, in one of six pairs"
    assert found.claim.endswith(
        "; of 12 repeats 1 without reaching the target, counted as the longest training (30 s)."
    )


def test_what_alone_reaches_the_target_is_better_and_what_does_not_ranks_by_its_return() -> None:
    name, lacks = "seconds_to_return", [math.nan] * 6
    asked = suite(f"objectives=[{name}]", "measure.target_return=5")
    none = [
        *records(0, [math.nan], name, episode_return=1.0), *records(1, [math.nan], name, episode_return=3.0),
        *records(2, [math.nan], name, episode_return=2.0),
    ]  # fmt: skip
    assert ranking(none, asked) == [1, 2, 0]
    assert conclude(asked, none).claim.startswith(
        "No trial reached the target return: trial 1 came to 3, the furthest; of 2 repeats 2 without reaching"
    )
    search = [*none, *records(3, [50.0], name, episode_return=6.0), *records(4, [20.0], name, episode_return=5.0)]
    assert ranking(search, asked) == [4, 3, 1, 2, 0]
    found = conclude(asked, [*search, *confirmed(0, lacks, name, steady_seconds=60.0), *confirmed(4, [20.0] * 6, name)])
    assert found.best == 4 and found.shown and found.change == pytest.approx(-2 / 3)
    assert "; of 12 repeats 6 without reaching the target, counted as the longest training (60 s)" in found.claim


def test_times_to_a_target_stand_side_by_side_with_intervals() -> None:
    name = "seconds_to_return"
    text = "name: a\nenv: Ant\ntrainers: {ours: {trainer: appo}, theirs: {trainer: sac}}\nsampler: {name: grid}\n"
    asked = suites.parse(text, overrides=[f"objectives=[{name}]", "measure.target_return=5"]).suite
    ours = records(0, [20.0, 21.0, 22.0, 23.0, 24.0, 25.0], name, params={"trainer": "ours"}, steady_seconds=60.0)
    theirs = records(1, [40.0, 50.0, *[math.nan] * 4], name, params={"trainer": "theirs"}, steady_seconds=60.0)
    own, other = standings(asked, [*ours, *theirs])["Ant"]
    assert (own.value, own.interval, own.reached) == (22.5, (20, 25), 6)
    assert math.isnan(other.value) and other.points == (40, 50, 60, 60, 60, 60) and other.reached == 2
    assert other.interval == (40, 60) and other.verdict == "better" and other.ahead == pytest.approx(55 - 22.5)
    assert value_text(name, other.value) == "not reached"
    rows = charts.spread({"role": "others"}, name, other.trial, other.interval)
    assert [(row["role"], row[name]) for row in rows] == [
        ("others", 40), ("others", 50), *[("not reached", 60)] * 4
    ]  # fmt: skip
    assert (rows[0]["low"], rows[0]["high"], rows[0]["middle"]) == (40, 60, None)


def test_a_target_that_was_missed_in_one_environment_counts_as_the_longest_training_there() -> None:
    name = "seconds_to_return"
    text = "name: a\nenvs: [Hopper, Humanoid]\ntrainers: {ours: {trainer: appo}, theirs: {trainer: sac}}\n"
    text += "sampler: {name: grid}\n"
    asked = suites.parse(text, overrides=[f"objectives=[{name}]", "measure.target_return=5"]).suite

    def measured(trial: int, env: str, values: list[float], seconds: float) -> list[Record]:
        params = {"env": env, "trainer": "theirs" if trial % 2 else "ours"}
        return [
            Record("s", trial, i, "complete", baseline=trial % 2 == 0, params=params, seconds_to_return=value,
                   steady_seconds=seconds)
            for i, value in enumerate(values)
        ]  # fmt: skip

    own = [90.0, 91.0, 92.0, 93.0, 94.0]
    near = [*measured(0, "Hopper", own, 100.0), *measured(1, "Hopper", [50.0, 51.0, 52.0, 53.0, math.nan], 100.0)]
    far = [*measured(2, "Humanoid", own, 1000.0), *measured(3, "Humanoid", own, 1000.0)]
    alone, both = standings(asked, near)["Hopper"], standings(asked, [*near, *far])["Hopper"]
    assert [one.points for one in alone] == [one.points for one in both] and both[1].points[-1] == 100
    assert alone[1].ahead == both[1].ahead == pytest.approx(-30.8)


def test_a_target_that_other_trials_reached_is_not_called_out_of_reach() -> None:
    name = "seconds_to_return"
    asked = suite(f"objectives=[{name}]", "measure.target_return=5")
    half = [40.0, 41.0, 42.0, *[math.nan] * 3]
    found = conclude(asked, [
        *records(0, [math.nan], name, episode_return=1.0), *records(1, [40.0], name, episode_return=6.0),
        *records(2, [60.0], name, episode_return=7.0),
        *confirmed(0, [math.nan] * 6, name, episode_return=1.0), *confirmed(1, half, name, episode_return=4.0),
    ])  # fmt: skip
    assert found.best == 1 and math.isnan(found.value)
    assert found.claim.startswith(
        "Trial 1 did not reach the target return in half of its repeats or more: it came to 4"
    )


def test_numbers_of_two_kinds_have_no_change() -> None:
    lost = [Record("s", 0, 1 + i, "failed", "confirm", baseline=True, error="boom") for i in range(6)]
    found = conclude(suite(), [*SEARCH, *lost, *confirmed(1, [100.0] * 6, in_turns=True)])
    assert found.best == 1 and found.change is None and not found.shown
    assert "+0.0%" not in found.claim


def test_doubtful_repeats_behind_the_answer_are_counted_and_only_the_last_attempt_counts() -> None:
    again = [
        Record("s", 1, 1, "complete", "confirm", env_steps_per_second=50.0, disturbed="a lot", attempt=0),
        Record("s", 1, 1, "complete", "confirm", env_steps_per_second=130.0, attempt=1, verdict="learner-bound"),
    ]
    rest = [
        *confirmed(0, [100.0, 100.0], disturbed="others"),
        *records(1, [130.0], phase="confirm", first=2, unsteady=True),
    ]
    found = conclude(suite(), [*SEARCH, *again, *rest])
    assert found.points == (130.0, 130.0)
    assert (found.repeats, found.disturbed, found.unsteady) == (4, 2, 1)
    assert found.claim.endswith("; of 4 repeats 2 disturbed, 1 unsteady.")
    assert found.limited_by == "learner-bound"


def test_values_next_to_zero_have_a_difference_and_no_ratio() -> None:
    search = [*records(0, [5e-324]), *records(1, [1.0])]
    found = conclude(suite(), [*search, *confirmed(0, [5e-324] * 6), *confirmed(1, [1.0] * 6)])
    assert (found.ratio, found.change, found.p) == (False, 1.0, 2 / 2**6)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.lists(st.floats(-1e6, 1e6), max_size=8),
    st.sampled_from([THROUGHPUT, "episode_return", "policy_lag_mean"]), st.booleans(),
)  # fmt: skip
def test_any_records_have_an_answer_that_never_shows_more_than_its_interval(base, best, metric, again) -> None:
    phase = confirmed if again else records
    search = [*records(0, base[:1], metric), *records(1, best[:1], metric)] if again else []
    found = conclude(suite(f"objectives=[{metric}]"), [*search, *phase(0, base, metric), *phase(1, best, metric)])
    assert isinstance(found, Finding) and found.claim.endswith(".")
    interval = found.interval
    assert (interval is None) is found.too_few_pairs if found.pairs else interval is None
    if interval is not None and found.p is not None:
        assert (0 not in interval) == (found.p < found.level)
        assert found.shown <= (0 not in interval)

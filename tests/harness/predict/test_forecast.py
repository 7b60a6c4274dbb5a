"""How long a run still takes, told a clock by hand."""

import math
from collections.abc import Sequence

import pytest

from harness.measure.record import SECOND_LOOK, Phase, Record
from harness.predict.next_trial import TRIED, WORTH, expected_trials
from harness.predict.plan import Plan
from harness.report.live import Forecast


@pytest.fixture
def plan(make_plan) -> Plan:
    return make_plan("confirm={top: 1, repeats: 2}", "limits={trials: 4, minutes: 60}", "sampler.name=tpe")


def record(trial: int, repeat: int = 0, phase: Phase = "search", seconds: float = 10.0, **more) -> Record:
    return Record("s", trial, repeat, "complete", phase, trial == 0, wall_seconds=seconds, **more)


def measured(forecast: Forecast, one: Record, at: float) -> None:
    forecast.started(one, at)
    forecast.finished(one, at + one.wall_seconds)


def test_it_is_what_is_left_of_search_second_look_and_confirmation(plan: Plan) -> None:
    forecast = Forecast(plan, 0.0)
    assert forecast.left(0.0) == pytest.approx(plan.seconds)
    measured(forecast, record(0), 0.0)
    assert forecast.left(10.0) == pytest.approx((3 + 3 + 4) * 10)
    forecast.started(record(1), 10.0)
    assert forecast.left(14.0) == pytest.approx(6 + (2 + 3 + 4) * 10)


def test_first_looks_are_shorter_than_all_that_follows(make_plan) -> None:
    measure = "measure={warmup_seconds: 2, seconds: 6}"
    plan = make_plan("confirm={top: 1, repeats: 2}", "limits={trials: 4, minutes: 60}", measure)
    assert (plan.first_look.warmup_seconds, plan.first_look.steady_seconds, plan.saved_seconds) == (1, 3, 4)
    forecast = Forecast(plan, 0.0)
    assert forecast.left(0.0) == pytest.approx(plan.seconds)
    measured(forecast, record(0), 0.0)
    assert forecast.left(10.0) == pytest.approx(3 * 10 + (3 + 4) * 14)
    forecast.started(record(1), 10.0)
    assert forecast.left(14.0) == pytest.approx(6 + 2 * 10 + (3 + 4) * 14)
    forecast.finished(record(1), 20.0)
    measured(forecast, record(1, SECOND_LOOK, seconds=14), 20.0)
    assert forecast.left(34.0) == pytest.approx(4 * 14), "of two trials no other is looked at, nor confirmed"


def test_what_the_search_leaves_out_is_not_waited_for(plan: Plan) -> None:
    forecast = Forecast(plan, 0.0)
    for trial in range(3):
        measured(forecast, record(trial), 10.0 * trial)
    forecast.started(record(1, SECOND_LOOK), 30.0)  # the space had no fourth
    assert forecast.left(30.0) == pytest.approx((2 + 4) * 10)


def test_a_block_that_is_measured_again_takes_as_long_as_before(plan: Plan) -> None:
    """It is what stood at 0 s for minutes."""
    forecast = Forecast(plan, 0.0)
    for trial in range(4):
        measured(forecast, record(trial), 10.0 * trial)
    for trial in (1, 2, 3):
        measured(forecast, record(trial, SECOND_LOOK), 30.0 + 10 * trial)
    block = [(0, 1), (2, 1), (2, 2), (0, 2)]
    for attempt, at in ((0, 70.0), (1, 130.0)):
        records = [record(trial, repeat, "confirm", 60, in_turns=True, attempt=attempt) for trial, repeat in block]
        for one in records:
            forecast.started(one, at)
        assert forecast.left(at) == pytest.approx(60 if attempt else 40)
        assert forecast.left(at + 20) == pytest.approx(40 if attempt else 20)
        for one in records:
            forecast.finished(one, at + 60)
    assert forecast.left(190.0) == 0


def test_what_runs_is_never_over_at_once_and_the_confirmation_is_not_cut(plan: Plan) -> None:
    forecast = Forecast(plan, -3590.0)  # ten seconds before the limit
    measured(forecast, record(0), -3590.0)
    forecast.started(record(1), 0.0)
    assert forecast.left(0.0) == pytest.approx((1 + 3 + 4) * 10)  # no other trial, but all that follows the search
    assert forecast.left(100.0) == pytest.approx(10 + (3 + 4) * 10)


def test_places_side_by_side_share_the_work(plan: Plan) -> None:
    forecast = Forecast(plan, 0.0)
    measured(forecast, record(0), 0.0)
    for trial in (1, 2):
        forecast.started(record(trial), 10.0)
    assert forecast.left(10.0) == pytest.approx((2 + 1 + 3 + 4) * 10 / 2)


def test_each_trial_is_expected_to_halve_the_gain() -> None:
    assert expected_trials(10, 4.1 * WORTH) == 13, "the newest, and after it two"
    assert expected_trials(10, WORTH) == expected_trials(10, 0.0) == 11
    assert expected_trials(0, WORTH) == TRIED
    assert expected_trials(0, math.nan) == 9


# -- replayed

CEILINGS = 30.0
"""seconds before the first trial"""
TRIALS = (13.26, 13.23, 13.30, 13.45, 13.29, 13.15, 12.67, 12.63, 12.49, 12.85, 12.70)
"""of a study of APPO on HalfCheetah on two cores: seconds of repeats, with the whole warm-up and steady window"""
LOOKS = (13.12, 13.25, 13.14)
BLOCKS = ((54.71, 50.34, 48.02, 43.71), (54.67, 50.25, 46.43, 42.09), (54.10, 49.65, 47.83, 43.62))
"""of its confirmation, each with four repeats in turns"""
STARTS = 0.3
"""seconds between two works"""
SHORT = (math.nan, 1.57, 0.113, 0.035, 0.018, 0.0043, 0.0018, 0.0003)
LONG = (math.nan, 1.57, 0.217, 0.042, 0.024, 0.012, 0.014, 0.013, 0.011, 0.021, 0.020, 0.014, 0.011, 0.0073)
"""gains that were expected of the trials of two searches on paper, of which one ended as soon as it could"""

DISTURBED = (
    (math.nan, 11.0, 10.8, 10.8), (0.98, 10.8), (0.10, 10.7, 10.7, 11.4), (0.06, 10.1, 9.9, 10.0),
    (0.04, 10.1, 11.1, 10.2), (0.04, 10.1), (0.02, 10.3, 9.8), (0.03, 11.0, 12.5, 12.5), (0.03, 11.2),
)  # fmt: skip
"""of another study, which shared its cores and ended at its limit: the gain that was expected of a trial, and the
seconds of each attempt at it, with half of the warm-up and of the window"""
DISTURBED_LOOKS = (15.0, 14.4, 14.7)
DISTURBED_BLOCKS = (
    (0, 0, (64.5, 59.0, 55.1, 47.7)), (0, 1, (60.0, 53.8, 50.7, 45.3)), (0, 2, (59.9, 53.5, 50.7, 45.5)),
    (1, 0, (63.0, 58.5, 52.1, 44.4)),
)  # fmt: skip
"""block, attempt and seconds"""

Works = list[tuple[float, list[Record]]]
"""when works began, and the repeats of each"""


def works(
    trials: Sequence[Sequence[float]], looks: Sequence[float], blocks: Sequence[tuple[int, int, Sequence[float]]]
) -> Works:
    now, made = CEILINGS, Works()
    for trial, (gain, *attempts) in enumerate(trials):
        for attempt, seconds in enumerate(attempts):
            made.append((now, [record(trial, seconds=seconds, expected_gain=gain, attempt=attempt)]))
            now += seconds + STARTS
    for trial, seconds in enumerate(looks, 1):
        made.append((now, [record(trial, SECOND_LOOK, seconds=seconds)]))
        now += seconds + STARTS
    for number, attempt, block in blocks:
        sides = [(0, 2 * number + 1), (1, 2 * number + 1), (1, 2 * number + 2), (0, 2 * number + 2)]
        repeats = [
            record(trial, repeat, "confirm", seconds, in_turns=True, attempt=attempt)
            for (trial, repeat), seconds in zip(sides, block, strict=True)
        ]
        made.append((now, repeats))
        now += max(block) + 2.0
    return made


def calm(gains: Sequence[float]) -> Works:
    """In which a first look is shorter than ``TRIALS`` by half of 3 s of warm-up and 8 s of window."""
    trials = [(gain, TRIALS[number % len(TRIALS)] - 5.5) for number, gain in enumerate(gains)]
    return works(trials, LOOKS, [(number, 0, block) for number, block in enumerate(BLOCKS)])


@pytest.mark.parametrize(
    "recorded",
    [calm(SHORT), calm(LONG), works(DISTURBED, DISTURBED_LOOKS, DISTURBED_BLOCKS)],
    ids=["short", "long", "disturbed"],
)
def test_from_the_second_minute_on_it_is_right_within_a_fifth_of_the_whole(make_plan, recorded: Works) -> None:
    plan = make_plan(
        "search.speed={low: 1, high: 400}",
        "measure={warmup_seconds: 3, seconds: 8}",
        "limits={trials: 16, minutes: 9}",
        "confirm={top: 1, repeats: 6}",
    )
    assert plan.suite.guided and plan.trials == 16 and plan.saved_seconds == 5.5
    events = [(began, True, one) for began, repeats in recorded for one in repeats]
    events += [(began + one.wall_seconds, False, one) for began, repeats in recorded for one in repeats]
    events.sort(key=lambda event: event[0])
    end, forecast, errors = events[-1][0], Forecast(plan, 0.0), []
    for second in range(int(CEILINGS), int(end)):
        while events[0][0] <= second:
            at, begins, one = events.pop(0)
            (forecast.started if begins else forecast.finished)(one, at)
        errors.append(forecast.left(second) - (end - second))
    assert max(map(abs, errors[60 - int(CEILINGS) :])) <= 0.2 * end

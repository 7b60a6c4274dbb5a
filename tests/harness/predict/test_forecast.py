"""How long a run still takes, told a clock by hand."""

import pytest

from harness.measure.record import SECOND_LOOK, Phase, Record
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

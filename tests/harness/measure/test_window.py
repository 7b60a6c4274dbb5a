"""What counts as warm-up, what a window measures, and where a trial ends."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.window import SteadyWindow
from unilab.run.progress import Progress


def progress(seconds: float, env_steps: float = 0, **more) -> Progress:
    return Progress(wall_seconds=seconds, env_steps=int(env_steps), **more)


def fed(window: SteadyWindow, *points: Progress) -> list[bool]:
    return [window.add(point) for point in points]


def test_window_leaves_warm_up_out_and_divides_differences() -> None:
    window = SteadyWindow(warmup_seconds=1.0, seconds=2.0)
    counters = [(0.5, 10), (0.9, 20), (1.5, 30), (3.0, 90), (3.5, 110)]
    points = [progress(s, n, updates=2 * n, learner_busy_seconds=s / 2) for s, n in counters]
    assert fed(window, *points) == [True, True, True, True, False]
    result = window.result()
    assert result["steady_seconds"] == 2.0
    assert result["env_steps_per_second"] == (110 - 30) / 2.0
    assert result["updates_per_second"] == 80.0
    assert result["learner_busy_fraction"] == 0.5
    assert result["env_steps"] == 110


@pytest.mark.parametrize(("to_wrap", "left_out"), [(0, 3), (2, 3), (5, 5)])
def test_warm_up_takes_three_iterations_and_those_that_wrap_the_buffers(to_wrap: int, left_out: int) -> None:
    window = SteadyWindow(warmup_seconds=0.0, seconds=1.0, warmup_iterations=to_wrap)
    for seconds in range(1, left_out):
        assert window.add(progress(seconds))
        assert window.first is None
    with pytest.raises(RuntimeError, match=f"before the steady window began, which takes {left_out} it"):
        window.result()
    window.add(progress(left_out))
    assert window.first is not None and window.first.wall_seconds == left_out


def test_a_window_whose_halves_differ_is_unsteady() -> None:
    def measured(second_half: float) -> dict:
        window = SteadyWindow(warmup_seconds=0.0, seconds=4.0)
        fed(window, progress(0), progress(0), progress(0))
        fed(window, progress(1, 100), progress(2, 200), progress(3, 200 + 100 * second_half))
        fed(window, progress(4, 200 + 200 * second_half))
        return window.result()

    assert measured(1.0)["half_ratio"] == 1.0 and measured(1.0)["unsteady"] is False
    assert measured(0.96)["half_ratio"] == pytest.approx(0.96) and not measured(0.96)["unsteady"]
    assert measured(0.9)["half_ratio"] == pytest.approx(0.9) and measured(0.9)["unsteady"]
    assert measured(1.1)["unsteady"]


def test_a_window_of_one_iteration_has_no_halves_and_is_not_called_steady() -> None:
    window = SteadyWindow(warmup_seconds=0.0, seconds=1.0)
    fed(window, progress(0), progress(0), progress(1), progress(3, 100))
    result = window.result()
    assert math.isnan(result["half_ratio"]) and result["unsteady"] is True


@given(st.lists(st.tuples(st.floats(0.01, 2), st.integers(1, 1000)), min_size=6, max_size=40))
def test_the_halves_together_are_the_window(steps) -> None:
    window = SteadyWindow(warmup_seconds=0.0, seconds=math.inf)
    seconds = env_steps = 0.0
    for taken, made in steps:
        seconds, env_steps = seconds + taken, env_steps + made
        window.add(progress(seconds, env_steps))
    result = window.result()
    if not math.isnan(result["half_ratio"]):
        slower, faster = sorted([1.0, result["half_ratio"]])
        rates = [made / taken for taken, made in steps[3:]]
        assert min(rates) / max(rates) * (1 - 1e-6) <= slower
        assert faster <= max(rates) / min(rates) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("return_at", "ends", "value"),
    [({"env_steps": 400}, 4, 40.0), ({"seconds": 5.0}, 5, 50.0), ({"env_steps": 401}, 5, 50)],
)
def test_a_trial_ends_where_its_budget_is_used_up(return_at: dict, ends: int, value: float) -> None:
    window = SteadyWindow(warmup_seconds=0.0, seconds=0.5, return_at=return_at)
    points = [progress(n, 100 * n, episode_return=10.0 * n, episodes=n) for n in range(1, 10)]
    assert fed(window, *points[:ends]) == [True] * (ends - 1) + [False]
    result = window.result()
    assert result["return_at_budget"] == value
    assert result["env_steps_per_second"] == 100


def test_a_budget_that_is_used_up_in_the_warm_up_leaves_the_return_and_no_throughput() -> None:
    window = SteadyWindow(warmup_seconds=60.0, seconds=20.0, return_at={"env_steps": 400}, target_return=25.0)
    points = [progress(n, 100 * n, episode_return=10.0 * n, episodes=10 * n) for n in range(1, 5)]
    assert fed(window, *points) == [True, True, True, False]
    result = window.result()
    assert result["return_at_budget"] == result["episode_return"] == 40.0 and result["seconds_to_return"] == 3
    assert result["env_steps"] == 400 and result["episodes"] == 40
    assert math.isnan(result["env_steps_per_second"]) and math.isnan(result["learner_busy_fraction"])
    assert result["unsteady"] is False
    whole = SteadyWindow(warmup_seconds=0.0, seconds=1.0)
    fed(whole, *(progress(n, 100 * n) for n in range(1, 6)))
    assert result.keys() == whole.result().keys()


def test_without_a_budget_there_is_no_return_at_it() -> None:
    window = SteadyWindow(warmup_seconds=0.0, seconds=1.0)
    fed(window, *(progress(n, episode_return=5.0) for n in range(6)))
    assert math.isnan(window.result()["return_at_budget"]) and math.isnan(window.result()["seconds_to_return"])


def test_the_time_to_a_return_is_that_of_the_first_progress_that_has_it_with_ten_episodes() -> None:
    window = SteadyWindow(warmup_seconds=0.0, seconds=20.0, target_return=100.0)
    fed(
        window, progress(0.5, episode_return=500.0, episodes=9), progress(1, episode_return=99.0, episodes=10),
        progress(2, episode_return=100.0, episodes=12), progress(3, episode_return=50.0, episodes=12),
        progress(4, episode_return=200.0, episodes=20),
    )  # fmt: skip
    assert window.result()["seconds_to_return"] == 2


def test_a_return_that_is_never_reached_has_no_time() -> None:
    window = SteadyWindow(warmup_seconds=0.0, seconds=2.0, target_return=100.0)
    fed(window, *(progress(n, episode_return=99.0, episodes=50) for n in range(6)))
    assert math.isnan(window.result()["seconds_to_return"])

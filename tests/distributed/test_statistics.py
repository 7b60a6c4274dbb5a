"""Statistics of episodes: the numbers of numpy, whatever way the values come together."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.algos.appo.counting_env import CountingEnv
from tests.distributed.test_worker import worker
from unilab.distributed import EpochStatistics, StatsLevel
from unilab.distributed.statistics import add_values, merge_moments, no_moments, summary
from unilab.envs import StepResult

VALUES = st.floats(-1e6, 1e6, width=32)


class Eventful(CountingEnv):
    """The event "beep" has the value of the env step in even env steps, in the first row alone."""

    event_names = ("beep",)
    events = np.full((2, 1), np.nan, np.float32)

    def step(self, actions: np.ndarray) -> StepResult:
        result = super().step(actions)
        self.events[0] = self.steps if self.steps % 2 == 0 else np.nan
        return result


def expected(values: list[float]) -> list[float]:
    if not values:
        return [0.0, *[math.nan] * 4]
    return [len(values), np.mean(values), np.min(values), np.max(values), np.std(values)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(VALUES | st.just(math.nan), max_size=6), max_size=6))
def test_moments_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    whole = no_moments()
    for part in parts:
        moments = no_moments()
        for value in part:
            add_values(moments, np.array(value))
        merge_moments(whole, moments)
    values = [value for part in parts for value in part if not math.isnan(value)]
    found = summary(whole)
    assert list(found) == ["count", "mean", "min", "max", "std"]
    assert list(found.values()) == pytest.approx(expected(values), rel=1e-9, abs=1e-6, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(VALUES, st.integers(1, 1000)), max_size=4), min_size=1, max_size=5))
def test_an_epoch_is_what_was_recorded_since_the_last_one(epochs: list[list[tuple[float, int]]]) -> None:
    statistics = EpochStatistics()
    for episodes in epochs:
        array = np.array(episodes, dtype=float).reshape(-1, 2)
        statistics.record((), array, np.empty((len(episodes), 0, 5)))
        reduced = statistics.reduce()
        for event, values in zip(("episode_return", "episode_length"), array.T.tolist(), strict=True):
            assert list(reduced[event].values()) == pytest.approx(expected(values), nan_ok=True)
            for name, value in reduced[event].items():
                assert statistics.value(event, StatsLevel.EPOCH, name) == pytest.approx(value, nan_ok=True)
            if values:
                assert statistics.value(event, StatsLevel.EPISODE) == pytest.approx(values[-1])


def test_events_count_when_their_episode_has_ended() -> None:
    making = worker(Eventful(2, limit=4))  # the first row's episodes end after 4 env steps, the second row's after 3
    statistics = EpochStatistics()
    beeps = []
    for _ in range(3):
        rollout = making.rollout()
        assert rollout.event_names == ("beep",)
        assert rollout.events.shape == (len(rollout.episodes), 1, 5)
        statistics.record(rollout.event_names, rollout.episodes, rollout.events)
        beeps.append(statistics.reduce()["beep"])
    # 15 steps in rollouts of 5: the first row's episodes are 1-4, 5-8, 9-12, the fourth one is under way.
    assert list(beeps[0].values()) == [2, 3, 2, 4, 1]
    assert list(beeps[1].values()) == [2, 7, 6, 8, 1]
    assert list(beeps[2].values()) == [2, 11, 10, 12, 1]
    # The newest episode is the second row's 13 to 15, which has no beep.
    assert statistics.value("beep", StatsLevel.EPISODE, "count") == 0
    assert math.isnan(statistics.value("beep", StatsLevel.EPISODE))
    assert statistics.value("episode_length", StatsLevel.EPISODE) == 3


def test_events_are_the_same_ones_always() -> None:
    statistics = EpochStatistics()
    statistics.record(("beep",), np.empty((0, 2)), np.empty((0, 1, 5)))
    assert statistics.events == ("episode_return", "episode_length", "beep")
    with pytest.raises(ValueError, match=r"the events are \(\), before they were \('beep',\)"):
        statistics.record((), np.empty((0, 2)), np.empty((0, 0, 5)))


@pytest.mark.parametrize("names", [("beep", "beep"), ("episode_return",)])
def test_names_of_events_are_unique(names: tuple[str, ...]) -> None:
    env = Eventful(2)
    env.event_names = names  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Eventful: event_names is"):
        worker(env)


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="there is no level 'week'; choose one of epoch, episode"):
        EpochStatistics().value("episode_return", "week")

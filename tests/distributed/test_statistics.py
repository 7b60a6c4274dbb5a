"""Statistics of episodes: the numbers of numpy, whatever way the values come together."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unilab.distributed import EpochStatistics, StatsLevel

EPISODES = st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(1, 1000)), max_size=4)


def expected(values: list[float]) -> list[float]:
    if not values:
        return [0.0, *[math.nan] * 4]
    return [len(values), np.mean(values), np.min(values), np.max(values), np.std(values)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(EPISODES, max_size=4), min_size=1, max_size=5))
def test_an_epoch_is_what_was_recorded_since_the_last_one(epochs: list[list[list[tuple[float, int]]]]) -> None:
    statistics = EpochStatistics()
    for parts in epochs:
        for part in parts:
            statistics.record(np.array(part, dtype=float).reshape(-1, 2))
        array = np.array([episode for part in parts for episode in part], dtype=float).reshape(-1, 2)
        reduced = statistics.reduce()
        for event, values in zip(("episode_return", "episode_length"), array.T.tolist(), strict=True):
            assert list(reduced[event]) == ["count", "mean", "min", "max", "std"]
            assert list(reduced[event].values()) == pytest.approx(expected(values), rel=1e-9, abs=1e-6, nan_ok=True)
            for name, value in reduced[event].items():
                assert statistics.value(event, StatsLevel.EPOCH, name) == pytest.approx(value, nan_ok=True)
            if values:
                newest = [statistics.value(event, StatsLevel.EPISODE, name) for name in reduced[event]]
                assert newest == expected(values[-1:])


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="there is no level 'week'; choose one of epoch, episode"):
        EpochStatistics().value("episode_return", "week")

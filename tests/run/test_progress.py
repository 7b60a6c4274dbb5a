"""Counters of a run that goes on."""

import math
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from unilab.run.progress import WINDOW, CollectorCounters

RETURNS = st.lists(st.floats(-1e3, 1e3), max_size=2 * WINDOW)


def counters(returns: list[float]) -> CollectorCounters:
    recent = returns[-WINDOW:]
    mean = fmean(recent) if recent else math.nan
    return CollectorCounters(env_steps=7 * len(returns), episodes=len(returns), episode_return=mean)


@given(before=RETURNS, now=RETURNS)
def test_the_mean_return_after_a_resume_is_that_of_the_newest_episodes(before: list[float], now: list[float]) -> None:
    """Of the earlier ones the mean alone is known, which stands for each of them."""
    found, known = counters(now).after(counters(before)), counters(before).episode_return
    assert (found.episodes, found.env_steps) == (len(before) + len(now), 7 * (len(before) + len(now)))
    recent = ([known] * min(len(before), WINDOW) + now)[-WINDOW:]
    assert (
        math.isnan(found.episode_return)
        if not recent
        else math.isclose(found.episode_return, fmean(recent), abs_tol=1e-6)
    )


def test_without_new_episodes_nothing_is_rounded() -> None:
    before = counters([0.1, 0.2, 0.4])
    assert counters([]).after(before).episode_return == before.episode_return
    assert before.after(counters([])).episode_return == before.episode_return

"""Importances of settings whose effect is known."""

import math

import numpy as np
import pytest

from harness.measure.record import Record
from harness.study.importances import importances, missing
from harness.suite.schema import Objective, Range, Suite, distribution

SUITE = Suite(
    "s", "t", "e",
    search={
        "rate": distribution(Range(1e-4, 1e-2, log=True)), "layers": distribution([[8], [16, 16]]),
        "idle": distribution(Range(0, 100)), "only": distribution([1]),
    },
    objectives=(Objective("episode_return"),),
)  # fmt: skip


def records(count: int, *, seed: int = 0) -> list[Record]:
    """The return is best at a rate of 1e-3, a little better with two layers, and does not depend on ``idle``."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        rate = float(10 ** random.uniform(-4, -2))
        layers = [[8], [16, 16]][int(random.integers(2))]
        params = {"rate": rate, "layers": layers, "idle": int(random.integers(101)), "only": 1}
        value = -100 * abs(math.log10(rate) + 3) + 10 * len(layers)
        made.append(Record("s", number, 0, "complete", params=params, episode_return=value))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_what_decides_is_most_important(seed: int) -> None:
    found = importances(records(60, seed=seed), SUITE)
    assert set(found) == {"rate", "layers", "idle"}
    assert next(iter(found)) == "rate" and found["rate"] > 0.5
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_equal_ones_are_in_order_of_their_names() -> None:
    twins = {f"twin_{letter}": SUITE.search["layers"] for letter in "dacb"}
    suite = Suite("s", "t", "e", search=twins, objectives=SUITE.objectives)
    same = [
        Record("s", r.trial, 0, "complete", params=dict.fromkeys(twins, r.params["layers"]), episode_return=r.trial)
        for r in records(20)
    ]
    assert list(importances(same, suite)) == sorted(twins)


def test_nothing_is_printed(capfd: pytest.CaptureFixture) -> None:
    assert importances(records(20), SUITE)
    assert capfd.readouterr() == ("", "")


def test_the_direction_matters() -> None:
    """The worst trials have rates at both ends: what is important for a minimum is important for a maximum."""
    reversed_suite = Suite("s", "t", "e", search=SUITE.search, objectives=(Objective("episode_return", "minimize"),))
    mirrored = [
        Record("s", r.trial, 0, "complete", params=r.params, episode_return=-r.episode_return) for r in records(40)
    ]
    assert importances(mirrored, reversed_suite) == pytest.approx(importances(records(40), SUITE))
    assert importances(records(40), reversed_suite) != pytest.approx(importances(records(40), SUITE))


def test_only_the_search_counts_and_of_it_what_was_judged() -> None:
    nine = records(9)
    others = [
        Record("s", 51, 0, "failed", params=nine[0].params),
        Record("s", 0, 1, "complete", phase="confirm", params=nine[0].params, episode_return=1e9),
    ]
    assert importances(nine + others, SUITE) == {}
    assert missing(nine + others, SUITE) == "importances need 10 completed or pruned trials, there are 9"
    ten = records(10)
    assert missing(ten + others, SUITE) is None
    assert importances(ten + others, SUITE) == importances(ten, SUITE) != {}


def test_a_pruned_trial_is_worse_than_all_that_were_completed() -> None:
    """Whatever return it had when it ended."""
    whole = sorted(records(40), key=lambda r: r.episode_return)
    pruned = [Record("s", r.trial, 0, "pruned", params=r.params, episode_return=1e9) for r in whole[:20]]
    assert importances(pruned + whole[20:], SUITE) == pytest.approx(importances(whole, SUITE))
    few = [Record("s", r.trial, 0, "pruned", params=r.params) for r in whole[:31]] + whole[31:]
    assert missing(few, SUITE) == "importances need one completed trial in 4, there are 9 in 40"


def test_nothing_is_said_of_settings_that_cannot_be_compared() -> None:
    space = {"rate": SUITE.search["rate"], "only": distribution([1])}
    single = Suite("s", "t", "e", search=space, objectives=SUITE.objectives)
    assert "fewer than two" in (missing(records(20), single) or "") and importances(records(20), single) == {}
    same = [Record("s", r.trial, 0, "complete", params=r.params, episode_return=5.0) for r in records(20)]
    assert "the same episode_return" in (missing(same, SUITE) or "") and importances(same, SUITE) == {}


def test_a_target_that_was_not_reached_is_worse_than_all_that_were() -> None:
    """Without those the survivors alone would be compared."""
    suite = Suite("s", "t", "e", search=SUITE.search, objectives=(Objective("seconds_to_return", "minimize"),))
    whole = sorted(records(40), key=lambda r: -r.episode_return)
    times = [
        Record("s", r.trial, 0, "complete", params=r.params, seconds_to_return=number if number < 20 else math.nan)
        for number, r in enumerate(whole)
    ]
    assert missing(times[:10] + times[20:25], suite) is None
    assert importances(times, suite)["rate"] > 0.5

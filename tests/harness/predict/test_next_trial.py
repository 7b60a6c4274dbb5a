"""What the search tries next, and when it ends, of configurations whose speed is known here."""

import dataclasses
import math

import pytest

from harness.predict.next_trial import TRIED, WORTH, NextTrial, next_trial
from harness.predict.plan import Plan
from harness.predict.ranking import Candidate
from harness.predict.throughput import Rates
from harness.suite.space import Params
from harness.trainers.rounds import Workload

SPACE = "search={speed: [10, 20, 40, 80], mode: [async, sync], slots: [0, 1, 2], threads: [1, 2, 4]}"
ROUND = Workload((), "wait", 1, 1, 1)
FASTEST = {"speed": 80, "mode": "async", "slots": 2, "threads": 4}


@pytest.fixture
def plan(make_plan) -> Plan:
    return make_plan(SPACE, "baseline={speed: 20, mode: sync, threads: 1}", "limits.trials=50")


def rate(params: Params) -> float:
    """The speed helps more with rollouts in parallel, and the slots little."""
    steps = 1000 * params["speed"] ** (0.3 if params["mode"] == "async" else 0.1)
    return steps * (1 + 0.01 * params.get("slots", 0)) * params["threads"] ** 0.1


def ranking(plan: Plan, *without: str) -> list[Candidate]:
    """Predictions that are right but for settings of which they know nothing."""
    same = {"speed": 10, "mode": "async", "threads": 1}
    known = [one | {name: same[name] for name in without} for one in plan.configurations]
    return [
        Candidate(one, ROUND, rates=Rates(rate(seen), math.nan, math.nan))
        for one, seen in zip(plan.configurations, known, strict=True)
    ]


def search(plan: Plan, known: list[Candidate]) -> tuple[list[Params], NextTrial]:
    tried: list[tuple[Params, float | None]] = [(plan.configurations[0], rate(plan.configurations[0]))]
    while (following := next_trial(plan, known, tried)) is not None and not following.ends:
        tried.append((following.params, rate(following.params)))
    assert (
        following is not None
        and following.tried == len(tried)
        and following.left == len(plan.configurations) - len(tried)
    )
    return [params for params, _ in tried], following


def test_configurations_are_those_that_differ_in_what_they_change(plan: Plan) -> None:
    assert len(plan.configurations) == plan.trials == 4 * 3 * 3 + 4 * 3
    assert all(("slots" in one) == (one["mode"] == "async") for one in plan.configurations)
    assert plan.configurations[0] == {"speed": 20, "mode": "sync", "threads": 1}


def test_what_is_predicted_right_comes_first_and_the_search_ends_soon(plan: Plan) -> None:
    tried, end = search(plan, ranking(plan))
    assert tried[1] == FASTEST and len(tried) == TRIED and end.gain < WORTH


@pytest.mark.parametrize("without", [("mode",), ("speed", "threads"), ("speed", "mode", "threads")])
def test_a_prediction_that_misleads_is_corrected_by_what_is_measured(plan: Plan, without: tuple[str, ...]) -> None:
    tried, end = search(plan, ranking(plan, *without))
    assert max(map(rate, tried)) > 0.97 * rate(FASTEST) and len(tried) <= len(plan.configurations) / 3
    assert end.gain < WORTH


def test_without_a_prediction_the_best_is_found_too(plan: Plan) -> None:
    tried, _ = search(plan, [])
    assert max(map(rate, tried)) > 0.97 * rate(FASTEST) and len(tried) <= len(plan.configurations) / 3


def test_what_failed_or_does_not_fit_or_runs_is_not_tried_again(plan: Plan) -> None:
    first, second, third, *others = plan.configurations
    known = [dataclasses.replace(one, fits=one.params != FASTEST) for one in ranking(plan)]
    following = next_trial(plan, known, [(first, None)])
    assert following is not None and following.params != FASTEST and math.isnan(following.gain) and not following.ends
    following = next_trial(plan, [], [(first, 100.0), (second, math.nan), (third, None)])
    assert following is not None and following.left == len(others) and following.params not in (first, second, third)
    assert next_trial(plan, [], [(one, 100.0) for one in plan.configurations]) is None

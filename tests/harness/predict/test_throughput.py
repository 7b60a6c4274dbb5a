"""Predictions: how the sides of a round go together, costs between measured ones, and the ranking."""

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.predict import plan as plans
from harness.predict import ranking
from harness.predict import throughput as predict
from harness.predict.ceilings import Ceilings, Measured, Rehearsal
from harness.predict.ranking import Prediction, candidates
from harness.predict.throughput import Rates, Round, contended, ideal_seconds, meeting, rates, seconds_of_rounds
from harness.suite.space import LISTED
from harness.trainers import trainer as trainers
from harness.trainers.rounds import Cost, Part, Workload
from tests.harness.conftest import SUITE

DESCRIBED = SUITE.replace("fake_trainer:FakeTrainer", "described_trainer:DescribedTrainer")


def workload(course: str, *, yields: bool = False) -> Workload:
    return Workload((), course, env_steps=100, updates=4, samples=400, yields=yields)


def costs(collector: Cost, learner: Cost, transfer: Cost = Cost(), background: Cost = Cost()) -> Round:  # noqa: B008
    return Round(collector, learner, transfer, background)


ONE, TWO = Cost(1.0, 1.0), Cost(2.0, 2.0)
WIDE = Cost(1.0, 2.0)
"""one second on two cores"""


def test_in_turns_the_times_add_up() -> None:
    assert seconds_of_rounds(workload("turns"), costs(ONE, TWO), cores=2) == (3.0, 3.0)


def test_on_cores_of_their_own_the_slower_side_decides() -> None:
    for course in ("wait", "drop", "lockstep"):
        assert seconds_of_rounds(workload(course), costs(ONE, TWO), cores=2) == (2.0, 2.0)
    assert seconds_of_rounds(workload("free"), costs(ONE, TWO), cores=2) == (1.0, 2.0)


def test_on_shared_cores_the_core_time_decides() -> None:
    assert seconds_of_rounds(workload("wait"), costs(WIDE, WIDE), cores=2) == (2.0, 2.0)
    assert seconds_of_rounds(workload("lockstep"), costs(WIDE, WIDE), cores=2) == pytest.approx((2.0, 2.0))
    assert seconds_of_rounds(workload("free"), costs(WIDE, WIDE), cores=2) == (2.0, 2.0)


def test_a_collector_that_gives_up_rollouts_takes_its_share_of_the_cores_for_nothing() -> None:
    slow = Cost(2.0, 4.0)
    assert seconds_of_rounds(workload("wait"), costs(WIDE, slow), cores=2) == (3.0, 3.0)
    assert seconds_of_rounds(workload("drop"), costs(WIDE, slow), cores=2) == (4.0, 4.0)  # half of the cores each
    # one that gives way takes 2 / (1 + 3.06) cores: too few to be faster than the learner, which then waits for it
    assert seconds_of_rounds(workload("drop", yields=True), costs(WIDE, slow), cores=2) == (3.0, 3.0)


def test_who_gives_way_gets_less_of_the_cores() -> None:
    collecting, learning = contended(WIDE, WIDE, 2, yields=True)
    assert 2 / collecting + 2 / learning == pytest.approx(2.0)  # all cores are in use
    assert collecting / learning == pytest.approx(predict.NICE_WEIGHT)
    assert contended(ONE, WIDE, 2, yields=True)[1] == pytest.approx(2 / (2 * 3.06 * 2 / (3.06 * 2 + 1)))


def test_what_is_left_of_a_round_goes_on_alone() -> None:
    # both share two cores until the first has finished after 2 s; the second has done a third, the rest takes 2 s
    assert meeting(WIDE, Cost(3.0, 6.0), 2, yields=False) == pytest.approx(2.0 + 2 / 3 * 3.0)
    assert meeting(Cost(), WIDE, 2, yields=False) == pytest.approx(1.0)


def test_copies_are_in_series_and_what_is_sampled_ahead_is_not() -> None:
    both = Cost(2.5, 2.5)  # the learner's 2 s and a transfer of 0.5 s
    lockstep = seconds_of_rounds(workload("lockstep"), costs(ONE, both, transfer=Cost(0.5, 0.5)), cores=2)
    assert lockstep == pytest.approx((2.5, 2.5))
    ahead = costs(ONE, TWO, background=Cost(2.2, 0.5))
    assert seconds_of_rounds(workload("wait"), ahead, cores=4) == (2.2, 2.2)


def test_rates_follow_the_side_that_makes_them() -> None:
    assert rates(workload("free"), costs(ONE, TWO), 2) == Rates(100.0, 200.0, 2.0)


LOADS = st.builds(
    lambda seconds, parallelism: Cost(seconds, seconds * parallelism), st.floats(1e-4, 10), st.floats(0.1, 4)
)


@given(LOADS, LOADS, st.integers(1, 16), st.booleans(), st.sampled_from(["turns", "lockstep", "wait", "drop"]))
def test_nothing_is_faster_than_the_ceilings_allow(collector, learner, cores, yields, course) -> None:
    collector, learner = (
        Cost(max(one.seconds, one.core_seconds / cores), one.core_seconds) for one in (collector, learner)
    )
    seconds, again = seconds_of_rounds(workload(course, yields=yields), costs(collector, learner), cores)
    assert seconds == again >= ideal_seconds(collector, learner, cores) * (1 - 1e-9)
    assert seconds <= (collector.seconds + learner.seconds) * (1 + predict.NICE_WEIGHT)


@given(LOADS, LOADS, st.booleans())
def test_shares_of_the_cores_add_up_to_no_more_than_there_are(collector, learner, yields) -> None:
    apart = contended(collector, learner, 2, yields)
    used = collector.core_seconds / apart[0] + learner.core_seconds / apart[1]
    assert used <= max(2.0, collector.parallelism + learner.parallelism) * (1 + 1e-9)
    if collector.parallelism + learner.parallelism > 2 and collector.parallelism <= 2 >= learner.parallelism:
        assert used == pytest.approx(2.0)


def test_what_short_runs_add_makes_rounds_longer_where_cores_are_shared_and_in_turns() -> None:
    assert seconds_of_rounds(workload("wait"), costs(WIDE, WIDE), 2, overhead=1.25) == (2.5, 2.5)
    assert seconds_of_rounds(workload("wait"), costs(ONE, TWO), 4, overhead=1.25) == (2.0, 2.0)
    assert seconds_of_rounds(workload("turns"), costs(WIDE, WIDE), 2, overhead=1.25) == (2.5, 2.5)


# -- ceilings


def measured(kind: str, size: int, seconds: float, **settings: object) -> Measured:
    return Measured(Part("learner", kind, size, settings), Cost(seconds, 2 * seconds))


def test_costs_between_measured_sizes_are_interpolated() -> None:
    known = Ceilings("m", 2, measured=[measured("learn", 100, 1.0), measured("learn", 400, 4.0)])

    def cost(size: int) -> Cost | None:
        return known.cost(Part("learner", "learn", size, {}))

    assert cost(100) == Cost(pytest.approx(1.0), pytest.approx(2.0))
    assert cost(200) == Cost(pytest.approx(2.0), pytest.approx(4.0))
    assert cost(800) == Cost(pytest.approx(8.0), pytest.approx(16.0))
    assert cost(1) == Cost(pytest.approx(1.0), pytest.approx(2.0))  # a small one has the fixed cost of the smallest
    assert known.cost(Part("learner", "copy", 100, {})) is None


def test_the_most_similar_settings_stand_in_for_those_that_were_not_measured() -> None:
    learned = [measured("learn", 1, 1.0, dtype="a", width=1), measured("learn", 1, 5.0, dtype="b", width=2)]
    known = Ceilings("m", 2, measured=learned)
    cost = known.cost(Part("learner", "learn", 1, {"dtype": "b", "width": 3}))
    assert cost is not None and cost.seconds == pytest.approx(5.0)


def test_of_many_sizes_few_are_measured_and_known_ones_are_not_again() -> None:
    parts = [Part("learner", "learn", size, {}) for size in (64, 128, 256, 512, 1024, 2048, 4096)]
    assert [part.size for part in Ceilings("m", 2).missing(parts)] == [64, 256, 1024, 4096]
    known = Ceilings("m", 2, measured=[measured("learn", size, 1.0) for size in (64, 250, 1024, 4096)])
    assert known.missing(parts) == []
    assert [part.size for part in known.missing([*parts, Part("learner", "learn", 9999, {})])] == [9999]


# -- the ranking


@pytest.fixture
def make_described(tmp_path):
    def make(*overrides: str) -> plans.Plan:
        path = tmp_path / "described.yaml"
        path.write_text(DESCRIBED)
        return plans.make(path, overrides)

    return make


def prediction(plan: plans.Plan, cores: int = 2) -> Prediction:
    found = candidates(plan, cores)
    known = [
        Measured(part, plan.trainer.measure_alone(part))  # type: ignore[attr-defined]
        for part in Ceilings("m", cores).missing(ranking.parts(found))
    ]
    return Prediction(plan, Ceilings("m", cores, measured=known), found)


def throughput(known: Prediction, settings: dict[str, Any]) -> float:
    return known.rates(known.workload(settings)).env_steps_per_second


def test_of_a_trainer_that_does_not_describe_its_rounds_nothing_is_predicted(make_plan, tmp_path) -> None:
    plan = make_plan()
    known, missing = ranking.kept(plan, tmp_path)
    assert candidates(plan) == known.ranking == [] and missing == 0


def test_nothing_is_predicted_from_nothing(make_described) -> None:
    plan = make_described()
    known = Prediction(plan, Ceilings("m", 2), candidates(plan))
    assert math.isnan(throughput(known, {"speed": 10})) and known.ranking == []


def test_throughput_by_hand(make_described) -> None:
    known = prediction(make_described("search.mode=[async, sync]", "baseline.mode=async"))
    assert throughput(known, {"speed": 40, "mode": "async"}) == pytest.approx(500)  # 2 ms a step, the learner's
    assert throughput(known, {"speed": 40, "mode": "sync"}) == pytest.approx(1000 / 3)


def test_the_best_come_first_and_what_does_not_fit_last_with_its_reason(make_described) -> None:
    plan = make_described(
        "search.mode=[async, sync]", "search.host_bytes=[1000, 9000000000000000]", "baseline.host_bytes=1000"
    )
    ranked = prediction(plan).ranking
    assert len(ranked) == 16
    assert [one.fits for one in ranked] == [True] * 8 + [False] * 8
    assert [one.params["mode"] for one in ranked] == (["async"] * 4 + ["sync"] * 4) * 2
    assert ranked[0].reason is None and "host needs" in ranked[-1].reason
    found = candidates(plan)
    assert len(found) == 16 and len(ranking.parts(found)) == 16  # two of each that fits


def test_of_a_continuous_space_the_same_sample_is_ranked_every_time(make_described) -> None:
    second = "search.iteration_seconds={low: 0.001, high: 0.009}"  # three digits of one alone come again and again
    plan = make_described("search.inner.rate={low: 0.5, high: 2.0}", second, "baseline.inner.rate=1.0")
    first, second = candidates(plan), candidates(plan)
    assert first == second and len(first) > LISTED - 5
    assert first[0].params == plan.baseline and all(0.5 <= one.params["inner.rate"] <= 2.0 for one in first)


def test_short_runs_say_what_sharing_costs_by_the_rows_of_an_update_and_what_turns_do(make_described) -> None:
    plan = make_described("search.mode=[async, sync]", "baseline.mode=async")
    settings = ranking.to_rehearse(plan, candidates(plan, 1))
    assert [(one["speed"], one["mode"]) for one in settings] == [
        (10, "async"),
        (80, "async"),
        (10, "sync"),
        (80, "sync"),
    ]
    assert ranking.to_rehearse(plan, candidates(plan, 2)) == settings[2:]  # else each side has a core
    learning = make_described("search.mode=[async, sync]", "baseline.mode=async", "objectives=[episode_return]")
    assert ranking.to_rehearse(learning, candidates(learning, 1)) == []
    alone = prediction(plan, cores=1).ceilings
    assert alone is not None
    rehearsed = dataclasses.replace(
        alone,
        rehearsals=[
            Rehearsal(one, updates_per_second=20 / (0.003 * one["speed"] * factor))
            for one, factor in zip(settings, (1.1, 1.3, 1.2, 1.4), strict=True)
        ],
    )
    known = Prediction(plan, rehearsed)
    assert throughput(known, {"speed": 10}) == pytest.approx(1000 / 3 / 1.1)
    assert throughput(known, {"speed": 80}) == pytest.approx(1000 / 3 / 1.3)
    assert 1000 / 3 / 1.3 < throughput(known, {"speed": 20}) < 1000 / 3 / 1.1
    assert throughput(known, {"speed": 10, "mode": "sync"}) == pytest.approx(1000 / 3 / 1.2)
    assert throughput(known, {"speed": 80, "mode": "sync"}) == pytest.approx(1000 / 3 / 1.4)


@pytest.mark.parametrize(
    ("when_full", "courses"), [("[wait, drop_oldest]", ["wait", "turns"]), ("[drop_oldest]", ["drop", "turns"])]
)
def test_rounds_that_wait_stand_for_those_that_drop_in_short_runs(when_full: str, courses: list[str]) -> None:
    space = f"search={{when_full: {when_full}, mode: [async, sync]}}"
    plan = plans.make("appo_throughput", [space, "baseline.when_full=drop_oldest"])
    settings = ranking.to_rehearse(plan, candidates(plan, 2))
    assert [plan.trainer.workload(one, 2).course for one in settings] == courses  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["appo", "sac", "td3"])
def test_every_part_of_our_trainers_costs_something_and_their_sides_are_there(name: str) -> None:
    trainer = trainers.get(name)
    small = {"network.actor": [8], "network.critic": [8], "num_envs": 4, "env": "HalfCheetah"}
    small |= {"steps_per_env": 8} if name == "appo" else {"batch_size": 16, "pipeline": "prefetch"}
    described = trainer.workload(small, 2)
    assert {part.side for part in described.parts} == {"collector", "learner", "transfer"}
    for part in described.parts:
        cost = trainer.measure_alone(part)
        assert cost.seconds > 0 and cost.core_seconds >= 0


def test_rounds_of_our_trainers_are_what_their_runners_do() -> None:
    appo = trainers.get("appo").workload({"num_envs": 10, "steps_per_env": 7, "mode": "sync"}, 2)
    assert (appo.course, appo.env_steps, appo.updates, appo.samples) == ("turns", 70, 20, 350)
    assert {part.kind: (part.size, part.count) for part in appo.parts} == {
        "env_step": (10, 7), "prepare": (70, 1), "gradient": (18, 20),
    }  # fmt: skip
    settings = {"num_envs": 8, "env_steps_per_sync": 3, "updates_per_step": 4, "batch_size": 32}
    td3 = trainers.get("td3").workload(settings | {"algorithm.policy_frequency": 2}, 2)
    assert (td3.course, td3.env_steps, td3.updates, td3.samples) == ("lockstep", 24, 4, 128)
    assert {part.kind: (part.size, part.count) for part in td3.parts} == {
        "env_step": (8, 3), "critic_update": (32, 2.0), "update": (32, 2.0), "batch": (32, 4), "weights": (1, 1),
    }  # fmt: skip
    sac = trainers.get("sac").workload(settings | {"sync_collection": False, "algorithm.policy_frequency": 1}, 2)
    assert sac.course == "free"
    assert [(part.kind, part.count) for part in sac.parts if part.side == "learner"] == [("update", 4)]
    assert trainers.get("appo").workload({"when_full": "drop_oldest"}, 2).course == "drop"

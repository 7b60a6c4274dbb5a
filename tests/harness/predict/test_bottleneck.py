"""Verdicts: which limit follows from which fractions, in which words, and what is suggested."""

import dataclasses
import math

import pytest

from harness.measure.record import Record
from harness.predict import plan as plans
from harness.predict.bottleneck import (
    Searched,
    TimeUse,
    explain,
    limit_of,
    sentence,
    suggestions,
    time_use_of,
)
from harness.predict.ceilings import Ceilings
from harness.predict.ranking import Prediction
from harness.predict.throughput import Round
from harness.trainers import trainer as trainers
from harness.trainers.remedies import APPO, OFF_POLICY
from harness.trainers.rounds import Cost, Part, Remedy, Workload
from tests.harness.predict.test_throughput import DESCRIBED, prediction
from unilab.settings import SettingsError

BALANCED = TimeUse("wait", 2, False, 0.95, 0.02, 0.96, 0.01)


def facts(**changes: object) -> TimeUse:
    return dataclasses.replace(BALANCED, **changes)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"collector_busy": 0.59, "collector_wait": 0.41, "learner_busy": 0.99}, "learner"),
        ({"learner_busy": 0.55, "learner_wait": 0.45}, "collector"),
        ({"learner_busy": 0.55, "learner_wait": 0.45, "course": "lockstep"}, "collector"),
        ({"learner_wait": 0.3, "collector_wait": 0.3, "learner_busy": 0.7, "collector_busy": 0.7}, "waiting"),
        ({"learner_busy": 0.99}, "learner"),  # both busy, each on cores of its own: the one that is busy longer
        ({"collector_busy": 0.99}, "collector"),
        ({"shared": True}, "cores"),
        ({"shared": True, "collector_wait": 0.4, "collector_busy": 0.6, "cores_used": 0.93}, "cores"),
        ({"shared": True, "collector_wait": 0.4, "collector_busy": 0.6, "cores_used": 0.6}, "learner"),
        ({"dropped": 0.3, "shared": True}, "drop"),
        ({"transfer": 0.4}, "transfer"),
        ({"course": "turns", "collector_busy": 0.3, "learner_busy": 0.7}, "turns"),
        ({"course": "turns", "collector_busy": 0.04, "learner_busy": 0.96}, "learner"),
        ({"course": "turns", "collector_busy": 0.95, "learner_busy": 0.05}, "collector"),
        ({"course": "turns", "collector_busy": 0.3, "learner_busy": 0.7, "cores_used": 0.95}, "cores"),
        ({"course": "free", "collector_wait": 0.0, "learner_wait": 0.0, "learner_busy": 0.999}, "learner"),
        ({"course": "free", "collector_wait": 0.0, "learner_wait": 0.0, "shared": True}, "cores"),
        ({"shared": True, "queued": 0.5, "cores_used": 0.6}, "threads"),
        ({"shared": True, "queued": 0.3, "cores_used": 0.6}, "cores"),
        ({"shared": True, "queued": 0.5, "cores_used": 0.93}, "cores"),  # they wait, and nothing is lost by it
        ({"held_back": 0.3, "dropped": 0.3}, "quota"),
        ({"held_back": 0.1, "learner_busy": 0.99}, "learner"),  # of two cores
        ({"learner_busy": 0.99, "device_busy": 0.3}, "launch"),
        ({"learner_busy": 0.99, "device_busy": 0.97}, "device"),
        ({"collector_busy": 0.99, "learner_wait": 0.4, "device_busy": 0.3}, "collector"),
    ],
)
def test_the_limit_follows_from_the_fractions(changes: dict, limit: str) -> None:
    assert limit_of(facts(**changes)) == limit


@pytest.mark.parametrize(
    ("changes", "limit", "text"),
    [
        (
            {"learner_busy": 0.78, "collector_busy": 0.59, "collector_wait": 0.41},
            "learner",
            "learner-bound: learner 78% busy; collector 59% busy, waits 41% for a free slot; try fewer epochs, more b",
        ),
        (
            {"learner_busy": 0.5, "learner_wait": 0.5},
            "collector",
            "collector-bound: learner 50% busy, waits 50% for a rollout; collector 95% busy; try fewer epochs, more b",
        ),
        (
            {"course": "turns", "learner_busy": 0.7, "collector_busy": 0.3, "learner_wait": 0.3},
            "turns",
            "in turns: each side waits while the other works; learner 70% busy; collector 30% busy; "
            "try fewer epochs, more b",
        ),
        (
            {"course": "lockstep", "collector_wait": 0.2},
            "cores",
            "core-bound: collector and learner share 2 cores; learner 96% busy; "
            "collector 95% busy, waits 20% for the learner's updates; try fewer epochs, more b",
        ),
        (
            {"dropped": 0.25},
            "drop",
            "learner-bound: 25% of the rollouts were given up unread; learner 96% busy; collector 95% busy; "
            "try fewer epochs, more b",
        ),
        (
            {"transfer": 0.4},
            "transfer",
            "transfer-bound: copies and weights take 40% of the time; learner 96% busy; collector 95% busy; "
            "try fewer epochs, more b",
        ),
        (
            {"learner_wait": 0.3, "collector_wait": 0.2},
            "waiting",
            "latency-bound: both sides wait for each other; learner 96% busy, waits 30% for a rollout; "
            "collector 95% busy, waits 20% for a free slot; try fewer epochs, more b",
        ),
        (
            {"queued": 0.45},
            "threads",
            "threads fight: they wait 45% of their time for one of 2 cores; learner 96% busy; collector 95% busy; "
            "try fewer epochs, more b",
        ),
        (
            {"held_back": 0.84},
            "quota",
            "quota-bound: the CPU quota stopped 0.8 cores' worth of threads (a higher cpu.max gives them back); "
            "learner 96% busy; collector 95% busy; try fewer epochs, more b",
        ),
        (
            {"device_busy": 0.31},
            "launch",
            "launch-bound: the learner is busy, and its GPU runs a kernel 31% of the time; learner 96% busy; "
            "collector 95% busy; try fewer epochs, more b",
        ),
    ],
)
def test_the_verdict_in_words(changes: dict, limit: str, text: str) -> None:
    assert sentence(facts(**changes), limit, ["fewer epochs", "more b"]) == text
    assert sentence(facts(**changes), limit) == text.split("; try")[0]


def test_suggestions_leave_out_what_is_done_or_not_there_and_begin_with_what_is_searched() -> None:
    remedies = (
        Remedy("a", "fewer {}", unless=(1,)),
        Remedy("dtype", "{}=half", unless=("half",)),
        Remedy("absent", "more {}"),
        Remedy("where", "another {}", device=True),
        Remedy("threads", "more {}", threads=True),
        Remedy("b", "more {}"),
        Remedy("c", "wider {}"),
    )
    settings = {"a": 5, "dtype": "half", "threads": 2, "b": 1, "c": 1, "where": "cpu"}
    assert suggestions(remedies, settings, 4, Searched({"c": (1, 2)})) == ["wider c", "fewer a", "more threads"]
    assert suggestions(remedies, settings | {"a": 1}, 2) == ["more b", "wider c"]
    devices = Searched({"where": ("cpu", "cuda")})
    assert suggestions(remedies, settings, 2, devices) == ["another where", "fewer a", "more b"]


MODE, SLOTS, EPOCHS = Remedy("mode", "{}=async"), Remedy("slots", "more {}"), Remedy("epochs", "fewer {}")
SPACE = {"mode": ("async", "sync"), "slots": (1, 2, 4)}
OWN = {"mode": "sync", "slots": 2, "epochs": 5}


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (Searched(SPACE), ["mode=async", "more slots", "fewer epochs"]),
        (Searched(SPACE, others=[OWN | {"mode": "async"}]), ["more slots", "fewer epochs"]),
        (Searched(SPACE, others=[OWN | {"slots": 1}]), ["mode=async", "more slots", "fewer epochs"]),
        (Searched(SPACE, others=[OWN | {"slots": 4}]), ["mode=async", "fewer epochs"]),
        # what was faster is proposed, though another trial with it was not, and though the search is over
        (
            Searched(SPACE, faster=[OWN | {"mode": "async"}], others=[OWN | {"mode": "async", "slots": 4}], over=True),
            ["mode=async", "fewer epochs"],
        ),
        (Searched(SPACE, over=True), ["fewer epochs"]),
        (Searched({"slots": (1, 2)}, over=True), ["mode=async", "more slots", "fewer epochs"]),  # beyond its range
        (Searched(SPACE, frozenset({"mode", "slots"})), ["mode=async", "more slots"]),
        (Searched(SPACE, frozenset({"mode", "slots"}), over=True), []),
    ],
)
def test_nothing_is_proposed_that_the_search_knows_to_bring_nothing(search: Searched, expected: list[str]) -> None:
    assert sorted(suggestions((MODE, SLOTS, EPOCHS), OWN, 2, search)) == sorted(expected)


def test_a_change_has_a_direction() -> None:
    assert SLOTS.moves(2, 4) and not SLOTS.moves(2, 1) and not SLOTS.moves(2, 2)
    assert EPOCHS.moves(5, 3) and not EPOCHS.moves(5, 8)
    assert MODE.moves("sync", "async") and not MODE.moves("sync", "sync")
    assert SLOTS.moves(2, None) and not SLOTS.moves(None, None)  # None: a number that is found later


@pytest.mark.parametrize("name", ["appo", "sac", "td3"])
def test_every_remedy_is_a_setting_of_its_trainer(name: str) -> None:
    trainer = trainers.get(name)
    for limit, remedies in (APPO if name == "appo" else OFF_POLICY).items():
        assert list(trainer.remedies(limit)) == list(remedies)
        assert {remedy.setting for remedy in remedies} <= trainer.defaults().keys()
        assert all(remedy.setting in remedy.change.format(remedy.setting) for remedy in remedies)
    assert trainer.remedies("none of these") == ()


# -- records


@pytest.fixture
def plan(tmp_path) -> plans.Plan:
    path = tmp_path / "described.yaml"
    path.write_text(DESCRIBED)
    return plans.make(path, ["search.mode=[async, sync]", "baseline.mode=async"])


@pytest.fixture
def smoke() -> Prediction:
    """The smoke suite on four cores, and nothing known of its costs."""
    return Prediction(plans.make("smoke"), Ceilings("m", 4))


def record(**changes: object) -> Record:
    """100 rounds of 10 env steps in 4 s: the learner's part takes 2 ms a step, the collector's 1 ms."""
    values: dict = {
        "study": "s", "trial": 0, "repeat": 0, "state": "complete", "params": {"speed": 10, "mode": "async"},
        "env_steps_per_second": 250.0, "updates_per_second": 500.0, "env_steps": 1000,
        "collector_busy_fraction": 0.3, "collector_wait_fraction": 0.6, "learner_busy_fraction": 0.98,
        "learner_wait_fraction": 0.01,
    }  # fmt: skip
    return Record(**values | changes)


def test_efficiency_is_throughput_over_what_the_ceilings_allow(plan) -> None:
    found = prediction(plan)  # 500 env steps/s are possible
    assert explain(record(), found).async_efficiency == pytest.approx(0.5)
    fastest = record(env_steps_per_second=500.0, updates_per_second=1000.0)
    assert explain(fastest, found).async_efficiency == pytest.approx(1.0)
    one_core = prediction(plan, cores=1)  # 3 ms of a core for each step: 333 env steps/s
    assert explain(record(), one_core).async_efficiency == pytest.approx(0.75)


def test_a_record_is_explained(plan) -> None:
    explained = explain(record(), prediction(plan))
    assert explained.predicted_env_steps_per_second == pytest.approx(500)
    assert explained.async_efficiency == pytest.approx(0.5)
    text = "learner-bound: learner 98% busy; collector 30% busy, waits 60% for a free slot; try lower speed"
    assert explained.verdict == text


def test_what_the_search_found_to_be_slower_is_not_proposed(smoke) -> None:
    """As in the smoke study: async was measured, found slower, and proposed to the one in turns."""
    in_turns = record(
        params={"mode": "sync"}, env_steps_per_second=900.0, learner_busy_fraction=0.7, collector_busy_fraction=0.3
    )
    beside = record(trial=1, params={"mode": "async"}, env_steps_per_second=600.0)
    assert explain(in_turns, smoke).verdict.endswith("; try mode=async")
    assert "try" not in explain(in_turns, smoke, [beside, in_turns]).verdict
    faster = dataclasses.replace(beside, env_steps_per_second=1200.0)
    assert explain(in_turns, smoke, [faster, in_turns]).verdict.endswith("; try mode=async")
    hardly = dataclasses.replace(beside, env_steps_per_second=920.0)
    assert "try" not in explain(in_turns, smoke, [hardly, in_turns]).verdict


def test_a_search_of_placement_proposes_no_settings_of_the_learning(smoke) -> None:
    bound = record(params={"mode": "async"})
    assert explain(bound, smoke).verdict.endswith("; try more learner_threads, learner_dtype=bfloat16")


def test_what_threads_quota_and_device_did_is_recorded(plan) -> None:
    found = prediction(plan)
    workload = found.workload({"speed": 10})
    costs = found.costs(workload)
    seen = record(queue_wait_fraction=0.5, throttled_seconds=6.0, steady_seconds=4.0, device_busy_fraction=0.2)
    facts = time_use_of(seen, workload, costs, 2)
    assert (facts.queued, facts.held_back) == (0.5, 1.5) and math.isnan(facts.device_busy)  # it learns on the CPU
    assert math.isnan(time_use_of(dataclasses.replace(seen, disturbed="others"), workload, costs, 2).queued)
    part = Part("learner", "learn", 1, {"learner_device": "cuda", "collector_device": "cpu"})
    on_gpu = dataclasses.replace(workload, parts=(part,))
    assert time_use_of(seen, on_gpu, None, 2).device_busy == 0.2
    both = Part("collector", "step", 1, {"collector_device": "cuda"})
    on_gpu = dataclasses.replace(workload, parts=(part, both))
    assert time_use_of(seen, on_gpu, None, 2).device_busy == 0.2  # it runs no kernel of either
    full = dataclasses.replace(seen, device_busy_fraction=0.9)
    assert math.isnan(time_use_of(full, on_gpu, None, 2).device_busy)


def test_what_was_not_measured_is_predicted_only(plan) -> None:
    failed = explain(record(state="failed"), prediction(plan))
    assert failed.predicted_env_steps_per_second == pytest.approx(500)
    assert failed.verdict == "" and math.isnan(failed.async_efficiency)
    assert explain(record(), Prediction(plan)) == record()


def test_settings_that_cannot_be_leave_the_record_as_it_is(plan, monkeypatch) -> None:
    def strict(*_: object) -> Workload:
        raise SettingsError("speed", "too fast")

    found = prediction(plan)
    monkeypatch.setattr(type(plan.trainer), "workload", strict)
    broken = record(state="failed", error="speed: too fast")
    assert explain(broken, found) == broken


def test_without_costs_the_fractions_alone_give_the_verdict(plan) -> None:
    explained = explain(record(), Prediction(plan, Ceilings("m", 2)))
    assert explained.verdict.startswith("learner-bound: learner 98% busy") and math.isnan(explained.async_efficiency)


def test_facts_come_from_the_record_and_from_the_ceilings() -> None:
    """Each side keeps two cores busy for 10 ms a round, 4 ms of the learner's are copies."""
    described = Workload((), "drop", 10, 1, 10, yields=True)
    costs = Round(Cost(0.010, 0.020), Cost(0.010, 0.020), Cost(0.004, 0.004), Cost())
    measured = record(env_steps_per_second=400, updates_per_second=40, dropped_rollouts=25)
    seen = time_use_of(measured, described, costs, 2)
    assert (seen.course, seen.cores, seen.shared) == ("drop", 2, True)
    assert seen.dropped == pytest.approx(250 / 1250)
    assert seen.cores_used == pytest.approx(40 * 0.040 / 2) and seen.transfer == pytest.approx(40 * 0.004)

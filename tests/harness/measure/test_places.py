"""The search with several works in flight, in an engine that runs them in this process, the newest first."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from harness.measure.engines import local
from harness.measure.engines.local import LocalEngine
from harness.measure.process import Job, Outcome
from harness.measure.record import Record, attempts_that_count
from harness.measure.stop import StopSignal
from harness.predict.plan import Plan
from harness.study.folder import JOURNAL, Study
from harness.study.search import Sweep
from tests.harness.study.test_search import Crash, Disturbed, Executed, Quiet


class Places:
    """Three nodes. The job numbered ``lost_at`` moves its work to another one."""

    concurrency = 3
    machine = "cluster-000000"
    exclusive = True
    in_turns = False

    def __init__(self, stop: StopSignal, executed: Executed, lost_at: int | None = None) -> None:
        self.stop, self.executed, self.lost_at = stop, executed, lost_at
        self.jobs: dict[int, Job] = {}
        self.nodes: dict[int, str] = {}
        self.most = 0

    def available(self) -> None:
        return None

    def has_room(self) -> bool:
        return len(self.jobs) < self.concurrency

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        (job,) = jobs
        assert self.has_room()
        taken = [self.nodes[running] for running in self.jobs]
        self.nodes.setdefault(work, next(name for name in ("a", "b", "c") if name not in taken))
        self.jobs[work] = job
        self.most = max(self.most, len(self.jobs))

    def wait(self) -> tuple[int, list[Outcome]]:
        work, job = self.jobs.popitem()
        if len(self.executed.specs) == self.lost_at:
            self.nodes[work] = "d"
        outcome = self.executed(job.spec, job.limits, self.stop, job.on_progress)
        return work, [replace(outcome, result=outcome.result | {"node": self.nodes[work]})]


def sweep(plan: Plan, results: Path, executed: Executed | None = None, **engine: int) -> list[Record]:
    with Study(plan.folder(results)) as study, StopSignal() as stop:
        places = Places(stop, executed or Executed(), **engine)
        Sweep(plan, study, stop, Quiet(), places).run()
        assert places.most == min(3, plan.suite.limits.trials) or executed is not None
        assert not places.jobs
        return study.records.records


def keys(records: list[Record]) -> list[tuple[int, int, str]]:
    return sorted((r.trial, r.repeat, r.phase) for r in records)


def test_as_many_trials_as_places_are_in_flight_and_each_is_told_once(make_plan, tmp_path) -> None:
    plan = make_plan("measure.repeats=2", "limits.trials=4")
    records = sweep(plan, tmp_path)
    assert keys(records) == [(trial, repeat, "search") for trial in range(4) for repeat in (0, 1)]
    assert records[0].trial == 2, "the newest of three"
    assert len({r.params["speed"] for r in records}) == 4
    assert all(len({r.node for r in records if r.trial == trial}) == 1 for trial in range(4))
    with Study(plan.folder(tmp_path)) as study:
        trials = study.open_optuna(["maximize"]).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    speeds = {r.trial: r.params["speed"] for r in records}
    assert [t.params["speed"] for t in trials] == [speeds[number] for number in range(4)]


@pytest.mark.parametrize("crash_at", range(8))
@pytest.mark.parametrize("journal", ["kept", "lost"])
def test_after_a_crash_with_trials_in_flight_each_repeat_is_recorded_once(
    make_plan, tmp_path, crash_at: int, journal: str
) -> None:
    plan = make_plan("measure.repeats=2", "limits.trials=4")
    with pytest.raises(Crash):
        sweep(plan, tmp_path, Executed(crash_at))
    if journal == "lost":
        (plan.folder(tmp_path) / JOURNAL).unlink()
    records = sweep(plan, tmp_path, Executed())
    assert len(set(keys(records))) == len(records)
    assert {r.trial for r in records} == {0, 1, 2, 3}
    with Study(plan.folder(tmp_path)) as study:
        trials = study.open_optuna(["maximize"]).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    if journal == "kept":
        assert len(records) == 8
    speeds = {r.trial: r.params["speed"] for r in records}
    assert [t.params["speed"] for t in trials] == [speeds[number] for number in range(4)]


def test_a_block_is_measured_on_one_node_and_again_as_a_whole_when_that_is_lost(make_plan, tmp_path) -> None:
    plan = make_plan("confirm={top: 1, repeats: 4}", "limits.trials=2")
    whole = [r for r in sweep(plan, tmp_path / "whole") if r.phase == "confirm"]
    assert [{r.node for r in whole if r.repeat in block} for block in ((1, 2), (3, 4))] == [{"a"}, {"b"}]
    lost = [r for r in sweep(plan, tmp_path / "lost", lost_at=4) if r.phase == "confirm"]
    second = [r for r in lost if r.repeat in (3, 4)]
    order = [(r.trial, r.repeat) for r in whole if r.repeat in (3, 4)]
    assert sorted(order) == [(0, 3), (0, 4), (1, 3), (1, 4)]
    nodes = [(0, "b"), (0, "b"), (0, "d"), (0, "d"), (1, "d"), (1, "d"), (1, "d"), (1, "d")]
    expected = [(*one, *node) for one, node in zip(2 * order, nodes, strict=True)]
    assert [(r.trial, r.repeat, r.attempt, r.node) for r in second] == expected
    assert [r.node for r in attempts_that_count(second)] == 4 * ["d"]
    assert len(lost) == 4 + 8


def test_what_was_disturbed_is_measured_again_at_once_on_its_own_node(make_plan, tmp_path) -> None:
    plan = make_plan("limits.trials=3", "measure.disturbed_retries=1")
    records = sweep(plan, tmp_path, Disturbed({0, 2}))
    attempts = [(r.trial, r.attempt, bool(r.disturbed), r.node) for r in records]
    assert sorted(attempts) == [
        (0, 0, False, "a"), (1, 0, True, "b"), (1, 1, False, "b"), (2, 0, True, "c"), (2, 1, False, "c")
    ]  # fmt: skip


@pytest.mark.parametrize("trials", [1, 3])
def test_the_last_trials_repeats_run_side_by_side_where_each_has_cores_of_its_own(
    make_plan, tmp_path, monkeypatch: pytest.MonkeyPatch, trials: int
) -> None:
    monkeypatch.setattr(local, "core_sets", lambda size: [[5], [7]])
    plan = make_plan("measure.repeats=5", "measure.cores=1", f"limits.trials={trials}")
    executed, crashing = Executed(), Executed(crash_at=3)
    for ran in (crashing, executed):
        with suppress(Crash), Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
            Sweep(plan, study, stop, Quiet(), LocalEngine("here", stop, ran, cores=1)).run()
    cores = [spec.cores for spec in crashing.specs + executed.specs]
    assert abs(cores.count([5]) - cores.count([7])) <= 1, "no core was left alone"
    assert keys(study.records.records) == [(trial, repeat, "search") for trial in range(trials) for repeat in range(5)]
    with Study(plan.folder(tmp_path)) as study:
        assert [t.state for t in study.open_optuna(["maximize"]).trials] == [TrialState.COMPLETE] * trials


def test_the_confirmation_of_several_places_takes_less_time(make_plan) -> None:
    plan = make_plan("confirm={top: 2, repeats: 6}")  # three blocks of six
    assert plan.again().confirm == 18
    assert [plan.seconds_of(0, places, 1) for places in (1, 2, 3, 9)] == [18, 12, 6, 6]
    odd = make_plan("confirm={top: 2, repeats: 7}")  # and one of four
    assert [odd.seconds_of(0, places, 1) for places in (1, 4)] == [22, 6]


def test_repeats_side_by_side_take_less_time(make_plan) -> None:
    one_after_the_other = make_plan("measure.repeats=5")
    side_by_side = make_plan("measure.repeats=5", "measure.cores=1")
    seconds = [plan.seconds_of(1, 2, 1 + plan.saved_seconds) for plan in (one_after_the_other, side_by_side)]
    assert seconds == [5, 3]

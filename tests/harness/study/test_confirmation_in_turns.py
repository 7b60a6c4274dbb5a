"""Blocks of the confirmation whose repeats are alive together and take turns."""

import dataclasses
import math
from pathlib import Path

import pytest

from harness.measure.engines.local import LocalEngine
from harness.measure.interleaving import TURN_SECONDS
from harness.measure.process import Outcome, RepeatLimits
from harness.measure.record import Record, attempts_that_count
from harness.measure.repeat import TrialSpec
from harness.measure.stop import Stopped, StopSignal
from harness.predict.plan import Plan
from harness.report.finding import conclude
from harness.report.studies import trials_of
from harness.study.folder import Study
from harness.study.search import Sweep
from tests.harness.study.test_search import Quiet

CONFIRM = "confirm={top: 2, repeats: 2}"
BLOCK = [(20, 1), (20, 2), (40, 1), (40, 2), (80, 1), (80, 2)]
"""(speed, repeat): baseline, second and best, there and back, sorted"""


class Ends:
    """Says at once what a repeat measured; ``disturbed`` names the calls that were."""

    def __init__(self, *disturbed: int) -> None:
        self.disturbed, self.in_turns = disturbed, 0
        self.calls = 0

    def __call__(self, spec: TrialSpec, limits: RepeatLimits, stop: StopSignal, on_progress) -> Outcome:
        stop.check()
        number, self.calls = self.calls, self.calls + 1
        self.in_turns += spec.pauses is not None
        mark = "others" if number in self.disturbed else ""
        speed = spec.settings["speed"]
        result = {"env_steps_per_second": speed, "episode_return": speed, "disturbed": mark}
        return Outcome("complete", result=result)


def sweep(plan: Plan, results: Path, run=None) -> list[Record]:
    with Study(plan.folder(results)) as study, StopSignal() as stop:
        Sweep(plan, study, stop, Quiet(), LocalEngine("here", stop, run)).run()
        return study.records.records


def confirmed(records: list[Record]) -> list[Record]:
    return [record for record in records if record.phase == "confirm"]


def order(records: list[Record]) -> list[tuple[int, int]]:
    """(speed, repeat) of a block, sorted; the second half mirrors the first."""
    found = [(record.params["speed"], record.repeat) for record in records]
    assert [speed for speed, _ in found[3:]] == [speed for speed, _ in found[2::-1]]
    return sorted(found)


def test_a_block_takes_turns_and_the_search_says_how_time_was_used(make_plan, tmp_path) -> None:
    measure = "measure={warmup_seconds: 0, seconds: 0.3, disturbed_retries: 0}"
    plan = make_plan(CONFIRM, "limits.trials=4", "fixed.real_clock=true", measure)
    records = sweep(plan, tmp_path)
    block = confirmed(records)
    assert order(block) == BLOCK
    assert all(record.in_turns and math.isnan(record.learner_busy_fraction) for record in block)
    assert not any(record.in_turns for record in records[:4])
    assert min(record.wall_seconds for record in block) > 5 * TURN_SECONDS, "each was alive during the others' turns"
    best = next(trial for trial in trials_of(records) if trial.params["speed"] == 80)
    assert best.confirmed and best.value("learner_busy_fraction") == pytest.approx(0.75)
    assert best.value("env_steps_per_second") == pytest.approx(8000, rel=0.25)
    assert conclude(plan.suite, records).pairs == 2


def test_a_block_that_was_cut_short_is_measured_again_as_a_whole(make_plan, tmp_path) -> None:
    plan = make_plan(CONFIRM, "limits.trials=4")
    sweep(plan, tmp_path, Ends())
    path = plan.folder(tmp_path) / "trials.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-4]))
    block = confirmed(sweep(plan, tmp_path, Ends(*range(6))))  # all are disturbed, unlike those before
    assert [record.attempt for record in block] == [0, 0] + 6 * [1]
    assert order(block[2:]) == BLOCK and attempts_that_count(block) == block[2:]
    again = Ends()
    assert confirmed(sweep(plan, tmp_path, again)) == block and again.calls == 0


def test_of_a_block_the_least_disturbed_attempt_counts_as_a_whole(make_plan, tmp_path) -> None:
    """What disturbed one of them disturbed all."""

    def run(spec: TrialSpec, limits, stop, on_progress) -> Outcome:
        outcome = Ends()(spec, limits, stop, on_progress)
        if spec.pauses is None:
            return outcome
        again = int(spec.folder.partition("-again-")[2] or 0)
        taken = {(20, 0): 2.0, (80, 1): 4.0, (20, 2): 3.0}.get((spec.settings["speed"], again), 0.1)
        mark = "others" if taken > 1 else ""
        return dataclasses.replace(outcome, result=outcome.result | {"disturbance": taken, "disturbed": mark})

    plan = make_plan(CONFIRM, "limits.trials=4", "measure.disturbed_retries=2")
    block = confirmed(sweep(plan, tmp_path, run))
    assert [record.attempt for record in block] == [attempt for attempt in range(3) for _ in BLOCK]
    assert order(attempts_that_count(block)) == BLOCK and {r.attempt for r in attempts_that_count(block)} == {0}


@pytest.mark.parametrize(("disturbed", "attempts"), [((), 1), ((9,), 2), ((7, 15, 23), 3)])
def test_a_disturbed_block_is_measured_again_within_limits(make_plan, tmp_path, disturbed, attempts) -> None:
    plan = make_plan(CONFIRM, "limits.trials=4", "measure.disturbed_retries=2")
    run = Ends(*disturbed)
    block = confirmed(sweep(plan, tmp_path, run))
    assert [record.attempt for record in block] == [attempt for attempt in range(attempts) for _ in BLOCK]
    assert run.in_turns == 6 * attempts and sum(bool(record.disturbed) for record in block) == len(disturbed)


def test_a_disturbed_block_of_an_earlier_run_stays_as_it_is(make_plan, tmp_path) -> None:
    plan = make_plan("confirm={top: 1, repeats: 4}", "limits.trials=2", "measure.disturbed_retries=1")
    always = Ends(*range(2, 6), *range(6, 10))
    records = sweep(plan, tmp_path, always)
    assert [record.attempt for record in confirmed(records)] == 4 * [0] + 4 * [1] + 4 * [0]
    assert len(sweep(plan, tmp_path, Ends())) == len(records)


@pytest.mark.parametrize(
    "override",
    [
        "fixed.host_bytes=1000000000000",
        "measure={warmup_seconds: 0.1, return_at: {seconds: 0.3}}",
        "measure.target_return=5",
        "objectives=[episode_return]",
        "measure.turns=false",
    ],
    ids=["too large together", "a return at a budget", "the time to a return", "a return", "turned off"],
)
def test_one_after_the_other_where_turns_are_not_for_it(make_plan, tmp_path, monkeypatch, override) -> None:
    from unilab.ipc.memory_budget import MemoryAvailable

    available = MemoryAvailable(4 * 10**12, 4 * 10**12, 10**12)
    monkeypatch.setattr(MemoryAvailable, "here", lambda: available)
    run = Ends()
    block = confirmed(sweep(make_plan(CONFIRM, "limits.trials=4", override), tmp_path, run))
    assert order(block) == BLOCK and run.in_turns == 0 and not any(record.in_turns for record in block)


def test_a_trainer_that_does_not_say_where_it_works_takes_no_turns(make_plan, tmp_path, monkeypatch) -> None:
    from tests.harness.fake_trainer import FakeTrainer

    monkeypatch.delattr(FakeTrainer, "pausable")
    run = Ends()
    block = confirmed(sweep(make_plan(CONFIRM, "limits.trials=4"), tmp_path, run))
    assert order(block) == BLOCK and run.in_turns == 0


@pytest.mark.parametrize(("peak", "turns"), [(9 * 10**9, True), (10**12, False), (0, False)])
def test_peaks_of_the_search_stand_for_memory_that_is_not_predicted(
    make_plan, tmp_path, monkeypatch, peak: int, turns: bool
) -> None:
    from tests.harness.fake_trainer import FakeTrainer
    from unilab.ipc.memory_budget import MemoryAvailable

    monkeypatch.setattr(FakeTrainer, "budget", lambda self, settings: None)
    available = MemoryAvailable(10**12, 10**11, 10**11)
    monkeypatch.setattr(MemoryAvailable, "here", lambda: available)

    def run(*arguments, **options) -> Outcome:
        outcome = Ends()(*arguments, **options)
        return dataclasses.replace(outcome, result=outcome.result | {"peak_host_bytes": peak})

    block = confirmed(sweep(make_plan(CONFIRM, "limits.trials=4"), tmp_path, run))
    assert order(block) == BLOCK and {record.in_turns for record in block} == {turns}


def test_a_failure_in_a_block_is_recorded_beside_what_the_others_measured(make_plan, tmp_path) -> None:
    def run(spec: TrialSpec, limits, stop, on_progress) -> Outcome:
        if spec.pauses is not None and spec.settings["speed"] == 80:
            return Outcome("failed", error="it fell over")
        return Ends()(spec, limits, stop, on_progress)

    block = confirmed(sweep(make_plan(CONFIRM, "limits.trials=4"), tmp_path, run))
    assert order(block) == BLOCK
    assert all((record.state == "complete") == (record.params["speed"] != 80) for record in block)


def test_a_signal_between_turns_ends_all_and_records_none(make_plan, tmp_path) -> None:
    def run(spec: TrialSpec, limits, stop: StopSignal, on_progress) -> Outcome:
        if spec.pauses is not None:
            stop.signum = 2
        return Ends()(spec, limits, stop, on_progress)

    plan = make_plan(CONFIRM, "limits.trials=4")
    with pytest.raises(Stopped):
        sweep(plan, tmp_path, run)
    assert order(confirmed(sweep(plan, tmp_path, Ends()))) == BLOCK

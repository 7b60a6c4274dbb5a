"""The search's best are measured once more, and the best by both looks is confirmed."""

from pathlib import Path

import pytest

from harness.measure.engines.local import LocalEngine
from harness.measure.process import Outcome
from harness.measure.record import SECOND_LOOK, Record
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from harness.predict.plan import Plan
from harness.study.folder import Study
from harness.study.search import Sweep
from tests.harness.study.test_search import Crash, Quiet

LUCK = {10: [130], 40: [125, 125], 80: [128, 90]}
"""what the search measures of a speed, look by look, where that is not the speed"""
CONFIRM = "confirm={top: 1, repeats: 2}"


class Lucky:
    """Says at once what a repeat measured: by its luck in the search, by its speed afterwards."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.calls, self.crash_at = 0, crash_at

    def __call__(self, spec: TrialSpec, limits, stop: StopSignal, on_progress) -> Outcome:
        if self.calls == self.crash_at:
            raise Crash
        self.calls += 1
        speed, repeat = spec.settings["speed"], int(Path(spec.folder).name.partition("-")[2])
        look = 1 if repeat >= SECOND_LOOK else repeat
        known = LUCK.get(speed, [])
        value = known[look] if look < len(known) else speed
        return Outcome("complete", result={"env_steps_per_second": float(value), "episode_return": 1.0})


def sweep(plan: Plan, results: Path, run: Lucky | None = None) -> list[Record]:
    with Study(plan.folder(results)) as study, StopSignal() as stop:
        Sweep(plan, study, stop, Quiet(), LocalEngine("here", stop, run or Lucky(), in_turns=False)).run()
        return study.records.records


def looks(records: list[Record]) -> list[tuple[int, int]]:
    return [(r.params["speed"], r.repeat - SECOND_LOOK) for r in records if r.second_look]


def test_the_best_by_both_looks_is_confirmed(make_plan, tmp_path) -> None:
    records = sweep(make_plan(CONFIRM, "limits.trials=4"), tmp_path)
    assert looks(records) == [(10, 0), (80, 0), (40, 0)]  # by the first look, best first
    assert {r.params["speed"] for r in records if r.phase == "confirm"} == {20, 40}
    assert [r.phase for r in records] == 7 * ["search"] + 4 * ["confirm"]
    logs = {r.log for r in records}
    assert len(logs) == len(records)


@pytest.mark.parametrize("crash_at", range(11))
def test_after_a_crash_each_look_is_recorded_once(make_plan, tmp_path, crash_at: int) -> None:
    plan = make_plan(CONFIRM, "limits.trials=4")
    whole = sweep(plan, tmp_path / "whole")
    with pytest.raises(Crash):
        sweep(plan, tmp_path / "cut", Lucky(crash_at))
    again = Lucky()
    records = sweep(plan, tmp_path / "cut", again)
    assert again.calls == 11 - crash_at
    assert [(r.trial, r.phase, r.repeat) for r in records] == [(r.trial, r.phase, r.repeat) for r in whole]


@pytest.mark.parametrize(
    ("overrides", "repeats"),
    [
        ((CONFIRM, "limits.trials=4"), 3),
        ((CONFIRM, "limits.trials=3"), 2),
        (("confirm={top: 2, repeats: 2}", "limits.trials=4", "measure.repeats=2"), 6),
        ((CONFIRM, "limits.trials=2"), 0),  # nothing to choose from
        (("confirm={top: 3, repeats: 2}", "limits.trials=4"), 0),  # all are confirmed
        (("limits.trials=4",), 0),
        ((CONFIRM, "limits.trials=4", "objectives=[episode_return]"), 0),
    ],
)
def test_looks_count_in_the_time_of_a_plan(make_plan, tmp_path, overrides, repeats: int) -> None:
    plan = make_plan(*overrides)
    assert plan.again().second_look == repeats
    searched = plan.trials * plan.suite.measure.repeats
    every = (searched + repeats + plan.again().confirm) * plan.repeat_seconds
    assert plan.seconds == pytest.approx(every - searched * plan.saved_seconds)
    assert len(looks(sweep(plan, tmp_path))) == repeats


def test_a_lucky_single_repeat_does_not_beat_what_was_looked_at_twice(make_plan, tmp_path) -> None:
    """Nor does the baseline lose to it: nobody picked that for its luck."""
    plan = make_plan(CONFIRM, "limits.trials=4", "limits.minutes=100")
    records = [r for r in sweep(plan, tmp_path) if r.phase == "search"]
    from harness.study.best_trials import ranking

    by_speed = {r.trial: r.params["speed"] for r in records}
    assert [by_speed[trial] for trial in ranking(records, plan.suite)] == [40, 80, 10, 20]
    single = [r for r in records if not (r.second_look and r.params["speed"] == 10)]
    assert [by_speed[trial] for trial in ranking(single, plan.suite)] == [40, 80, 20, 10]


def test_blocks_for_which_there_is_no_time_are_measured_by_the_next_run(make_plan, tmp_path) -> None:
    plan = make_plan(CONFIRM, "limits.trials=2")
    with Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        engine = LocalEngine("here", stop, Lucky(), in_turns=False)
        late = Sweep(plan, study, stop, Quiet(), engine, began=-3600.0)
        late.run()
        assert [r.phase for r in study.records.records] == ["search"]
        assert late.missing == {"blocks of the confirmation": 1}
    assert [r.phase for r in sweep(plan, tmp_path)] == 2 * ["search"] + 4 * ["confirm"]

"""Which trials are ended early, why, and what is left of them: the fake trainer's return is ten times its speed."""

import dataclasses
import json
import math
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from harness.files.yaml_file import InputError
from harness.measure import repeat as trial
from harness.measure.engines.local import execute
from harness.measure.process import Outcome, RepeatLimits
from harness.measure.record import Record
from harness.measure.repeat import TrialSpec, run_repeat
from harness.measure.stop import StopSignal
from harness.study.folder import JOURNAL, Study
from harness.study.optuna_trial import CurvePruner, checks_of, part_of
from harness.suite.schema import Measure, Objective, Pruner, Suite
from tests.harness.study.test_search import Crash, Executed, sweep

PRUNER = "pruner={percentile: 50, startup_trials: 1, warmup_fraction: 0.3, interval_fraction: 0.1}"
SUITE = Suite("s", "t", "e", objectives=(Objective("episode_return"),), measure=Measure(20, 80), pruner=Pruner())


class Ended(Exception):
    """The parent wants the repeat to end."""


class Pruned(Executed):
    """Runs repeats in this process and ends them when they are told to; each iteration is reported."""

    def __call__(self, spec: TrialSpec, limits: RepeatLimits, stop: StopSignal, on_progress) -> Outcome:
        reasons = []

        def watch(message: dict) -> None:
            if message["event"] == "progress" and (reason := on_progress(message["progress"])) is not None:
                reasons.append(reason)
                raise Ended

        self.watch = watch
        outcome = super().__call__(spec, limits, stop, on_progress)
        return Outcome("pruned", error=reasons[0]) if reasons else outcome

    def run(self, spec: TrialSpec) -> list[dict]:
        messages: list[dict] = []

        def report(message) -> None:
            messages.append(message)
            self.watch(message)

        run_repeat(spec, report)
        return messages


@pytest.fixture(autouse=True)
def every_iteration_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "REPORT_SECONDS", 0.0)


def line(seconds: float, value: float | None, env_steps: int = 0) -> dict:
    return {"wall_seconds": seconds, "episode_return": value, "env_steps": float(env_steps)}


def test_a_part_of_the_budget_has_the_first_number_that_comes(tmp_path: Path) -> None:
    curve = ((19.9, 1.0), (20.0, None), (21.0, math.nan), (30.0, 2.0), (39.0, 3.0), (85.0, 4.0), (100.0, 5.0))
    (tmp_path / "curve.jsonl").write_text("".join(json.dumps(line(*one)) + "\n" for one in curve))
    suite = dataclasses.replace(SUITE, pruner=Pruner(interval_fraction=0.2))
    assert checks_of(suite, tmp_path / "curve.jsonl") == {20: 2.0, 80: 4.0}


@given(st.lists(st.floats(0, 150), max_size=60), st.sampled_from([0.01, 0.07, 0.1, 0.25, 0.5]))
def test_checks_are_whole_intervals_within_the_budget(seconds: list[float], interval: float) -> None:
    parts = [part_of(SUITE, Pruner(interval_fraction=interval), line(second, 1.0)) for second in sorted(seconds)]
    known = [part for part in parts if part is not None]
    assert all(0 < part < 100 and part % round(100 * interval) == 0 for part in known) and known == sorted(known)
    for part, second in zip(parts, sorted(seconds), strict=True):
        assert part is None or part <= second < part + round(100 * interval) + 1e-9


def completed(*values: float) -> optuna.Study:
    """A study whose completed trials had these returns after half of the budget."""
    study = optuna.create_study(direction="maximize")
    for value in values:
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, intermediate_values={50: value}))
    return study


def test_a_trial_ends_below_the_percentile_and_not_at_it() -> None:
    study = completed(100.0, 200.0, 300.0, 400.0, 500.0)
    for percentile, below, at in ((50, 299.0, 300.0), (25, 199.0, 200.0), (75, 399.0, 400.0)):
        pruner = CurvePruner(SUITE, Pruner(percentile=percentile), study)
        assert CurvePruner(SUITE, Pruner(percentile=percentile), study)(line(50, at)) is None
        assert pruner(line(50, below, 1_234_567)) == (
            f"pruned at 1,234,567 env steps: return {below:.1f} is below percentile {percentile} "
            "of 5 completed trials at 50 % of the budget"
        )


def test_a_good_beginning_counts_for_a_trial_that_falls_back() -> None:
    pruner = CurvePruner(SUITE, Pruner(), completed(*range(5)))
    assert pruner(line(40, 3.0)) is None
    assert pruner(line(50, -1.0)) is None


@pytest.mark.parametrize(
    ("values", "seconds"),
    [((1.0, 2.0, 3.0, 4.0), 50), ((1.0, 2.0, 3.0, 4.0, 5.0), 40), ((1.0, 2.0, 3.0, 4.0, 5.0), 29.9)],
    ids=["four completed trials", "nothing to compare with there", "warm-up"],
)
def test_nothing_is_pruned_too_early(values: tuple[float, ...], seconds: float) -> None:
    assert CurvePruner(SUITE, Pruner(), completed(*values))(line(seconds, -100.0)) is None


def test_a_hopeless_trial_ends_with_its_reason_and_its_curve(make_plan, tmp_path: Path) -> None:
    plan = make_plan(PRUNER, "objectives=[episode_return]", "limits.trials=4", "confirm={top: 1, repeats: 1}")
    records = sweep(plan, tmp_path, Pruned())
    searched = {r.params["speed"]: r for r in records if r.phase == "search"}
    assert searched[20].state == "complete", "the baseline never ends early"
    assert searched[10].state == "pruned" and searched[80].state == "complete"
    assert searched[10].error is not None and "return 100.0 is below percentile 50 of" in searched[10].error
    curve = plan.folder(tmp_path) / searched[10].log / "curve.jsonl"
    assert len(curve.read_text().splitlines()) == 10, "0.1 s before the check and the check"
    with Study(plan.folder(tmp_path)) as study:
        told = study.open_optuna(["maximize"]).trials
        assert study.ranking(plan.suite)[0] == searched[80].trial
    pruned = told[searched[10].trial]
    assert pruned.state == TrialState.PRUNED and pruned.user_attrs["pruned"] == searched[10].error
    assert pruned.intermediate_values == {10: 100.0, 20: 100.0, 30: 100.0} and pruned.value == 100.0
    assert told[0].intermediate_values == dict.fromkeys(range(10, 100, 10), 200.0)


def test_baseline_and_confirmation_go_to_their_end(make_plan, tmp_path: Path) -> None:
    """A baseline that is worst of all, and a confirmation in which it is measured last."""
    plan = make_plan(
        PRUNER, "baseline.speed=10", "objectives=[episode_return]", "limits.trials=4", "confirm={top: 1, repeats: 2}"
    )
    records = sweep(plan, tmp_path, Pruned())
    assert {r.state for r in records if r.baseline or r.phase == "confirm"} == {"complete"}
    assert {r.params["speed"] for r in records if r.phase == "confirm"} == {10, 80}


def test_confirmation_uses_seeds_that_the_search_did_not(make_plan, tmp_path: Path) -> None:
    plan = make_plan(PRUNER, "objectives=[episode_return]", "measure.repeats=2", "confirm={top: 1, repeats: 2}")
    records = sweep(plan, tmp_path, Pruned())
    searched = {r.seed for r in records if r.phase == "search"}
    assert searched == {0, 1} and not searched & {r.seed for r in records if r.phase == "confirm"}


def test_the_first_repeat_decides_for_its_trial(make_plan, tmp_path: Path) -> None:
    plan = make_plan(PRUNER, "objectives=[episode_return]", "measure.repeats=2", "limits.trials=4")
    records = sweep(plan, tmp_path, Pruned())
    assert [(r.repeat, r.state) for r in records if r.params["speed"] == 10] == [(0, "pruned")]
    assert [(r.repeat, r.state) for r in records if r.params["speed"] == 80] == [(0, "complete"), (1, "complete")]


def test_without_a_pruner_nothing_is_pruned(make_plan, tmp_path: Path) -> None:
    plan = make_plan("objectives=[episode_return]", "limits.trials=4")
    assert {r.state for r in sweep(plan, tmp_path, Pruned())} == {"complete"}


@pytest.mark.parametrize("crash_at", range(1, 8))
def test_after_a_crash_the_same_trials_are_pruned(make_plan, tmp_path: Path, crash_at: int) -> None:
    arguments = (PRUNER, "search.speed={low: 1, high: 500}", "objectives=[episode_return]", "limits.trials=8")
    plan = make_plan(*arguments)
    whole = sweep(plan, tmp_path / "whole", Pruned())
    assert {r.state for r in whole} == {"complete", "pruned"}
    with pytest.raises(Crash):
        sweep(plan, tmp_path / "cut", Pruned(crash_at))
    records = sweep(plan, tmp_path / "cut", Pruned())
    assert [(r.params, r.state, r.error) for r in records] == [(r.params, r.state, r.error) for r in whole]


def test_a_lost_journal_is_made_again_from_records_and_curves(make_plan, tmp_path: Path) -> None:
    plan = make_plan(PRUNER, "objectives=[episode_return]", "limits.trials=4")
    sweep(plan, tmp_path, Pruned())
    journal = plan.folder(tmp_path) / JOURNAL

    def told() -> list[tuple]:
        with Study(plan.folder(tmp_path)) as study:
            trials = study.open_optuna(["maximize"]).trials
        return [(t.state, t.value, t.params, t.intermediate_values, t.user_attrs.get("pruned")) for t in trials]

    before = told()
    journal.unlink()
    sweep(plan, tmp_path, Pruned())
    assert told() == before


@pytest.mark.parametrize(
    "objectives",
    [
        "[env_steps_per_second]",
        "[episode_return, env_steps_per_second]",
        "[{metric: episode_return, direction: minimize}]",
    ],
)
def test_a_pruner_that_cannot_judge_is_refused(make_plan, objectives: str) -> None:
    with pytest.raises(InputError, match=r"pruner.*one objective to maximize, episode_return or return_at"):
        make_plan(PRUNER, f"objectives={objectives}")


def test_a_suite_with_a_pruner_is_written_as_it_was_read(make_plan) -> None:
    plan = make_plan(PRUNER, "objectives=[episode_return]")
    assert plan.suite.to_dict()["pruner"] == dataclasses.asdict(plan.suite.pruner)
    assert plan.suite.study_id() != make_plan("objectives=[episode_return]").suite.study_id()
    assert "pruner" not in make_plan("objectives=[episode_return]").suite.to_dict()


def test_a_process_that_is_pruned_leaves_its_curve_and_its_memory(make_plan, tmp_path: Path) -> None:
    plan = make_plan("objectives=[episode_return]")
    settings = plan.settings({"speed": 40, "behaviour": "endless"})
    folder = tmp_path / "logs"
    seen: list[dict] = []

    def second_line(progress: dict) -> str | None:
        seen.append(progress)
        return "pruned: enough was seen" if len(seen) == 2 else None

    with StopSignal() as stop:
        spec = TrialSpec(plan.suite.trainer, settings, 0.0, 60.0, str(folder), report_fd=-1)
        outcome = execute(spec, RepeatLimits(60.0, 60.0), stop, second_line)
        assert not stop.groups, "its processes are gone"
    assert (outcome.state, outcome.error) == ("pruned", "pruned: enough was seen")
    assert outcome.result["env_steps"] == seen[1]["env_steps"] > 40 and outcome.result["episode_return"] == 400.0
    assert outcome.result["peak_host_bytes"] > 2**20 and 0 < outcome.result["wall_seconds"] < 60
    curve = [json.loads(text) for text in (folder / "curve.jsonl").read_text().splitlines()]
    assert curve[:2] == seen
    record = Record("s", 0, 0, outcome.state, error=outcome.error, **outcome.result)
    assert Record.from_flat(json.loads(json.dumps(record.flat()))).env_steps == outcome.result["env_steps"]
    assert checks_of(plan.suite, folder / "curve.jsonl") == {}

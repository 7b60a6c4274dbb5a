"""The search with a trainer that costs nothing; ``Executed`` runs the trial's own object in this process."""

import dataclasses
import json
import math
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.measure.engines.local import LocalEngine
from harness.measure.process import Outcome, RepeatLimits
from harness.measure.record import Record
from harness.measure.repeat import TrialSpec, run_repeat
from harness.measure.stop import Stopped, StopSignal
from harness.predict.ceilings import Ceilings
from harness.predict.plan import Plan
from harness.predict.ranking import Prediction
from harness.report.finding import conclude
from harness.report.studies import ReportedTrial
from harness.report.terminal import write_best
from harness.study.best_trials import ranking
from harness.study.folder import JOURNAL, Study
from harness.study.search import Sweep
from harness.suite.space import Params, Space, propose
from harness.suite.text import settings_text
from harness.trainers.rounds import Remedy
from unilab.errors import UserError


class Quiet:
    def started(self, record: Record, what: str) -> None:
        pass

    def progress(self, record: Record, progress: dict) -> None:
        pass

    def finished(self, record: Record) -> None:
        pass


class Crash(BaseException):
    """The harness dies here."""


class Executed:
    """Counts repeats; crashes instead of running the repeat numbered ``crash_at``."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.specs: list[TrialSpec] = []
        self.crash_at = crash_at

    def __call__(self, spec: TrialSpec, limits: RepeatLimits, stop: StopSignal, on_progress) -> Outcome:
        if len(self.specs) == self.crash_at:
            raise Crash
        self.specs.append(spec)
        last = self.run(spec)[-1]
        if last["event"] == "error":
            return Outcome("failed", error=last["error"])
        return Outcome("complete", result={k: math.nan if v is None else v for k, v in last["result"].items()})

    def run(self, spec: TrialSpec) -> list[dict]:
        """What the trial reported."""
        messages: list = []
        run_repeat(spec, messages.append)
        return messages


def sweep(plan: Plan, results: Path, executed: Executed | None = None) -> list[Record]:
    with Study(plan.folder(results)) as study, StopSignal() as stop:
        Sweep(plan, study, stop, Quiet(), LocalEngine("here", stop, executed or Executed(), in_turns=False)).run()
        return study.records.records


def speeds(records: list[Record]) -> list[int]:
    return [record.params["speed"] for record in records]


def test_baseline_first_then_new_configurations_up_to_the_limit(make_plan, tmp_path) -> None:
    records = sweep(make_plan(), tmp_path)
    assert [(r.trial, r.repeat, r.state, r.baseline) for r in records] == [
        (0, 0, "complete", True),
        (1, 0, "complete", False),
        (2, 0, "complete", False),
    ]
    assert records[0].params == {"speed": 20}
    assert len(set(speeds(records))) == 3
    assert [r.env_steps_per_second for r in records] == pytest.approx([100 * s for s in speeds(records)])
    assert records[0].budget_host_bytes == 1000 and records[0].commit and records[0].machine


def test_what_is_pinned_is_measured_and_confirmed_whatever_is_better(make_plan, tmp_path) -> None:
    plan = make_plan(
        "pinned={slow: {speed: 10}}", "confirm={top: 1, repeats: 2}", "sampler.name=grid", "limits.trials=4"
    )
    records = sweep(plan, tmp_path)
    assert {(r.trial, r.params["speed"]) for r in records if r.pinned == "slow"} == {(1, 10)}
    confirmed = {record.params["speed"]: record.pinned for record in records if record.phase == "confirm"}
    assert confirmed == {20: "", 80: "", 10: "slow"}


def test_a_trial_that_is_through_before_its_warm_up_is_judged_by_its_return(make_plan, tmp_path) -> None:
    """1,000 env steps take the fast one 0.13 s, and 0.2 s are warm-up."""
    plan = make_plan(
        "objectives=[return_at_budget]",
        "measure={warmup_seconds: 0.2, return_at: {env_steps: 1000}}",
        "limits.trials=4",
    )
    all_records = sweep(plan, tmp_path)
    records = {record.params["speed"]: record for record in all_records}
    assert [records[speed].state for speed in (10, 20, 40, 80)] == ["complete"] * 4
    assert records[80].return_at_budget == 800 and math.isnan(records[80].env_steps_per_second)
    assert records[20].env_steps_per_second == pytest.approx(2000)
    assert ranking(all_records, plan.suite)[0] == records[80].trial


def test_settings_that_change_nothing_are_neither_searched_nor_shown(make_plan, tmp_path) -> None:
    space = ("search={mode: [async, sync], slots: [0, 1, 2]}", "baseline={mode: async, slots: 1}", "limits.trials=20")
    plan = make_plan(*space)
    assert plan.trials == 4
    tried = [record.params for record in sweep(plan, tmp_path)]
    assert tried[0] == {"mode": "async", "slots": 1}
    assert sorted(map(settings_text, tried)) == [
        "mode=async slots=0",
        "mode=async slots=1",
        "mode=async slots=2",
        "mode=sync",
    ]


def test_values_of_continuous_ranges_have_three_digits(make_plan, tmp_path) -> None:
    plan = make_plan("search={inner.rate: {low: 1.0e-4, high: 1.0e-2, log: true}}", "baseline={}", "limits.trials=4")
    rates = [record.params["inner.rate"] for record in sweep(plan, tmp_path)]
    assert len(set(rates)) == 4 and all(rate == float(f"{rate:.3g}") for rate in rates)
    edges = Space({"a": FloatDistribution(0.12345, 0.98765)})
    assert edges.drawn({"a": 0.12346}) == {"a": 0.12345} and edges.drawn({"a": 0.9876}) == {"a": 0.98765}


def test_what_is_pinned_in_a_range_is_measured_once_as_it_is_stated(make_plan, tmp_path) -> None:
    plan = make_plan(
        "search={inner.rate: {low: 0.1, high: 2}}", "baseline={inner.rate: 1}", "limits.trials=4", "sampler.name=tpe",
        "pinned={paper: {inner.rate: 0.98765}}",
    )  # fmt: skip
    records = sweep(plan, tmp_path)
    rates = [record.params["inner.rate"] for record in records]
    assert rates[:2] == [1.0, 0.98765] and len(set(rates)) == 4
    assert [record.pinned for record in records] == ["", "paper", "", ""]


def test_a_range_with_steps_has_its_ends_and_the_values_that_people_write(make_plan, tmp_path) -> None:
    steps = Space({"a": FloatDistribution(0, 0.6, step=0.2), "b": FloatDistribution(0, 1, step=0.1)})
    assert [*dict.fromkeys(one["a"] for one in steps.grid())] == [0, 0.2, 0.4, 0.6]
    assert 0.3 in [one["b"] for one in steps.grid()]
    assert steps.drawn({"b": 0.1 * 3}) == {"b": 0.3}
    plan = make_plan(
        "search={inner.rate: {low: 0.1, high: 0.4, step: 0.1}}", "baseline={inner.rate: 0.3}", "limits.trials=9",
        "sampler.name=grid",
    )  # fmt: skip
    assert [record.params["inner.rate"] for record in sweep(plan, tmp_path)] == [0.3, 0.1, 0.2, 0.4]


def test_a_trial_is_called_by_its_number(make_plan, tmp_path) -> None:
    shown = []

    class Recording(Quiet):
        def started(self, record: Record, what: str) -> None:
            shown.append((record.trial, what))

    plan = make_plan("limits.trials=2", "sampler.name=tpe")
    with Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        Sweep(plan, study, stop, Recording(), LocalEngine("here", stop, Executed(), in_turns=False)).run()
    assert shown == [(0, "trial 0 (1 of 2)"), (1, "trial 1 (2 of 2)")]


def test_the_search_ends_when_no_other_trial_is_worth_it_and_says_what_is_left(make_plan, tmp_path) -> None:
    """The slots change nothing, which it does not know, and the speed all."""
    plan = make_plan(
        "search.slots=[0, 1, 2, 3, 4, 5, 6, 7]", "baseline.slots=0", "limits.trials=32", "confirm={top: 1}"
    )
    said, shown, executed = [], [], Executed()

    class Recording(Quiet):
        def started(self, record: Record, what: str) -> None:
            shown.append(what)

    with Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        engine = LocalEngine("here", stop, executed, in_turns=False)
        Sweep(plan, study, stop, Recording(), engine, say=said.append).run()
        tried = [record for record in study.records.records if record.phase == "search" and not record.second_look]
    assert 6 <= len(tried) < 32 and max(speeds(tried)) == 80
    assert f"search done after {len(tried)} trials: another trial is expected to bring 0." in said[0]
    assert said[0].endswith(f"at most, {32 - len(tried)} configurations are left")
    assert "expected" in shown[1] and "expected" not in shown[0]
    windows = [spec.seconds for spec in executed.specs]
    assert windows[: len(tried)] == len(tried) * [0.1] and set(windows[len(tried) :]) == {0.2}, "first looks are short"
    assert sweep(plan, tmp_path, Executed(crash_at=0)), "nothing is left to do"


def test_a_search_that_ends_for_lack_of_time_says_so(make_plan, tmp_path) -> None:
    plan, said = make_plan("limits.minutes=0.1", "confirm={top: 1}"), []
    with Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        engine = LocalEngine("here", stop, Executed(), in_turns=False)
        Sweep(plan, study, stop, Quiet(), engine, say=said.append).run()
    assert said[0].startswith("search done after 1 trial: another trial is expected to bring ")
    assert said[0].endswith("3 configurations are left, but no time for another")


def test_a_small_space_is_exhausted_and_no_more(make_plan, tmp_path) -> None:
    assert sorted(speeds(sweep(make_plan("limits.trials=9"), tmp_path))) == [10, 20, 40, 80]


@pytest.mark.parametrize("sampler", ["auto", "tpe", "random", "grid"])
def test_the_same_seed_asks_the_same(make_plan, tmp_path, sampler: str) -> None:
    plan = make_plan(f"sampler.name={sampler}", "search.speed={low: 1, high: 500, log: true}", "limits.trials=5")
    assert speeds(sweep(plan, tmp_path / "a")) == speeds(sweep(plan, tmp_path / "b"))


@pytest.mark.parametrize("crash_at", range(6))
def test_after_a_crash_each_repeat_is_recorded_once_and_the_search_is_the_same(make_plan, tmp_path, crash_at) -> None:
    plan = make_plan("measure.repeats=2", "search.speed={low: 1, high: 500}")
    whole = sweep(plan, tmp_path / "whole")
    with pytest.raises(Crash):
        sweep(plan, tmp_path / "cut", Executed(crash_at))
    executed = Executed()
    records = sweep(plan, tmp_path / "cut", executed)
    assert len(executed.specs) == 6 - crash_at
    assert [(r.trial, r.repeat, r.params) for r in records] == [(r.trial, r.repeat, r.params) for r in whole]
    assert sweep(plan, tmp_path / "cut", Executed(crash_at=0)) == records  # nothing is left to do


def test_a_repeat_is_recorded_before_it_is_explained(make_plan, tmp_path, monkeypatch) -> None:
    def dies(*_: object, **__: object) -> Record:
        raise Crash

    plan = make_plan("limits.trials=1")
    with monkeypatch.context() as patch, Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        patch.setattr(Prediction, "learn", dies)
        engine = LocalEngine("here", stop, Executed(), in_turns=False)
        with pytest.raises(Crash):
            Sweep(plan, study, stop, Quiet(), engine, prediction=Prediction(plan)).run()
    (record,) = sweep(plan, tmp_path, Executed(crash_at=0))
    assert record.state == "complete"


def test_no_verdict_proposes_what_the_search_has_found_to_be_slower(make_plan, tmp_path, monkeypatch) -> None:
    described = "trainer=tests.harness.described_trainer:DescribedTrainer"
    plan, finished = make_plan(described, "sampler.name=grid", "limits.trials=4"), list[Record]()
    remedies = Remedy("speed", "lower {}"), Remedy("speed", "more {}")
    monkeypatch.setattr(type(plan.trainer), "remedies", lambda *_: remedies)
    prediction = Prediction(plan, Ceilings("m", 2))
    with Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        engine, display = LocalEngine("here", stop, Executed(), in_turns=False), Quiet()
        monkeypatch.setattr(display, "finished", finished.append)
        Sweep(plan, study, stop, display, engine, prediction=prediction).run()
        records = study.records.records
    first = {record.params["speed"]: record.verdict.partition("; try ")[2] for record in finished}
    assert first[20] == "lower speed, more speed", "nothing else had been measured"
    last = {record.params["speed"]: record.verdict.partition("; try ")[2] for record in records}
    # beyond the ends of the space nothing was searched
    assert last == {10: "lower speed, more speed", 20: "more speed", 40: "more speed", 80: "more speed"}
    with Study(plan.folder(tmp_path)) as study:
        assert [record.verdict for record in study.records.records] == [record.verdict for record in records]


def test_a_crash_between_record_and_journal_is_made_good(make_plan, tmp_path) -> None:
    plan = make_plan()
    folder = plan.folder(tmp_path)
    first = sweep(make_plan("limits.trials=2"), tmp_path)
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):  # a journal that lost its last lines, and is cut in the middle of one
        (folder / JOURNAL).write_bytes(b"".join(lines[:kept]) + lines[kept][:7])
        (folder / "trials.jsonl").write_text("".join(json.dumps(r.flat()) + "\n" for r in first))
        records = sweep(plan, tmp_path)
        assert [r.trial for r in records] == [0, 1, 2]
        assert records[:2] == first
        with Study(folder) as study:
            told = study.open_optuna(["maximize"]).trials
        assert [t.state for t in told] == [optuna.trial.TrialState.COMPLETE] * 3
        assert [t.params["speed"] for t in told] == speeds(records)


def test_over_budget_is_infeasible_with_its_items_and_is_never_started(make_plan, tmp_path) -> None:
    space = ("search.host_bytes=[1000, 9000000000000000]", "baseline.host_bytes=1000", "limits.trials=8")
    plan = make_plan(*space, "sampler.name=tpe")
    executed = Executed()
    records = sweep(plan, tmp_path, executed)
    infeasible = [r for r in records if r.state == "infeasible"]
    assert len(infeasible) == 4 and len(executed.specs) == 4
    assert all(spec.settings["host_bytes"] == 1000 for spec in executed.specs)
    assert "ring" in infeasible[0].error and infeasible[0].budget_host_bytes == 9_000_000_000_000_000
    with Study(plan.folder(tmp_path)) as study:
        trials = study.open_optuna(["maximize"]).trials
    assert [t.state.name for t in trials].count("PRUNED") == 4
    pruned = next(t for t in trials if t.state.name == "PRUNED")
    assert pruned.constraints["memory"] > 0 and "ring" in pruned.user_attrs["infeasible"]


def test_a_failing_trial_is_recorded_and_the_study_goes_on(make_plan, tmp_path) -> None:
    plan = make_plan("search.behaviour=[good, fail]", "search.speed=[20]", "limits.trials=2")
    records = sweep(plan, tmp_path)
    assert [r.state for r in records] == ["complete", "failed"]
    assert records[1].error == "ValueError: the physics exploded in environment 3"
    assert math.isnan(records[1].env_steps_per_second)


def test_constraints_keep_a_fast_but_infeasible_trial_from_being_best(make_plan, tmp_path) -> None:
    plan = make_plan("constraints={policy_lag_mean: {max: 0.5}}", "limits.trials=4")
    records = sweep(plan, tmp_path)
    best = ranking(records, plan.suite)[0]
    assert records[best].params == {"speed": 40}  # a speed of 80 has a lag of 0.8


def test_two_objectives_rank_the_pareto_front(make_plan, tmp_path) -> None:
    plan = make_plan("objectives=[env_steps_per_second, policy_lag_mean]", "limits.trials=4")
    records = sweep(plan, tmp_path)
    assert [records[t].params["speed"] for t in ranking(records, plan.suite)] == [80, 40, 20, 10]
    one = make_plan("objectives=[env_steps_per_second, episode_return]", "limits.trials=4")
    records = sweep(one, tmp_path)
    assert [records[t].params["speed"] for t in ranking(records, one.suite)] == [80]


def test_what_is_not_confirmed_pushes_nothing_that_is_off_the_front(make_plan) -> None:
    suite = make_plan("objectives=[env_steps_per_second, episode_return]").suite

    def record(trial: int, value: float, phase: str = "search") -> Record:
        return Record(
            "s", trial, int(phase == "confirm"), "complete", phase, env_steps_per_second=value, episode_return=value
        )  # fmt: skip

    searched = [record(trial, value) for trial, value in enumerate((5.0, 8.0, 9.0, 3.0))]
    assert ranking(searched, suite) == [2]
    confirmed = [record(0, 4.0, "confirm"), record(2, 7.5, "confirm")]
    assert ranking([*searched, *confirmed], suite) == [2, 1]  # 0 is dominated by 2, as 3 is; 1 only looks better
    assert ranking([*searched, *confirmed], suite, "search") == [2]


@pytest.mark.parametrize(
    "overrides",
    [
        ("constraints={learner_busy_fraction: {min: 0.5}}",),
        ("objectives=[env_steps_per_second, learner_busy_fraction]",),
    ],
)
def test_a_confirmed_winner_never_loses_to_what_its_confirmation_did_not_measure(make_plan, overrides) -> None:
    suite = make_plan(*overrides).suite

    def record(trial: int, value: float, busy: float, phase: str = "search") -> Record:
        return Record(
            "s", trial, int(phase == "confirm"), "complete", phase, env_steps_per_second=value,
            learner_busy_fraction=busy,
        )  # fmt: skip

    searched = [record(0, 4.0, 0.9), record(1, 9.0, 0.9), record(2, 8.0, 0.9), record(3, 99.0, 0.1)]
    confirmed = [record(trial, 4.0 + trial, math.nan, "confirm") for trial in (0, 1)]
    assert ranking([*searched, *confirmed], suite)[0] == 1
    late = dataclasses.replace(confirmed[1], learner_busy_fraction=0.2)
    assert ranking([*searched, confirmed[0], late], suite)[0] == (0 if suite.constraints.metrics else 1)


def test_a_target_that_the_confirmation_did_not_reach_is_a_result(make_plan) -> None:
    suite = make_plan("objectives=[seconds_to_return]", "measure.target_return=5").suite
    searched = [Record("s", trial, 0, "complete", seconds_to_return=9.0 - trial) for trial in (0, 1)]
    confirmed = [Record("s", t, 1, "complete", "confirm", seconds_to_return=s) for t, s in ((0, 9.0), (1, math.nan))]
    assert ranking([*searched, *confirmed], suite) == [0]


def test_confirmation_takes_turns_and_decides(make_plan, tmp_path) -> None:
    plan = make_plan("confirm={top: 2, repeats: 2}", "limits.trials=4")
    records = [r for r in sweep(plan, tmp_path) if r.phase == "confirm"]
    turns = [(r.params["speed"], r.repeat) for r in records]
    assert sorted(turns) == [(20, 1), (20, 2), (40, 1), (40, 2), (80, 1), (80, 2)]
    assert [speed for speed, _ in turns[3:]] == [speed for speed, _ in turns[2::-1]], "there and back"
    assert {r.confirm_repeats for r in records} == {2}
    with pytest.raises(Crash):
        sweep(plan, tmp_path / "cut", Executed(crash_at=6))
    resumed = [r for r in sweep(plan, tmp_path / "cut") if r.phase == "confirm"]
    assert [(r.params["speed"], r.repeat) for r in resumed] == turns


def test_more_repeats_that_are_asked_for_after_a_look_make_it_two(make_plan, tmp_path) -> None:
    looks = []
    for repeats in (2, 2, 6):
        plan = make_plan(f"confirm={{top: 1, repeats: {repeats}}}", "limits.trials=4")
        records = sweep(plan, tmp_path)
        looks.append((conclude(plan.suite, records).looks, sum(r.phase == "confirm" for r in records)))
    assert looks == [(1, 4), (1, 4), (2, 12)]
    assert [r.confirm_repeats for r in records if r.phase == "confirm"] == 4 * [2] + 8 * [6]


def test_repeats_have_seeds_of_their_own(make_plan, tmp_path) -> None:
    records = sweep(make_plan("search={}", "baseline={}", "measure.repeats=3", "fixed.seed=5"), tmp_path)
    assert [r.seed for r in records] == [5, 6, 7]
    assert [r.episode_return for r in records] == [1005.0, 1006.0, 1007.0]


def test_contradicting_settings_fail_their_trial_only(make_plan, tmp_path, monkeypatch) -> None:
    from tests.harness.fake_trainer import FakeTrainer
    from unilab.settings import SettingsError

    plan = make_plan("limits.trials=4")

    def check(self: FakeTrainer, settings: dict) -> None:
        if settings["speed"] == 80:
            raise SettingsError("speed", "80 does not go with this environment")

    monkeypatch.setattr(FakeTrainer, "check", check)
    states = {r.params["speed"]: (r.state, r.error) for r in sweep(plan, tmp_path)}
    assert states[80] == ("failed", "speed: 80 does not go with this environment")
    assert states[40] == ("complete", None)


def test_time_limit_stops_the_search_but_not_before_the_baseline(make_plan, tmp_path) -> None:
    assert [r.trial for r in sweep(make_plan("limits.minutes=0.001"), tmp_path)] == [0]


def test_a_signal_before_a_repeat_leaves_the_study_resumable(make_plan, tmp_path) -> None:
    plan = make_plan()
    with Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        stop.signum = 2
        with pytest.raises(Stopped):
            Sweep(plan, study, stop, Quiet(), LocalEngine("here", stop, Executed(), in_turns=False)).run()
    assert [r.trial for r in sweep(plan, tmp_path)] == [0, 1, 2]


def test_one_process_holds_a_study(make_plan, tmp_path) -> None:
    folder = make_plan().folder(tmp_path)
    with Study(folder), pytest.raises(UserError, match=r"process \d+ on .* works on this study"):
        Study(folder)
    with Study(folder):
        pass


def test_lists_travel_through_optuna(make_plan, tmp_path) -> None:
    plan = make_plan("search={layers: [[8], [16, 16]]}", "baseline={}", "limits.trials=2")
    assert [r.params["layers"] for r in sweep(plan, tmp_path)] == [[8], [16, 16]]


def test_proposals_are_new_until_the_space_is_empty() -> None:
    space = Space({
        "a": CategoricalDistribution([1, "x", None]), "b": FloatDistribution(0.0, 1.0, step=0.5),
        "c": IntDistribution(2, 8, step=3),
    })  # fmt: skip
    for sampler in ("tpe", "random", "grid"):
        study = optuna.create_study()
        seen = []
        while (params := propose(study, space, sampler, seed=0)) is not None:
            assert params not in seen
            seen.append(params)
            study.enqueue_trial(params)
            study.tell(study.ask(dict(space.dimensions)), 1.0)
        assert len(seen) == space.size == 27


def test_a_short_search_learns_from_its_first_third() -> None:
    space = Space({"x": FloatDistribution(0.0, 1.0)})

    def ninth(trials: int, best: float) -> Params | None:
        study = optuna.create_study()
        for number in range(8):
            study.enqueue_trial({"x": number / 8})
            study.tell(study.ask(dict(space.dimensions)), abs(number / 8 - best))
        return propose(study, space, "tpe", seed=0, trials=trials)

    assert ninth(12, 0.1) != ninth(12, 0.9), "it goes by what was measured"
    assert ninth(30, 0.1) == ninth(30, 0.9), "it is drawn at random"


def test_best_configuration_states_every_setting(make_plan, tmp_path) -> None:
    from harness.runs import training

    plan = make_plan("limits.trials=4", "fixed.layers=[3, 4]")
    with Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        Sweep(plan, study, stop, Quiet(), LocalEngine("here", stop, Executed(), in_turns=False)).run()
        path = write_best(plan, study)
    job = training.load(path)
    assert job.settings == plan.trainer.defaults() | {"speed": 80, "layers": [3, 4], "env": "Fake"}


def test_what_limits_a_configuration() -> None:
    def busy(collector: float, learner: float, **settings) -> str:
        record = Record("s", 0, 0, "complete", collector_busy_fraction=collector, learner_busy_fraction=learner)
        return ReportedTrial(0, (record,)).limited_by(settings, 2).partition(":")[0]

    assert busy(0.99, 0.5) == "collector-bound"
    assert busy(0.4, 0.95) == busy(0.95, 0.96) == "learner-bound"
    assert busy(0.3, 0.4) == "latency-bound"
    assert busy(0.3, 0.6, mode="sync") == "in turns"
    assert busy(0.05, 0.9, mode="sync") == "learner-bound"
    assert busy(math.nan, 0.2) == "not known"
    assert busy(0.0, 0.0) == "not known"
    assert busy(0.3, 0.7) == busy(0.69, 0.3) == "in turns", "it comes to taking turns"


@pytest.mark.parametrize(
    ("threads", "limit"), [("env 700, learner 300", "core-bound"), ("env 1", "learner-bound"), ("", "learner-bound")]
)
def test_two_busy_sides_with_more_threads_than_cores_are_bound_by_these(threads: str, limit: str) -> None:
    record = Record("s", 0, 0, "complete", collector_busy_fraction=0.98, learner_busy_fraction=0.99, threads=threads)
    assert ReportedTrial(0, (record,)).limited_by({}, 64).partition(":")[0] == limit


class Disturbed(Executed):
    """The repeats with these numbers, counted over all attempts, are disturbed."""

    def __init__(self, disturbed: set[int], crash_at: int | None = None, done: int = 0) -> None:
        super().__init__(crash_at)
        self.disturbed, self.done = disturbed, done

    def __call__(self, spec: TrialSpec, limits: RepeatLimits, stop: StopSignal, on_progress) -> Outcome:
        outcome = super().__call__(spec, limits, stop, on_progress)
        if self.done + len(self.specs) - 1 in self.disturbed:
            outcome.result |= {"disturbed": "other processes took 1 of 2 cores", "env_steps_per_second": 1.0}
        return outcome


RETRIES = "measure.disturbed_retries=2"


def attempts(records: list[Record]) -> list[tuple[int, int, int, bool]]:
    return [(r.trial, r.repeat, r.attempt, bool(r.disturbed)) for r in records]


def test_a_disturbed_repeat_is_kept_and_measured_again_and_the_last_attempt_counts(make_plan, tmp_path) -> None:
    plan = make_plan("limits.trials=2", "measure.repeats=2", RETRIES)
    records = sweep(plan, tmp_path, Disturbed({0, 4, 5, 6}))
    assert attempts(records) == [
        (0, 0, 0, True), (0, 0, 1, False), (0, 1, 0, False),
        (1, 0, 0, False), (1, 1, 0, True), (1, 1, 1, True), (1, 1, 2, True),
    ]  # fmt: skip
    assert len({r.log for r in records}) == len(records)
    assert [r.seed for r in records] == [0, 0, 1, 0, 1, 1, 1]
    with Study(plan.folder(tmp_path)) as study:
        assert study.open_optuna(["maximize"]).trials[0].value == 2000  # the disturbed 1.0 does not count
        assert [r.attempt for r in study.of_trial(1)] == [0, 2]
        told = study.open_optuna(["maximize"]).trials[1].value
    assert told == (100 * records[3].params["speed"] + 1) / 2


def test_no_retries_when_none_are_wanted_or_no_time_is_left(make_plan, tmp_path) -> None:
    always = set(range(99))
    none = make_plan("limits.trials=1", "measure.disturbed_retries=0")
    assert attempts(sweep(none, tmp_path, Disturbed(always))) == [(0, 0, 0, True)]
    late = make_plan("limits.trials=1", "limits.minutes=0.01", RETRIES)
    assert attempts(sweep(late, tmp_path, Disturbed(always))) == [(0, 0, 0, True)]


@pytest.mark.parametrize("crash_at", range(1, 6))
def test_a_crash_between_attempts_goes_on_with_the_next_one(make_plan, tmp_path, crash_at: int) -> None:
    plan, disturbed = make_plan("limits.trials=2", "confirm={top: 1, repeats: 1}", RETRIES), {0, 1, 3, 5}
    whole = attempts(sweep(plan, tmp_path / "whole", Disturbed(disturbed)))
    assert len(whole) == 2 + 5 + 2
    with pytest.raises(Crash):
        sweep(plan, tmp_path / "cut", Disturbed(disturbed, crash_at))
    assert attempts(sweep(plan, tmp_path / "cut", Disturbed(disturbed, done=crash_at))) == whole


def test_only_the_newest_repeat_of_an_earlier_run_is_measured_again(make_plan, tmp_path) -> None:
    plan = make_plan("limits.trials=2", "confirm={top: 1, repeats: 2}", RETRIES)
    kept = [*sweep(plan, tmp_path)]
    kept[-4:] = [dataclasses.replace(record, disturbed="others") for record in kept[-4:]]
    lines = "".join(json.dumps(record.flat()) + "\n" for record in kept)
    (plan.folder(tmp_path) / "trials.jsonl").write_text(lines)
    again = attempts(sweep(plan, tmp_path))[len(kept) :]
    assert again == [(kept[-1].trial, 2, 1, False)]  # the last one of the block


class FailsAgain(Disturbed):
    """Whatever is tried again fails."""

    def __call__(self, spec: TrialSpec, limits: RepeatLimits, stop: StopSignal, on_progress) -> Outcome:
        outcome = super().__call__(spec, limits, stop, on_progress)
        return Outcome("timeout", error="too slow") if "-again-" in spec.folder else outcome


def test_a_retry_that_fails_leaves_the_number_that_there_was(make_plan, tmp_path) -> None:
    plan = make_plan("limits.trials=1", RETRIES)
    assert [r.state for r in sweep(plan, tmp_path, FailsAgain({0}))] == ["complete", "timeout"]
    with Study(plan.folder(tmp_path)) as study:
        assert [(r.state, r.attempt) for r in study.of_trial(0)] == [("complete", 0)]
        assert study.open_optuna(["maximize"]).trials[0].value == 1.0
    assert len(sweep(plan, tmp_path, Executed(crash_at=0))) == 2  # nothing is left to do


def test_a_record_says_what_it_was_measured_with(make_plan, tmp_path) -> None:
    plan = make_plan("limits.trials=1")
    record = sweep(plan, tmp_path)[0]
    assert record.suite_hash == plan.suite.study_id() and record.study.startswith(record.suite_hash)
    assert record.threads == "env 2, learner 1"
    assert "torch 2" in record.versions and "mujoco " in record.versions
    with Study(plan.folder(tmp_path)) as study:
        assert (record.commit, record.dirty) == (study.commit, study.dirty)


REACHED = "measure={warmup_seconds: 0.01, return_at: {env_steps: 2000}, target_return: 400}"


def test_return_at_a_budget_and_seconds_to_a_return_make_a_pareto_front(make_plan, tmp_path) -> None:
    plan = make_plan(REACHED, "objectives=[return_at_budget, seconds_to_return]", "limits.trials=4")
    records = sweep(plan, tmp_path)
    assert all(r.env_steps == 2000 for r in records)
    found = {r.params["speed"]: (r.return_at_budget, r.seconds_to_return) for r in records}
    assert found[80] == (800.0, pytest.approx(0.1)) and found[40] == (400.0, pytest.approx(0.1))
    assert math.isnan(found[20][1]) and math.isnan(found[10][1])
    assert [records[t].params["speed"] for t in ranking(records, plan.suite)] == [80]


def test_a_target_that_is_not_reached_is_a_constraint_and_no_time_is_made_up(make_plan, tmp_path) -> None:
    plan = make_plan(REACHED, "objectives=[seconds_to_return]", "limits.trials=4")
    records = sweep(plan, tmp_path)
    with Study(plan.folder(tmp_path)) as study:
        trials = {t.params["speed"]: t for t in study.open_optuna(["minimize"]).trials}
    assert {speed: t.state.name for speed, t in trials.items()} == {
        10: "PRUNED", 20: "PRUNED", 40: "COMPLETE", 80: "COMPLETE"
    }  # fmt: skip
    assert {speed: t.constraints["target_return"] for speed, t in trials.items()} == {10: 300, 20: 200, 40: 0, 80: 0}
    assert trials[20].user_attrs["infeasible"] == "the target return was not reached"
    speeds_of = {r.trial: r.params["speed"] for r in records}
    ranked = [speeds_of[trial] for trial in ranking(records, plan.suite)]
    assert set(ranked[:2]) == {40, 80} and ranked[2:] == [20, 10], "who does not reach it comes after, by its return"


def test_policies_that_are_judged_afterwards_say_when_the_environment_was_solved(make_plan, tmp_path) -> None:
    judged = "measure={warmup_seconds: 0.01, return_at: {env_steps: 2000}, judge: {every_seconds: 0.1, episodes: 80}}"
    plan = make_plan(judged, "objectives=[seconds_to_success]", "limits.trials=4")
    records = sweep(plan, tmp_path)
    found = {r.params["speed"]: r for r in records}
    assert {speed: one.seconds_to_success for speed, one in found.items() if speed >= 40} == {40: 0.4, 80: 0.2}
    assert math.isnan(found[20].seconds_to_success) and found[20].judged == {"error": 0.8, "success": 0.0}
    assert found[80].judged == {"error": 0.2, "success": 1.0}, "of the last one"
    lines = (plan.folder(tmp_path) / found[80].log / "judged.jsonl").read_text().splitlines()
    assert [json.loads(line)["wall_seconds"] for line in lines] == [0.1, 0.2, 0.5], "none between is judged"
    assert Record.from_flat(found[80].flat()) == found[80]
    with Study(plan.folder(tmp_path)) as study:
        trials = {t.params["speed"]: t for t in study.open_optuna(["minimize"]).trials}
    assert {speed: t.state.name for speed, t in trials.items()} == {
        10: "PRUNED", 20: "PRUNED", 40: "COMPLETE", 80: "COMPLETE"
    }  # fmt: skip
    assert trials[20].user_attrs["infeasible"] == "success was not reached"
    ranked = [records[trial].params["speed"] for trial in ranking(records, plan.suite)]
    assert ranked == [80, 40, 20, 10], "who does not reach it comes after, by its return"


def test_constraints_on_memory_and_return_keep_trials_from_being_best(make_plan, tmp_path) -> None:
    limits = "constraints={episode_return: {max: 500}, return_at_budget: {min: 150}, peak_host_bytes: {max: 1}}"
    plan = make_plan("measure={warmup_seconds: 0.01, return_at: {seconds: 0.1}}", limits, "limits.trials=4")
    records = sweep(plan, tmp_path)
    assert [records[t].params["speed"] for t in ranking(records, plan.suite)] == [40, 20]

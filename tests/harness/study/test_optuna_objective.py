"""A suite in an Optuna study of the user's own, with real processes."""

import dataclasses
import os
import signal
import threading
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import harness
from harness.measure.engines.local import execute
from harness.study import optuna_objective as own_study
from harness.study.optuna_objective import SuiteObjective
from harness.suite import schema as suites

SUITE = """\
name: own
trainer: tests.harness.fake_trainer:FakeTrainer
env: Fake
search:
  speed: [10, 20, 40, 80]
  inner.rate: {low: 0.5, high: 2.0}
measure: {warmup_seconds: 0.1, seconds: 0.2, disturbed_retries: 0}
limits: {trial_timeout_seconds: 60, progress_timeout_seconds: 60}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(harness.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(SUITE)


def study(objective: SuiteObjective) -> optuna.Study:
    return optuna.create_study(study_name="mine", directions=objective.directions)


def test_three_lines_serve_a_study() -> None:
    study = optuna.create_study(study_name="mine", direction="maximize")
    study.enqueue_trial({"speed": 80})
    study.optimize(harness.objective("own.yaml"), n_trials=2)
    first, second = study.trials
    assert first.params["speed"] == 80 and 0.5 <= first.params["inner.rate"] <= 2.0
    assert first.value == pytest.approx(8_000) and second.value == pytest.approx(100 * second.params["speed"])
    assert first.user_attrs["episode_return"] == 800.0 and first.user_attrs["peak_host_bytes"] > 2**20
    assert "seconds_to_return" not in first.user_attrs, "what was not measured is not there"
    assert Path(first.user_attrs["folder"]) == Path("runs/own/mine/0-0")
    assert (Path(first.user_attrs["folder"]) / "curve.jsonl").exists()
    assert first.constraints == {"memory": 0.0}


def test_a_suite_object_and_overrides_do_as_well() -> None:
    objective = harness.objective(
        suites.read("own.yaml").suite, ["measure.repeats=2", "objectives=[episode_return, policy_lag_mean]"], "out"
    )
    assert objective.directions == ["maximize", "minimize"]
    own = study(objective)
    own.enqueue_trial({"speed": 10})
    values = objective(own.ask())
    assert values == (100.5, pytest.approx(0.1)), "the mean return of seeds 0 and 1, and the lag"
    assert {path.name for path in Path("out/mine").iterdir()} == {"0-0", "0-1"}


def test_what_does_not_fit_is_pruned_with_its_reason_and_never_started() -> None:
    objective = harness.objective("own.yaml", ["search.host_bytes=[1000, 9000000000000000]"])
    own = study(objective)
    own.enqueue_trial({"host_bytes": 9_000_000_000_000_000, "speed": 10})
    own.optimize(objective, n_trials=1)
    (trial,) = own.trials
    assert trial.state == TrialState.PRUNED and trial.constraints["memory"] > 0
    assert "ring" in trial.user_attrs["infeasible"] and not Path("runs").exists()


def test_a_trial_that_fails_says_why_and_the_study_goes_on() -> None:
    arguments = ["search.behaviour=[good, fail]", "constraints={policy_lag_mean: {max: 0.15}}"]
    objective = harness.objective("own.yaml", arguments)
    own = study(objective)
    own.enqueue_trial({"behaviour": "fail", "speed": 10})
    own.enqueue_trial({"behaviour": "good", "speed": 20})
    own.optimize(objective, n_trials=2)
    failed, good = own.trials
    assert failed.state == TrialState.FAIL
    cause, _, traceback = failed.user_attrs["failed"].partition("; traceback: ")
    assert cause == "ValueError: the physics exploded in environment 3" and Path(traceback).is_file()
    assert good.state == TrialState.COMPLETE and good.constraints["policy_lag_mean"] == pytest.approx(0.05)


def test_the_studys_own_pruner_ends_a_trial() -> None:
    """Endless trials: a threshold above any return ends the process at the first part of its budget."""
    arguments = ["objectives=[episode_return]", "fixed.behaviour=endless", "measure.seconds=5"]
    objective = harness.objective("own.yaml", arguments)
    own = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=1e6))
    own.optimize(objective, n_trials=1)
    (trial,) = own.trials
    assert trial.state == TrialState.PRUNED and len(trial.intermediate_values) == 1
    (percent,) = trial.intermediate_values
    assert 0 < percent < 100 and percent % 10 == 0
    assert trial.user_attrs["pruned"].startswith("pruned at ") and trial.value == 10.0 * trial.params["speed"]


@pytest.mark.parametrize("lower", [-1e9, 500.0])
def test_a_disturbed_attempt_leaves_its_trial_no_curve(monkeypatch: pytest.MonkeyPatch, lower: float) -> None:
    """The attempt that counts has returns of its own, and the pruner is asked for them, not for the first attempt's."""
    speeds = iter((80, 10))

    def disturbed_at_first(spec, limits, stop, watch, *, cores):
        assert cores is None
        speed = next(speeds)
        outcome = execute(dataclasses.replace(spec, settings={**spec.settings, "speed": speed}), limits, stop, watch)
        if speed == 80:
            outcome.result |= {"disturbed": "other processes took 1 of 2 cores", "disturbance": 1e6}
        return outcome

    monkeypatch.setattr(own_study, "execute", disturbed_at_first)
    arguments = ["objectives=[episode_return]", "fixed.real_clock=true", "measure.warmup_seconds=0.1"]
    objective = harness.objective("own.yaml", [*arguments, "measure.seconds=1.5", "measure.disturbed_retries=1"])
    own = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=lower))
    own.optimize(objective, n_trials=1)
    (trial,) = own.trials
    assert next(speeds, None) is None, "both attempts ran"
    assert trial.state == (TrialState.PRUNED if lower == 500.0 else TrialState.COMPLETE)
    assert set(trial.intermediate_values.values()) == {100.0} and trial.value == 100.0


def test_directions_of_another_suite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has the directions \['maximize'\], the study \['minimize'\]"):
        optuna.create_study(direction="minimize").optimize(harness.objective("own.yaml"), n_trials=1)


def test_trials_side_by_side_are_refused() -> None:
    objective = harness.objective("own.yaml")
    trial = study(objective).ask()
    problems: list[RuntimeError] = []

    def call() -> None:
        try:
            objective(trial)
        except RuntimeError as error:
            problems.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "use n_jobs=1" in str(problems[0])


def test_a_signal_ends_the_study_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(spec, limits, stop, watch, **_):
        def at_once(progress: dict) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        return execute(spec, limits, stop, at_once)

    monkeypatch.setattr(own_study, "execute", interrupted)
    objective = harness.objective("own.yaml", ["fixed.behaviour=endless"])
    own = study(objective)
    with pytest.raises(KeyboardInterrupt):
        own.optimize(objective, n_trials=1)
    assert own.trials[0].state == TrialState.FAIL

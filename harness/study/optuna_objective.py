"""A suite as the objective of an Optuna study that the user owns: sampler, pruner, storage and limits are the study's.

What the suite says of the environment, the trainer, the settings that are fixed, the search space, the objectives with
their directions, the constraints and the measurement is used; its sampler, pruner, confirmation and limits of trials
and minutes are not. Each repeat runs in a fresh process, as in a study of the harness.
"""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.files.yaml_file import to_yaml
from harness.measure import provenance
from harness.measure.process import RepeatLimits, execute
from harness.measure.record import Record, attempts_that_count, typical
from harness.measure.repeat import TrialSpec
from harness.measure.stop import Stopped, StopSignal
from harness.predict import plan as plans
from harness.study.pruning import Checks
from harness.study.trial_state import judge, reason
from harness.suite.metrics import RETURNS
from harness.suite.schema import Pruner, Suite, parse
from harness.suite.space import Params
from unilab.settings import SettingsError

NAMED = (
    "env_steps_per_second", "samples_per_second", "episode_return", "return_at_budget", "seconds_to_return",
    "policy_lag_mean", "peak_host_bytes", "wall_seconds",
)  # fmt: skip
"""metrics that every trial keeps as user attributes, where they were measured"""


class SuiteObjective:
    """Called with a trial, it returns the value of the suite's objective, or a tuple of values if there are several.

    The study needs the suite's ``directions``. A trial keeps its metrics, the folder of its output and the commit as
    user attributes, and its constraints as Optuna's constraints. It is pruned if its configuration does not fit or
    contradicts itself (with the reason as the user attribute ``infeasible``), or if the study's own pruner says so: a
    single objective that is a return is reported by percent of its budget, when the attempt that counts is over. A
    trial that fails has the value NaN, which Optuna records as failed; the user attribute ``failed`` or ``timeout``
    says why.
    """

    def __init__(
        self, suite: Suite | Path | str, overrides: Sequence[str] = (), folder: Path | str | None = None
    ) -> None:
        if isinstance(suite, Suite):
            self.plan = plans.complete(parse(to_yaml(suite.to_dict()), suite.name, overrides))
        else:
            self.plan = plans.make(suite, overrides)
        self.folder = Path("runs") / self.plan.suite.name if folder is None else Path(folder)

    @property
    def directions(self) -> list[str]:
        """As ``optuna.create_study`` takes them."""
        return [objective.direction for objective in self.plan.suite.objectives]

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """Measure what ``trial`` suggests.

        Raises:
            optuna.TrialPruned: see above.
            ValueError: the study's directions are not the suite's.
            RuntimeError: called from a thread: trials that run side by side share the cores that they measure.
            KeyboardInterrupt: SIGINT ended the measurement; SystemExit after SIGTERM.
        """
        self._check(trial.study)
        suggested = {name: trial._suggest(name, one) for name, one in self.plan.space.dimensions.items()}
        params = self.plan.effective(self.plan.space.decode(suggested))
        try:
            with StopSignal() as stop:
                records = self._measure(trial, params, stop)
        except Stopped as stopped:
            raise (KeyboardInterrupt() if stopped.exit_code == 130 else SystemExit(stopped.exit_code)) from None
        return self._tell(trial, records)

    def _check(self, study: optuna.Study) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("trials that run side by side share the cores that they measure; use n_jobs=1")
        given = [direction.name.lower() for direction in study.directions]
        if given != self.directions:
            raise ValueError(
                f"the suite {self.plan.suite.name} has the directions {self.directions}, the study {given}; "
                "create it with directions=objective.directions"
            )

    def _measure(self, trial: optuna.Trial, params: Params, stop: StopSignal) -> list[Record]:
        try:
            self.plan.trainer.check(self.plan.settings(params))
            verdict = self.plan.verdict(params)
        except SettingsError as error:
            return [self._record(trial, 0, 0, params, state="infeasible", error=str(error))]
        if not verdict.fits:
            return [self._record(trial, 0, 0, params, state="infeasible", error=verdict.reason)]
        measure, limits = self.plan.suite.measure, self.plan.suite.limits
        most = RepeatLimits(limits.trial_timeout_seconds, limits.progress_timeout_seconds, verdict.host_limit)
        records: list[Record] = []
        for repeat in range(measure.repeats):
            watchers: list[_Watcher | None] = []
            for attempt in range(1 + measure.disturbed_retries):
                watch = self._watcher(trial) if repeat == 0 else None  # the first repeat decides for its trial
                watchers.append(watch)
                record = self._record(trial, repeat, attempt, params)
                seed = {"seed": record.seed} if "seed" in self.plan.trainer.defaults() else {}
                trainer, settings = self.plan.launch(params | seed)
                spec = TrialSpec.of(self.plan.suite.measure, trainer, settings, Path(record.log))
                records.append(execute(spec, most, stop, watch or _see_nothing).added_to(record))
                if records[-1].state == "pruned" or not records[-1].disturbed:
                    break
            (counted,) = attempts_that_count(record for record in records if record.repeat == repeat)
            if (watch := watchers[counted.attempt]) is not None:
                watch.report()
            if records[-1].state == "pruned":
                break
        return records

    def _record(self, trial: optuna.Trial, repeat: int, attempt: int, params: Params, **values: Any) -> Record:
        base = int(self.plan.settings(params).get("seed", self.plan.suite.sampler.seed))
        name = f"{trial.number}-{repeat}" + (f"-again-{attempt}" if attempt else "")
        default: dict[str, Any] = {"state": "failed"}
        code = provenance.commit()
        return Record(
            study=trial.study.study_name, trial=trial.number, repeat=repeat, params=params, seed=base + repeat,
            attempt=attempt, started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=code.commit, dirty=code.dirty, log=str(self.folder / trial.study.study_name / name),
            **(default | values),
        )  # fmt: skip

    def _watcher(self, trial: optuna.Trial) -> "_Watcher | None":
        suite = self.plan.suite
        if len(suite.objectives) > 1 or suite.objectives[0].metric not in RETURNS:
            return None
        return _Watcher(trial, Checks(suite, suite.pruner or Pruner()))

    def _tell(self, trial: optuna.Trial, records: Sequence[Record]) -> float | tuple[float, ...]:
        counted = attempts_that_count(records)
        state, values, constraints = judge(self.plan.suite, counted)
        for key, value in constraints.items():
            trial.set_constraint(key, value)
        metrics = {name: typical(counted, name) for name in NAMED}
        described = {"folder": records[-1].log, "commit": records[-1].commit, **reason(self.plan.suite, counted)}
        for key, attribute in {**{k: v for k, v in metrics.items() if v == v}, **described}.items():
            trial.set_user_attr(key, attribute)
        if state == TrialState.PRUNED:
            raise optuna.TrialPruned(next(iter(reason(self.plan.suite, counted).values())))
        if values is None or state == TrialState.FAIL:
            values = [float("nan")] * len(self.plan.suite.objectives)
        return values[0] if len(values) == 1 else tuple(values)


class _Watcher:
    """One attempt at a repeat: its curve of returns, for which it asks the study's pruner.

    A trial takes one value for a part of the budget, the first. It gets the curve of the attempt that counts, when that
    is over, and so the pruner is asked here: ``trial.should_prune`` knows only what the trial has got.
    """

    def __init__(self, trial: optuna.Trial, checks: Checks) -> None:
        self._trial = trial
        self._checks = checks

    def __call__(self, progress: dict[str, Any]) -> str | None:
        """Why the attempt should end now, or None."""
        if not self._checks.add(progress):
            return None
        study = self._trial.study
        running = next(t for t in study.get_trials(states=(TrialState.RUNNING,)) if t.number == self._trial.number)
        running.intermediate_values = dict(self._checks.values)
        if not study.pruner.prune(study, running):
            return None
        percent, value = list(self._checks.values.items())[-1]
        return f"pruned at {progress['env_steps']:,.0f} env steps: return {value:,.1f} at {percent} % of the budget"

    def report(self) -> None:
        for percent, value in self._checks.values.items():
            self._trial.report(value, percent)


def _see_nothing(progress: dict[str, Any]) -> None:
    return None

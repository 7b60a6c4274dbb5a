"""A suite as the objective of an Optuna study that the user owns: sampler, pruner, storage and limits are the study's.

What the suite says of the environment, the trainer, the settings that are fixed, the search space, the objectives with
their directions, the constraints and the measurement is used; its sampler, pruner, confirmation and limits of trials
and minutes are not. Each repeat runs in a fresh process, as in a study of the harness.
"""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from harness.files.yaml_file import to_yaml
from harness.measure import provenance
from harness.measure.process import execute
from harness.measure.record import Record, State, attempts_that_count, typical
from harness.measure.stop import Stopped, StopSignal
from harness.predict import plan as plans
from harness.study.optuna_trial import Checks, Told
from harness.suite.metrics import RETURNS
from harness.suite.schema import Pruner, Suite, parse
from harness.suite.space import Params

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
        suite = self.plan.suite
        verdict, problem = self.plan.possible(params)
        if problem is not None or not verdict.fits:
            return [self._record(trial, 0, 0, params, state="infeasible", error=problem or verdict.reason)]
        is_return = len(suite.objectives) == 1 and suite.objectives[0].metric in RETURNS
        records: list[Record] = []
        for repeat in range(suite.measure.repeats):
            curves: list[Checks] = []
            for attempt in range(1 + suite.measure.disturbed_retries):
                curves.append(Checks(suite, suite.pruner or Pruner()))
                # the first repeat decides for its trial
                watch = partial(_prune, trial, curves[-1]) if is_return and repeat == 0 else _see_nothing
                record = self._record(trial, repeat, attempt, params)
                spec = self.plan.spec(params, record.seed, Path(record.log))
                records.append(execute(spec, self.plan.limits(verdict), stop, watch).added_to(record))
                if records[-1].state == "pruned" or not records[-1].disturbed:
                    break
            (counted,) = attempts_that_count(record for record in records if record.repeat == repeat)
            for percent, value in curves[counted.attempt].values.items():
                trial.report(value, percent)
            if records[-1].state == "pruned":
                break
        return records

    def _record(
        self, trial: optuna.Trial, repeat: int, attempt: int, params: Params, state: State = "failed",
        error: str | None = None,
    ) -> Record:  # fmt: skip
        name = f"{trial.number}-{repeat}" + (f"-again-{attempt}" if attempt else "")
        code = provenance.commit()
        return Record(
            study=trial.study.study_name, trial=trial.number, repeat=repeat, params=params, state=state, error=error,
            seed=self.plan.first_seed(params) + repeat, attempt=attempt, commit=code.commit, dirty=code.dirty,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            log=str(self.folder / trial.study.study_name / name),
        )  # fmt: skip

    def _tell(self, trial: optuna.Trial, records: Sequence[Record]) -> float | tuple[float, ...]:
        counted = attempts_that_count(records)
        told = Told.of(self.plan.suite, counted)
        for key, value in told.constraints.items():
            trial.set_constraint(key, value)
        metrics = {name: typical(counted, name) for name in NAMED}
        described = {"folder": records[-1].log, "commit": records[-1].commit, **told.reason}
        for key, attribute in {**{k: v for k, v in metrics.items() if v == v}, **described}.items():
            trial.set_user_attr(key, attribute)
        if told.state == TrialState.PRUNED:
            raise optuna.TrialPruned(next(iter(told.reason.values())))
        values = told.values or [float("nan")] * len(self.plan.suite.objectives)
        return values[0] if len(values) == 1 else tuple(values)


def _prune(trial: optuna.Trial, curve: Checks, progress: dict[str, Any]) -> str | None:
    """Why an attempt should end now by the study's pruner, or None.

    A trial takes one value for a part of the budget, the first. It gets the curve of the attempt that counts, when that
    is over, and so the pruner is asked here: ``trial.should_prune`` knows only what the trial has got.
    """
    if not curve.add(progress):
        return None
    study = trial.study
    running = next(t for t in study.get_trials(states=(TrialState.RUNNING,)) if t.number == trial.number)
    running.intermediate_values = dict(curve.values)
    if not study.pruner.prune(study, running):
        return None
    percent, value = list(curve.values.items())[-1]
    return f"pruned at {progress['env_steps']:,.0f} env steps: return {value:,.1f} at {percent} % of the budget"


def _see_nothing(progress: dict[str, Any]) -> None:
    return None

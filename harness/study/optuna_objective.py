"""A suite as the objective of an Optuna study that the user owns: sampler, pruner, storage and limits are the study's.

What the suite says of the environment, the trainer, the settings that are fixed, the search space, the objectives with
their directions, the constraints and the measurement is used; its sampler, pruner, confirmation and limits of trials
and minutes are not. Each repeat runs in a fresh process, as in a study of the harness.
"""

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from harness.files.yaml_file import to_yaml
from harness.measure import provenance
from harness.measure.engines.local import execute
from harness.measure.record import Record, attempts_that_count, now, typical
from harness.measure.stop import Stopped, StopSignal
from harness.predict import plan as plans
from harness.study.optuna_trial import CurvePruner, Told
from harness.suite.metrics import METRICS, RETURNS
from harness.suite.schema import Pruner, Suite, parse
from harness.suite.space import Params


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
        suite = self.plan.suite
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("trials that run side by side share the cores that they measure; use n_jobs=1")
        given = [direction.name.lower() for direction in trial.study.directions]
        if given != self.directions:
            raise ValueError(
                f"the suite {suite.name} has the directions {self.directions}, the study {given}; "
                "create it with directions=objective.directions"
            )
        suggested = {name: trial._suggest(name, one) for name, one in self.plan.space.dimensions.items()}
        params = self.plan.effective(self.plan.space.decode(self.plan.space.drawn(suggested)))
        try:
            with StopSignal() as stop:
                records = self._measure(trial, params, stop)
        except Stopped as stopped:
            raise (KeyboardInterrupt() if stopped.exit_code == 130 else SystemExit(stopped.exit_code)) from None
        counted = attempts_that_count(records)
        told = Told.of(suite, counted)
        for key, excess in told.constraints.items():
            trial.set_constraint(key, excess)
        metrics = {name: typical(counted, name) for name in METRICS}
        described = {"folder": records[-1].log, "commit": records[-1].commit, **told.reason}
        for key, attribute in {**{k: v for k, v in metrics.items() if v == v}, **described}.items():
            trial.set_user_attr(key, attribute)
        if told.state == TrialState.PRUNED:
            raise optuna.TrialPruned(next(iter(told.reason.values())))
        values = told.values or [float("nan")] * len(suite.objectives)
        return values[0] if len(values) == 1 else tuple(values)

    def _measure(self, trial: optuna.Trial, params: Params, stop: StopSignal) -> list[Record]:
        suite, code = self.plan.suite, provenance.commit()
        fit = self.plan.fit(params)
        planned = Record(
            study=trial.study.study_name, trial=trial.number, repeat=0, params=params, state="infeasible",
            error=fit.problem or fit.reason, commit=code.commit, dirty=code.dirty,
            log=str(self.folder / trial.study.study_name / f"{trial.number}-"),
        )  # fmt: skip
        if planned.error is not None:
            return [dataclasses.replace(planned, log=f"{planned.log}0")]
        is_return = len(suite.objectives) == 1 and suite.objectives[0].metric in RETURNS
        records: list[Record] = []
        for repeat in range(suite.measure.repeats):
            pruners: list[CurvePruner] = []
            for attempt in range(1 + suite.measure.disturbed_retries):
                pruners.append(CurvePruner(suite, suite.pruner or Pruner(), trial.study, trial.number))
                # the first repeat decides for its trial
                watch = pruners[-1] if is_return and repeat == 0 else lambda progress: None
                record = dataclasses.replace(
                    planned, repeat=repeat, attempt=attempt, seed=self.plan.first_seed(params) + repeat,
                    started_at=now(), log=f"{planned.log}{repeat}" + (f"-again-{attempt}" if attempt else ""),
                )  # fmt: skip
                spec = self.plan.spec(params, record.seed, Path(record.log))
                outcome = execute(spec, self.plan.repeat_limits(fit), stop, watch, cores=suite.measure.cores)
                records.append(outcome.added_to(record))
                if records[-1].state == "pruned" or not records[-1].disturbed:
                    break
            (counted,) = attempts_that_count(record for record in records if record.repeat == repeat)
            # not before: a trial takes one value for a part of the budget, the first
            for percent, value in pruners[counted.attempt].values.items():
                trial.report(value, percent)
            if records[-1].state == "pruned":
                break
        return records

"""What Optuna is told of a trial: its state, values and constraints, and the learning curve that may prune it.

A trial is looked at at fixed parts of its budget: the seconds of warm-up and steady window, or ``return_at``. It ends
when its best return so far is below a percentile of what the completed trials had at the same part (for percentile 50
the median stopping rule of Golovin et al. 2017, Google Vizier).

The baseline and the confirmation are never pruned, so that a study compares nothing that was selected by its own curve.
Without ``pruner``, or with a second objective, a suite prunes nothing. The first repeat of a trial decides for it.

Decisions depend only on the curves that repeats leave in their folders: an interrupted study decides as it would have
without the interruption.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, PercentilePruner
from optuna.trial import TrialState, create_trial

from harness.measure.record import Record, read_curve, typical
from harness.suite.schema import Pruner, Suite

FAR = 1e30
"""in place of infinity, which not every storage of Optuna holds"""
Progress = Mapping[str, Any]
"""one line of a curve"""


@dataclass(frozen=True)
class Told:
    """A trial as Optuna has it when all its repeats are over."""

    state: TrialState
    values: list[float] | None
    constraints: dict[str, float]
    """0 or less is met"""
    reason: dict[str, str | None]
    """why it has no value, under its state: pruned, infeasible, failed or timeout"""

    @classmethod
    def of(cls, suite: Suite, records: Sequence[Record]) -> "Told":
        """The state, values and constraints that follow from the records of a trial.

        A target return that is not reached has no time, and none is made up. It is a constraint that is not met, by the
        return that is missing, so that the sampler looks elsewhere.
        """
        bounds, target = suite.constraints.metrics, suite.measure.target_return
        values = {objective.metric: typical(records, objective.metric) for objective in suite.objectives}
        constraints = {"memory": 0.0} | {m: min(b.excess(typical(records, m)), FAR) for m, b in bounds.items()}
        if "seconds_to_success" in values:
            constraints["success"] = float(math.isnan(values["seconds_to_success"]))
        if "seconds_to_return" in values:
            reached, short = typical(records, "episode_return"), 0.0
            if target is not None and math.isnan(values["seconds_to_return"]):
                short = FAR if math.isnan(reached) else max(target - reached, 1e-6)
            constraints["target_return"] = short
        states = {record.state for record in records}
        reason: dict[str, str | None] = next(({str(r.state): r.error} for r in records if r.state != "complete"), {})
        if states & {"infeasible", "pruned"}:
            memory = float("infeasible" in states)
            return cls(TrialState.PRUNED, None, dict.fromkeys(constraints, 0.0) | {"memory": memory}, reason)
        if "complete" in states:
            for name, what in (("target_return", "the target return"), ("success", "success")):
                if constraints.get(name, 0.0) > 0:
                    return cls(TrialState.PRUNED, None, constraints, {"infeasible": f"{what} was not reached"})
        missing = [metric for metric, value in values.items() if math.isnan(value)]
        if missing:
            unmeasured: dict[str, str | None] = {"failed": f"no value of {', '.join(missing)} was measured"}
            return cls(TrialState.FAIL, None, constraints, reason or unmeasured)
        return cls(TrialState.COMPLETE, list(values.values()), constraints, reason)


def part_of(suite: Suite, pruner: Pruner, progress: Progress) -> int | None:
    """The part of its budget, in percent, whose return a line of a curve may be; None: of no part.

    The return of a part is the first one from there on, before the next part.
    """
    measure, value, seconds = suite.measure, progress["episode_return"], float(progress["wall_seconds"])
    if measure.return_at is None:
        used = seconds / (measure.warmup_seconds + measure.steady_seconds)
    elif measure.return_at.seconds is not None:
        used = seconds / measure.return_at.seconds
    else:
        used = float(progress["env_steps"]) / (measure.return_at.env_steps or math.inf)
    percent = round(100 * pruner.interval_fraction)
    part = int(100 * used) // percent * percent
    return None if value is None or math.isnan(value) or not 0 < part < 100 else part


def checks_of(suite: Suite, curve: Path) -> dict[int, float]:
    """The returns that a repeat's ``curve.jsonl`` has at the parts of the budget; empty without a pruner."""
    values: dict[int, float] = {}
    if suite.pruner is None:
        return values
    for reading in read_curve(curve):
        part = part_of(suite, suite.pruner, reading)
        if part is not None:
            values.setdefault(part, reading["episode_return"])
    return values


class CurvePruner:
    """Looks at one repeat while it runs. Call it with every line of progress.

    Args:
        study: with the completed trials and their intermediate values, by percent of the budget.
        number: of the repeat's trial in a study whose own pruner decides; None: the suite's does.
    """

    def __init__(self, suite: Suite, pruner: Pruner, study: optuna.Study, number: int | None = None) -> None:
        self.values: dict[int, float] = {}
        """returns at the parts of the budget, in percent"""
        self._suite, self._pruner = suite, pruner
        self._study = study
        self._number = number
        self._rule: BasePruner = study.pruner
        if number is None:
            self._rule = PercentilePruner(
                100 - pruner.percentile,  # Optuna's is the part that is kept
                n_startup_trials=pruner.startup_trials,
                n_warmup_steps=math.ceil(100 * pruner.warmup_fraction),
            )

    def __call__(self, progress: Progress) -> str | None:
        """The reason why the trial should end now; None where it should not."""
        part = part_of(self._suite, self._pruner, progress)
        if part is None or part in self.values:
            return None
        self.values[part] = progress["episode_return"]
        values, running, why = self.values, create_trial(state=TrialState.RUNNING), ""
        if self._number is not None:
            running = self._study.get_trials()[self._number]
        running.intermediate_values = dict(values)
        if not self._rule.prune(self._study, running):
            return None
        if self._number is None:
            completed = len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
            why = f"is below percentile {self._pruner.percentile:g} of {completed} completed trials "
        best, percent = max(values.values()), max(values)
        return f"pruned at {progress['env_steps']:,.0f} env steps: return {best:,.1f} {why}at {percent} % of the budget"

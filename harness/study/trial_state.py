"""What the records of a trial's repeats mean to Optuna: its state, values and constraints."""

import math
from collections.abc import Sequence

from optuna.trial import TrialState

from harness.measure.record import Record, typical
from harness.suite.schema import Suite

FAR = 1e30
"""in place of infinity, which not every storage of Optuna holds"""

Judgement = tuple[TrialState, list[float] | None, dict[str, float]]


def judge(suite: Suite, records: Sequence[Record]) -> Judgement:
    """State, values and constraints (0 or less is met) of a trial.

    A target return that is not reached has no time, and none is made up: it is a constraint that is not met, by what
    is missing, so that the sampler looks elsewhere.
    """
    bounds = suite.constraints.metrics
    values = [typical(records, objective.metric) for objective in suite.objectives]
    constraints = {"memory": 0.0} | {m: min(b.excess(typical(records, m)), FAR) for m, b in bounds.items()}
    if any(objective.metric == "seconds_to_return" for objective in suite.objectives):
        constraints["target_return"] = short_of_target(suite, records)
    states = {record.state for record in records}
    if "infeasible" in states:
        return TrialState.PRUNED, None, dict.fromkeys(constraints, 0.0) | {"memory": 1.0}
    if "pruned" in states:
        return TrialState.PRUNED, None, dict.fromkeys(constraints, 0.0)
    if constraints.get("target_return", 0.0) > 0 and "complete" in states:
        return TrialState.PRUNED, None, constraints
    if any(math.isnan(value) for value in values):
        return TrialState.FAIL, None, constraints
    return TrialState.COMPLETE, values, constraints


def reason(suite: Suite, records: Sequence[Record]) -> dict[str, str | None]:
    """Why a trial has no value, under its state: pruned, infeasible, failed or timeout."""
    state, _, constraints = judge(suite, records)
    if constraints.get("target_return", 0.0) > 0 and state == TrialState.PRUNED:
        return {"infeasible": "the target return was not reached"}
    if state == TrialState.FAIL and all(record.state == "complete" for record in records):
        missing = [o.metric for o in suite.objectives if math.isnan(typical(records, o.metric))]
        return {"failed": f"no value of {', '.join(missing)} was measured"}
    return next(({r.state: r.error} for r in records if r.state != "complete"), {})


def short_of_target(suite: Suite, records: Sequence[Record]) -> float:
    """How much return is missing at the end where a target was not reached in time; 0 where it was."""
    target, reached = suite.measure.target_return, typical(records, "episode_return")
    if target is None or not math.isnan(typical(records, "seconds_to_return")):
        return 0.0
    return FAR if math.isnan(reached) else max(target - reached, 1e-6)

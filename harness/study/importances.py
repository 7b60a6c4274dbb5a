"""How much each searched setting decides about being among the best configurations of a study.

PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), as Optuna has it, compares the distribution of a setting's values
among the best trials with that among all trials. Importances are not negative and add up to 1.

Only the order of the trials counts, so pruned ones take part, as worse than all that were completed, and so do those
that did not reach a target: without them "all trials" would be the survivors.
"""

import math
from collections.abc import Sequence

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from harness.measure.record import Record, attempts_that_count, typical
from harness.suite.metrics import TIMES
from harness.suite.schema import Suite
from harness.suite.space import Params, Space, in_memory

FEWEST_TRIALS = 10
"""completed or pruned ones, below which importances would be guesses"""
BEST_PART = 0.25
"""the trials whose values are compared with all; Optuna's own 0.1 would leave one or two of a short study"""


def importances(records: Sequence[Record], suite: Suite) -> dict[str, float]:
    """Importance of each searched setting for the first objective, most important first.

    They are judged by the repeats of the search: the confirmation measures the best configurations only. Empty when
    nothing can be said; ``missing`` says why.
    """
    if missing(records, suite):
        return {}
    objective, space = suite.objectives[0], _space(suite)
    study = in_memory([objective.direction])
    completed, pruned = _finished(records, suite)
    values = [value for _, value in completed]
    worst = min(values) - 1 if objective.direction == "maximize" else max(values) + 1
    # what changed nothing has no value
    first = {name: space.ends(name)[0] for name in space.dimensions}
    for params, value in completed + [(params, worst) for params in pruned]:
        encoded = space.encode({name: params.get(name, first[name]) for name in first})
        study.add_trial(create_trial(params=encoded, distributions=dict(space.dimensions), value=value))
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_PART))
    # Optuna leaves the order of equal ones to a set's, which differs between processes.
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def missing(records: Sequence[Record], suite: Suite) -> str | None:
    """The reason why there are no importances; None where there are."""
    completed, pruned = _finished(records, suite)
    finished = len(completed) + len(pruned)
    if len(suite.tasks) > 1:
        return "importances compare trials, and results of two environments are not compared"
    if len(_space(suite).dimensions) < 2:
        return "importances compare settings, and fewer than two are searched"
    if finished < FEWEST_TRIALS:
        return f"importances need {FEWEST_TRIALS} completed or pruned trials, there are {finished}"
    if len(completed) < BEST_PART * finished:
        return f"importances need one completed trial in {1 / BEST_PART:g}, there are {len(completed)} in {finished}"
    if len({value for _, value in completed}) == 1:
        return f"all trials have the same {suite.objectives[0].metric}, so no setting matters"
    return None


def _space(suite: Suite) -> Space:
    """The settings with more than one value."""
    whole = Space(dict(suite.search))
    return Space({name: d for name, d in whole.dimensions.items() if Space({name: d}).size > 1})


def _finished(records: Sequence[Record], suite: Suite) -> tuple[list[tuple[Params, float]], list[Params]]:
    """Settings and the first objective of each trial that has one; settings of those that were pruned or too slow."""
    trials: dict[int, list[Record]] = {}
    for record in attempts_that_count(records):
        if record.phase == "search":
            trials.setdefault(record.trial, []).append(record)
    metric = suite.objectives[0].metric
    ended = {"pruned", "complete"} if metric in TIMES else {"pruned"}  # a target that was not reached has no time
    values = [(own, typical(own, metric)) for own in trials.values()]
    pruned = [own[0].params for own, value in values if math.isnan(value) and any(r.state in ended for r in own)]
    return [(own[0].params, value) for own, value in values if not math.isnan(value)], pruned

"""How much each searched setting decides about being among the best configurations of a study.

PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), as Optuna has it: of each setting it compares the distribution of
the values that the best trials have with that of all trials. Importances are not negative and add up to 1.
"""

import math
from collections.abc import Sequence

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from harness.record import Record, median
from harness.sampling import distributions, in_memory
from harness.space import Space
from harness.suite import Suite

FEWEST_TRIALS = 10
"""completed ones, below which importances would be guesses"""
BEST_PART = 0.25
"""the trials whose values are compared with all; Optuna's own 0.1 would leave one or two of a short study"""


def importances(records: Sequence[Record], suite: Suite) -> dict[str, float]:
    """Importance of each searched setting for the first objective, most important first.

    Judged by the repeats of the search: those of the confirmation exist for the best configurations only. Empty when
    nothing can be said; ``missing`` says why.
    """
    if missing(records, suite):
        return {}
    objective = suite.objectives[0]
    space = _space(suite)
    study = in_memory([objective.direction])
    for params, value in _completed(records, suite):
        encoded = space.encode({name: params[name] for name in space.dimensions})
        study.add_trial(
            create_trial(params=encoded, distributions=distributions(space), value=value, state=TrialState.COMPLETE)
        )
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_PART))


def missing(records: Sequence[Record], suite: Suite) -> str | None:
    """Why there are no importances, or None when there are."""
    completed = _completed(records, suite)
    if len(_space(suite).dimensions) < 2:
        return "importances compare settings, and fewer than two are searched"
    if len(completed) < FEWEST_TRIALS:
        return f"importances need {FEWEST_TRIALS} completed trials, there are {len(completed)}"
    if len({value for _, value in completed}) == 1:
        return f"all trials have the same {suite.objectives[0].metric}, so no setting matters"
    return None


def _space(suite: Suite) -> Space:
    """The settings with more than one value."""
    whole = Space(dict(suite.search))
    return Space({name: d for name, d in whole.dimensions.items() if Space({name: d}).size > 1})


def _completed(records: Sequence[Record], suite: Suite) -> list[tuple[dict, float]]:
    """Settings and the value of the first objective of each trial that has one."""
    searched = [r for r in records if r.phase == "search"]
    values = {
        number: median((r for r in searched if r.trial == number), suite.objectives[0].metric)
        for number in sorted({r.trial for r in searched})
    }
    params = {r.trial: r.params for r in searched}
    return [(params[number], value) for number, value in values.items() if not math.isnan(value)]

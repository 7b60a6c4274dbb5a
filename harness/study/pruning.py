"""Ending a trial of the search early when its learning curve is hopeless.

A trial is looked at at fixed parts of its budget: the seconds of warm-up and steady window, or ``return_at``. It ends
when its best return so far is below a percentile of what the completed trials had at the same part (for percentile 50
the median stopping rule of Golovin et al. 2017, Google Vizier).

Never pruned are the baseline and every repeat of the confirmation, so that nothing that a study compares was selected
by its own curve; nor anything in a suite without ``pruner`` or with a second objective. Of a trial with several repeats
the first one decides.

Decisions depend on the curves that repeats leave in their folders alone, so that a study that was interrupted decides
as it would have.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import PercentilePruner
from optuna.trial import TrialState, create_trial

from harness.measure.record import Record
from harness.suite.schema import Pruner, Suite

Progress = Mapping[str, Any]
"""one line of a curve"""


@dataclass
class Checks:
    """The returns of one repeat at the parts of its budget where it is looked at, in percent.

    A part's value is the first one from there on that is a number, before the next part.
    """

    suite: Suite
    pruner: Pruner
    values: dict[int, float] = field(default_factory=dict)

    def add(self, progress: Progress) -> bool:
        """Take in the next line of a curve; True when it gave a part its value."""
        value = progress["episode_return"]
        percent = round(100 * self.pruner.interval_fraction)
        part = int(100 * used(self.suite, progress)) // percent * percent
        if value is None or math.isnan(value) or not 0 < part < 100 or part in self.values:
            return False
        self.values[part] = value
        return True


def may_end(record: Record) -> bool:
    """Whether a repeat that begins may be pruned: see above for those that never are."""
    return record.phase == "search" and record.repeat == 0 and not record.baseline


def used(suite: Suite, progress: Progress) -> float:
    """Part of the budget that is used up."""
    measure, seconds = suite.measure, float(progress["wall_seconds"])
    if measure.return_at is None:
        return seconds / (measure.warmup_seconds + measure.steady_seconds)
    if measure.return_at.seconds is not None:
        return seconds / measure.return_at.seconds
    return float(progress["env_steps"]) / (measure.return_at.env_steps or math.inf)


def checks_of(suite: Suite, curve: Path) -> dict[int, float]:
    """What a repeat's ``curve.jsonl`` has at the parts of the budget; empty without a pruner or without the file."""
    if suite.pruner is None or not curve.exists():
        return {}
    checks = Checks(suite, suite.pruner)
    for line in _lines(curve):
        checks.add(line)
    return checks.values


def _lines(curve: Path) -> Iterable[Progress]:
    for line in curve.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the last line of a repeat that was killed
            return


class Judge:
    """Looks at one repeat while it runs. Call it with every line of progress.

    Args:
        study: with the completed trials and their intermediate values, by percent of the budget.
    """

    def __init__(self, suite: Suite, pruner: Pruner, study: optuna.Study) -> None:
        self._pruner = pruner
        self._study = study
        self._checks = Checks(suite, pruner)
        self._rule = PercentilePruner(
            100 - pruner.percentile,  # Optuna's is the part that is kept
            n_startup_trials=pruner.startup_trials,
            n_warmup_steps=math.ceil(100 * pruner.warmup_fraction),
        )

    def __call__(self, progress: Progress) -> str | None:
        """Why the trial should end now, or None."""
        if not self._checks.add(progress):
            return None
        values = self._checks.values
        running = create_trial(state=TrialState.RUNNING, intermediate_values=values)
        if not self._rule.prune(self._study, running):
            return None
        completed = len(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        return (
            f"pruned at {progress['env_steps']:,.0f} env steps: return {max(values.values()):,.1f} is below percentile "
            f"{self._pruner.percentile:g} of {completed} completed trials at {max(values)} % of the budget"
        )

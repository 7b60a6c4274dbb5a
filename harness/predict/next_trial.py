"""Which configuration to try next, and what it is expected to bring: by what was predicted and what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.predict.plan import Plan
from harness.predict.ranking import Candidate
from harness.stats.surrogate import expected_gains
from harness.suite.space import Params

WORTH = 0.002
"""relative gain that must be expected of another trial; so little is lost in the noise of the confirmation"""
TRIED = 8
"""trials before the search may end by that: of fewer too little is known"""
UNKNOWN_GAIN = 1.0
"""relative gain that stands for that of a trial while nothing was measured"""
Tried = tuple[Params, float | None]
"""a configuration and the objective's value: None while it runs, NaN where it failed or broke a constraint"""


@dataclass(frozen=True)
class NextTrial:
    """The best of what was not tried."""

    params: Params
    gain: float
    """that is expected of it over the best so far, relative; NaN while nothing was measured"""
    left: int
    """configurations that were not tried"""
    tried: int

    @property
    def ends(self) -> bool:
        """No other trial is worth its time."""
        return self.tried >= TRIED and self.gain < WORTH


def expected_trials(tried: int, gain: float) -> int:
    """How many trials a search will have when it ends, if each one halves the gain that is expected of the next.

    In 26 searches on paper each gain was about 0.4 of the one before; 22 ended after ``TRIED`` trials, one after 14.
    ``gain`` was expected of the newest trial (NaN: not known), before which ``tried`` were there.
    """
    halvings = math.log2(max(UNKNOWN_GAIN if math.isnan(gain) else gain, WORTH) / WORTH)
    return max(TRIED, tried + 1 + math.floor(halvings))


def next_trial(plan: Plan, ranking: Sequence[Candidate], tried: Sequence[Tried]) -> NextTrial | None:
    """What to try next where the objective is a speed (``Suite.guided``); None when all has been tried.

    Args:
        ranking: what is predicted; empty: nothing is.
        tried: the baseline and all other configurations that the study has, by their searched settings.
    """
    space, objective = plan.space, plan.suite.objectives[0]
    sign = 1 if objective.direction == "maximize" else -1
    rates = {}
    for one in ranking:
        searched = {name: value for name, value in one.params.items() if name in space.dimensions}
        if one.fits:
            rates[space.identity(searched)] = getattr(one.rates, objective.metric)
    known = {space.identity(params) for params, _ in tried}
    open_ = [
        params
        for params in plan.configurations
        if (identity := space.identity(params)) not in known and (not rates or identity in rates)
    ]
    if not open_:
        return None
    ended = [(params, value) for params, value in tried if value is not None]
    every = [*(params for params, _ in ended), *open_]
    predicted = sign * np.log([rates.get(space.identity(params), math.nan) for params in every])
    predicted = np.nan_to_num(predicted, nan=np.nanmean(predicted) if np.isfinite(predicted).any() else 0.0)
    if not ended:
        return NextTrial(open_[int(predicted.argmax())], math.nan, len(open_), 0)
    values = np.array([sign * math.log(value) if value > 0 else math.nan for _, value in ended])
    # nothing is near what did not work: as the worst of what did
    values = np.nan_to_num(values, nan=np.nanmin(values) if np.isfinite(values).any() else 0.0)
    distances = space.apart(every, every[: len(ended)])
    gains = expected_gains(distances, values, predicted, plan.suite.sampler.seed)[len(ended) :]
    best = int(gains.argmax())
    return NextTrial(open_[best], math.expm1(gains[best]), len(open_), len(ended))

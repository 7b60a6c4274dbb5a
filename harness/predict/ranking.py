"""The configurations of a plan before any is run: which fit, what to measure to predict them, which come first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.predict.plan import Plan
from harness.predict.throughput import RATES, Predictor, Rates
from harness.suite.metrics import METRICS
from harness.suite.space import Params, sample
from harness.trainers.rounds import Course, Describes, Part, Workload
from unilab.settings import SettingsError

RANKED = 1000
"""configurations that are ranked at most; of larger spaces a sample with a fixed seed, and the baseline"""
SEEDED = 3
"""trials after the baseline that are the best of the ranking; from then on the sampler decides, informed by them"""
ALIKE = 0.01
"""relative difference of predictions below which there is none"""
REHEARSED: tuple[Course, ...] = ("wait", "lockstep", "drop", "turns")
"""ways in which sides go together that are tried by short runs; ``free`` ones are predicted by the others"""
REHEARSED_SAMPLES = 200_000
"""samples of a round up to which a short run of the configuration is short"""


@dataclass(frozen=True)
class Candidate:
    """A configuration, and whether its predicted memory fits into this machine."""

    params: Params
    fits: bool
    reason: str | None = None
    """why it does not fit"""


@dataclass(frozen=True, kw_only=True)
class Ranked(Candidate):
    """A candidate and its predicted throughput."""

    rates: Rates


def candidates(plan: Plan) -> list[Candidate]:
    """The baseline, then the configurations that are ranked; the settings of each go together.

    None where the trainer does not describe its rounds.
    """
    if not isinstance(plan.trainer, Describes):
        return []
    space = plan.space
    listed = space.grid() if space.size <= RANKED else sample(space, RANKED, seed=0)
    found = [plan.baseline, *(space.decode(encoded) for encoded in listed)]
    unique = {space.identity(params): params for params in map(plan.effective, found)}
    judged = (_judged(plan, params) for params in unique.values())
    return [candidate for candidate in judged if candidate is not None]


def _judged(plan: Plan, params: Params) -> Candidate | None:
    try:
        verdict = plan.verdict(params)
    except SettingsError:  # settings that contradict each other
        return None
    return Candidate(params, verdict.fits, verdict.reason)


def parts(plan: Plan, found: Sequence[Candidate], cores: int) -> list[Part]:
    """Everything whose cost must be known to predict the candidates; what does not fit is not tried."""
    return [part for _, workload in _workloads(plan, found, cores) for part in workload.parts]


def to_rehearse(plan: Plan, found: Sequence[Candidate], cores: int) -> list[dict[str, Any]]:
    """What to run for a moment: of each way in which sides go together the smallest and the largest updates.

    Of these the ones with the shortest rounds. Where each side has cores of its own there is nothing to be seen; and
    where throughput is no objective predictions decide nothing, and need not be as good.
    """
    if not any(objective.metric in RATES for objective in plan.suite.objectives):
        return []
    workloads = _workloads(plan, found, cores)
    chosen = []
    for course in REHEARSED:
        group = [one for one in workloads if one[1].course == course and (one[1].yields or course == "turns")]
        short = [one for one in group if one[1].samples <= REHEARSED_SAMPLES] or group[:1]
        for rows in sorted({pick(workload.rows for _, workload in short) for pick in (min, max)} if short else ()):
            own = [one for one in short if one[1].rows == rows]
            chosen.append(min(own, key=lambda one: (one[1].samples, one[1].env_steps))[0])
    return chosen


def _workloads(plan: Plan, found: Sequence[Candidate], cores: int) -> list[tuple[dict[str, Any], Workload]]:
    """Settings and rounds of the candidates that fit."""
    trainer = plan.trainer
    if not isinstance(trainer, Describes):
        return []
    all_settings = (plan.settings(one.params) for one in found if one.fits)
    return [(settings, trainer.workload(settings, cores)) for settings in all_settings]


def rank(plan: Plan, found: Sequence[Candidate], predictor: Predictor) -> list[Ranked]:
    """The candidates by the suite's objectives that are predicted, best first; what does not fit comes last."""
    predicted = ((one, predictor.rates(plan.settings(one.params))) for one in found)
    ranked = [Ranked(one.params, one.fits, one.reason, rates=rates) for one, rates in predicted if rates is not None]
    return sorted(ranked, key=lambda one: (not one.fits, _order(plan, one.rates)))


def _order(plan: Plan, rates: Rates) -> list[float]:
    """What to sort by: the objectives one after the other, in steps of ``ALIKE``, then the first one exactly."""
    signed = [
        math.log(getattr(rates, metric)) * (-1 if direction == "maximize" else 1)
        for metric, direction in objectives(plan)
    ]
    return [*(float(round(value / math.log1p(ALIKE))) for value in signed), signed[0]]


def objectives(plan: Plan) -> list[tuple[str, str]]:
    """Metrics and directions that the ranking is by: the objectives that are predicted, else env steps a second."""
    wanted = [(objective.metric, str(objective.direction)) for objective in plan.suite.objectives]
    return [one for one in wanted if one[0] in RATES] or [(RATES[0], METRICS[RATES[0]])]


def seeds(plan: Plan, ranking: Sequence[Ranked]) -> list[Params]:
    """The configurations that the search begins with after the baseline; none where throughput is no objective.

    Of configurations that are predicted alike only the first is a seed.
    """
    if not plan.suite.sampler.predict or not any(o.metric in RATES for o in plan.suite.objectives):
        return []
    baseline = plan.effective({name: plan.baseline[name] for name in plan.space.dimensions})
    new = [one for one in ranking if one.fits and not baseline.items() <= one.params.items()]
    return [one.params for one in distinct(plan, new)[:SEEDED]]


def distinct(plan: Plan, ranking: Sequence[Ranked]) -> list[Ranked]:
    """Of configurations that are predicted alike only the first."""
    chosen: list[Ranked] = []
    for one in ranking:
        if not any(_alike(plan, one.rates, other.rates) for other in chosen):
            chosen.append(one)
    return chosen


def _alike(plan: Plan, one: Rates, other: Rates) -> bool:
    names = [metric for metric, _ in objectives(plan)]
    return all(math.isclose(getattr(one, name), getattr(other, name), rel_tol=ALIKE) for name in names)

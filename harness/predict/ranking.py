"""What is known of a study's configurations before any is run: which fit, how fast they are, which come first.

Costs that are needed for that and are not known are measured before; each record gets what was predicted of it.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.measure.host import fingerprint
from harness.measure.record import Record, write_atomic
from harness.measure.stop import StopSignal
from harness.predict import calibration, ceilings
from harness.predict.bottleneck import explain
from harness.predict.ceilings import Ceilings, CeilingsError
from harness.predict.plan import Plan
from harness.predict.throughput import Predictor, Rates, predictor
from harness.suite.metrics import METRICS, RATES
from harness.suite.space import Params
from harness.trainers.rounds import Course, Describes, Part, Workload
from unilab.machine.devices import usable_cores
from unilab.settings import SettingsError

ALIKE = 0.01
"""relative difference of predictions below which there is none"""
REHEARSED: tuple[Course, ...] = ("wait", "lockstep", "drop", "turns")
"""courses that are tried by short runs; the others tell about ``free``"""
REHEARSED_SAMPLES = 200_000
"""samples of a round up to which a short run of the configuration is short"""
UNKNOWN = Rates(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Candidate:
    """A configuration, whether its predicted memory fits into this machine, and its throughput where it is ranked."""

    params: Params
    fits: bool
    reason: str | None = None
    """why it does not fit"""
    rates: Rates = UNKNOWN


@dataclass
class Prediction:
    """By default nothing is known: nothing is predicted, and records stay as they are."""

    plan: Plan
    predictor: Predictor | None = None
    ranking: Sequence[Candidate] = ()
    """all candidates, best first"""
    results: Path | None = None
    """where the machine's memory calibration is kept; None: nothing is learned"""

    @classmethod
    def of(cls, plan: Plan, found: Sequence[Candidate], known: Ceilings, results: Path) -> "Prediction":
        """What ceilings say of the candidates."""
        made = predictor(plan, known)
        return cls(plan, made, [] if made is None else rank(plan, found, made), results)

    def complete(self, record: Record, known: Sequence[Record], *, over: bool = False) -> Record:
        """The record with expected memory, and with what ``explain`` adds; its peak calibrates later plans."""
        expected = round(record.budget_host_bytes * self.plan.factor(record.params).expected)
        record = replace(record, calibrated_host_bytes=expected)
        if self.results is not None:
            calibration.add(self.results, self.plan.launch(record.params)[0], record, self.plan.code)
        return explain(record, self.plan, self.predictor, known, over=over)


def kept(plan: Plan, results: Path) -> tuple[Prediction, int]:
    """What this machine's kept ceilings say, and how many costs ``run`` would measure before; starts nothing."""
    known = ceilings.load(ceilings.path_of(results, plan.code)) or Ceilings()
    found = candidates(plan)
    missing = known.missing(plan.suite.trainer, parts(plan, found, usable_cores()))
    return Prediction.of(plan, found, known, results), len(missing)


def prepare(
    plan: Plan,
    results: Path,
    study: Path,
    stop: StopSignal,
    say: Callable[[str], None] = lambda text: None,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Prediction:
    """Measure what is missing of the ceilings, keep a copy in the study, and rank.

    A trainer that does not describe its rounds, or whose parts cannot be measured, goes without.

    Args:
        study: the study's folder; a study that goes on uses the ceilings that it began with.
        alone: what is measured is measured while it is entered.

    Raises:
        Stopped: a signal came.
        RecordError: the ceilings could not be written.
    """
    found, cores = candidates(plan), usable_cores()
    needed = parts(plan, found, cores)
    if not needed:
        return Prediction(plan, results=results)
    own = ceilings.load(study / ceilings.FILE)
    if own is None or own.machine != fingerprint():
        try:
            with alone():
                own = ceilings.measure(
                    plan.suite.trainer, needed, results, plan.code, stop, say,
                    rehearse=to_rehearse(plan, found, cores),
                )  # fmt: skip
        except CeilingsError as error:
            say(f"warning: {error}\nnothing is predicted in this study")
            return Prediction(plan, results=results)
        write_atomic(study / ceilings.FILE, own.text())
    return Prediction.of(plan, found, own, results)


def candidates(plan: Plan) -> list[Candidate]:
    """The plan's configurations whose settings go together, the baseline first.

    None where the trainer does not describe its rounds, or where repeats share the machine: ceilings are those of all
    of its cores.
    """
    if not isinstance(plan.trainer, Describes) or plan.suite.measure.cores is not None:
        return []
    found = []
    for params in [plan.effective(plan.baseline), *plan.configurations[1:]]:
        try:
            fit = plan.fit(params)
        except SettingsError:  # settings that contradict each other
            continue
        found.append(Candidate(params, fit.fits, fit.reason))
    return found


def parts(plan: Plan, found: Sequence[Candidate], cores: int) -> list[Part]:
    """Everything whose cost must be known to predict the candidates; what does not fit is not tried."""
    return [part for _, workload in _workloads(plan, found, cores) for part in workload.parts]


def to_rehearse(plan: Plan, found: Sequence[Candidate], cores: int) -> list[dict[str, Any]]:
    """Settings to run for a moment: for each course those with the smallest and with the largest updates.

    Of these the ones with the shortest rounds are taken. Nothing is run where each side has cores of its own, or where
    throughput is no objective. Rounds that wait stand for those that drop: runs of both took four seconds more, and
    predictions were no better.
    """
    if not any(objective.metric in RATES for objective in plan.suite.objectives):
        return []
    workloads = _workloads(plan, found, cores)
    chosen: list[dict[str, Any]] = []
    for course in REHEARSED:
        if course == "drop" and chosen:
            continue
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


def rank(plan: Plan, found: Sequence[Candidate], predictor: Predictor) -> list[Candidate]:
    """The candidates by the suite's objectives that are predicted, best first; what does not fit comes last.

    They are sorted by one objective after the other, in steps of ``ALIKE``, and then by the first one exactly.
    """

    def order(one: Candidate) -> tuple[bool, list[float]]:
        signed = [
            math.log(getattr(one.rates, metric)) * (-1 if direction == "maximize" else 1)
            for metric, direction in objectives(plan)
        ]
        return not one.fits, [*(float(round(value / math.log1p(ALIKE))) for value in signed), signed[0]]

    predicted = ((one, predictor.rates(plan.settings(one.params))) for one in found)
    ranked = [replace(one, rates=rates) for one, rates in predicted if rates is not None]
    return sorted(ranked, key=order)


def objectives(plan: Plan) -> list[tuple[str, str]]:
    """Metrics and directions that the ranking is by: the objectives that are predicted, else env steps a second."""
    wanted = [(objective.metric, str(objective.direction)) for objective in plan.suite.objectives]
    return [one for one in wanted if one[0] in RATES] or [(RATES[0], METRICS[RATES[0]])]


def distinct(plan: Plan, ranking: Sequence[Candidate]) -> list[Candidate]:
    """Of configurations that are predicted alike only the first."""
    names = [metric for metric, _ in objectives(plan)]
    chosen: list[Candidate] = []
    for one in ranking:
        known = ([(getattr(one.rates, name), getattr(other.rates, name)) for name in names] for other in chosen)
        if not any(all(math.isclose(a, b, rel_tol=ALIKE) for a, b in pairs) for pairs in known):
            chosen.append(one)
    return chosen

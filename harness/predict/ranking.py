"""What is known of a study's configurations before any is run: which fit, how fast they are, which come first.

Costs that are needed for that and are not known are measured before.
"""

import dataclasses
import itertools
import math
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.measure.host import fingerprint
from harness.measure.record import Record, write_atomic
from harness.measure.stop import StopSignal
from harness.predict import calibration, ceilings
from harness.predict.ceilings import Ceilings, CeilingsError
from harness.predict.plan import Plan
from harness.predict.throughput import Rates, Round, rates
from harness.suite.metrics import METRICS, RATES
from harness.suite.space import Params
from harness.trainers.rounds import Cost, Course, Describes, Part, Workload
from unilab.machine.devices import usable_cores

ALIKE = 0.01
"""relative size of the steps in which predictions are ordered"""
OVERHEAD = (1.0, 1.5)
"""bounds of the factor by which times grow in a short run of both sides; a run beyond them was disturbed"""
UNKNOWN = Rates(math.nan, math.nan, math.nan)
REHEARSED: tuple[Course, ...] = ("wait", "lockstep", "drop", "turns")
"""courses that are tried by short runs; the others tell about ``free``"""
REHEARSED_SAMPLES = 200_000
"""samples of a round up to which a short run of the configuration is short"""


@dataclass(frozen=True)
class Candidate:
    """A configuration, its round, whether its predicted memory fits into this machine, and its throughput."""

    params: Params
    workload: Workload
    fits: bool = True
    reason: str | None = None
    """why it does not fit"""
    rates: Rates = UNKNOWN
    """known in a ranking"""


class Prediction:
    """What ceilings say of a plan's configurations.

    Args:
        plan: of a trainer that describes its rounds, where there are ceilings.
        known: the ceilings; None: nothing is predicted.
        found: what is ranked.
        results: where the machine's memory calibration is kept; None: nothing is learned.
    """

    def __init__(
        self, plan: Plan, known: Ceilings | None = None, found: Sequence[Candidate] = (), results: Path | None = None
    ) -> None:
        self.plan, self.ceilings, self.results = plan, known, results
        self._resolved: dict[str, dict[str, Any]] = {}
        self._overheads: dict[Course, list[tuple[float, float]]] = {}
        """by course: rows of an update, and the factor by which times grew in a short run"""
        for rehearsal in known.rehearsals if known is not None else ():
            workload = self.workload(rehearsal.settings)
            overhead = self.rates(workload, overhead=1.0).updates_per_second / rehearsal.updates_per_second
            if not math.isnan(overhead):
                bounded = min(max(overhead, OVERHEAD[0]), OVERHEAD[1])
                insort(self._overheads.setdefault(workload.course, []), (workload.rows, bounded))
        predicted = [dataclasses.replace(one, rates=self.rates(one.workload)) for one in found]
        self.ranking = sorted((one for one in predicted if not math.isnan(one.rates.updates_per_second)), key=self._key)
        """the candidates that are predicted, best first"""

    def _key(self, one: Candidate) -> tuple[bool, list[int], float]:
        """Orders by one objective after the other, in steps of ``ALIKE``, and then by the first one exactly; what does
        not fit comes last."""
        signed = [
            math.log(getattr(one.rates, metric)) * (-1 if direction == "maximize" else 1)
            for metric, direction in objectives(self.plan)
        ]
        return not one.fits, [round(value / math.log1p(ALIKE)) for value in signed], signed[0]

    @property
    def distinct(self) -> list[Candidate]:
        """Of the candidates whose predictions are in the same step only the first."""
        return [next(alike) for _, alike in itertools.groupby(self.ranking, lambda one: self._key(one)[:2])]

    def workload(self, settings: Mapping[str, Any]) -> Workload:
        """One round of a configuration, on the cores whose ceilings are known."""
        assert isinstance(self.plan.trainer, Describes) and self.ceilings is not None
        return self.plan.trainer.workload(settings, self.ceilings.cores)

    def costs(self, workload: Workload) -> Round | None:
        """What each side of a round costs alone; None when a part of it was never measured."""
        sides = dict.fromkeys(("collector", "learner", "transfer", "background"), Cost())
        for part in workload.parts:
            cost = None if self.ceilings is None else self.ceilings.cost(part)
            if cost is None:
                return None
            sides["background" if part.background else part.side] += cost.times(part.count)
        return Round(sides["collector"], sides["learner"] + sides["transfer"], sides["transfer"], sides["background"])

    def rates(self, workload: Workload, overhead: float | None = None) -> Rates:
        """The predicted throughput of a round.

        ``overhead`` is the factor by which times grow when both sides run; None: by the short runs, 1 where there was
        none.
        """
        costs = self.costs(workload)
        if costs is None or self.ceilings is None:
            return UNKNOWN
        if overhead is None:
            overhead, known = 1.0, self._overheads.get(workload.course, [])
            if not known and workload.course != "turns":
                known = sorted(one for course, own in self._overheads.items() if course != "turns" for one in own)
            if known:
                rows, factors = zip(*known, strict=True)
                overhead = float(np.interp(math.log(workload.rows), np.log(rows), factors))
        return rates(workload, costs, self.ceilings.cores, overhead)

    def resolved(self, params: Params) -> Mapping[str, Any]:
        """All settings of a trial; thread counts that are left to the trainer as they come out."""
        identity = self.plan.space.identity(params)
        if identity not in self._resolved:
            settings = self.plan.settings(params)
            parts = self.workload(settings).parts
            threads = {name: value for part in parts for name, value in part.settings.items() if "_threads" in name}
            complete = self.plan.trainer.complete(settings)
            # what is set counts each worker's, and the parts count all of them
            automatic = {name: count for name, count in threads.items() if complete.get(name) is None}
            self._resolved[identity] = complete | automatic
        return self._resolved[identity]

    def learn(self, record: Record) -> None:
        """The memory that a repeat took calibrates later plans."""
        if self.results is not None:
            calibration.add(self.results, self.plan.launch(record.params)[0], record, self.plan.code)


def kept(plan: Plan, results: Path) -> tuple[Prediction, int]:
    """What this machine's kept ceilings say, and how many costs ``run`` would measure before; starts nothing."""
    path = ceilings.path_of(results, plan.suite.trainer, plan.code)
    known, found = ceilings.load(path) or Ceilings(fingerprint(), usable_cores()), candidates(plan)
    return Prediction(plan, known, found, results), len(known.missing(parts(found)))


def prepare(
    plan: Plan,
    results: Path,
    study: Path,
    stop: StopSignal,
    say: Callable[[str], None] = lambda text: None,
    reserved: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Prediction:
    """Measure what is missing of the ceilings, keep a copy in the study, and rank.

    A trainer that does not describe its rounds, or whose parts cannot be measured, goes without.

    Args:
        study: the study's folder; a study that goes on uses the ceilings that it began with.
        reserved: entered while something is measured.

    Raises:
        Stopped: a signal came.
        RecordError: the ceilings could not be written.
    """
    found = candidates(plan)
    needed = parts(found)
    if not needed:
        return Prediction(plan, results=results)
    own = ceilings.load(study / ceilings.FILE)
    if own is None or own.machine != fingerprint():
        try:
            with reserved():
                rehearse = to_rehearse(plan, found)
                own = ceilings.measure(plan.suite.trainer, needed, results, plan.code, stop, say, rehearse)
        except CeilingsError as error:
            say(f"warning: {error}\nnothing is predicted in this study")
            return Prediction(plan, results=results)
        write_atomic(study / ceilings.FILE, own.text())
    return Prediction(plan, own, found, results)


def candidates(plan: Plan, cores: int | None = None) -> list[Candidate]:
    """The plan's configurations whose settings go together, the baseline first.

    None where the trainer does not describe its rounds, or where repeats share the machine: ceilings are those of all
    of its cores.

    Args:
        cores: that a configuration has; None: those of this machine.
    """
    if not isinstance(plan.trainer, Describes) or plan.suite.measure.cores is not None:
        return []
    cores, found = cores or usable_cores(), list[Candidate]()
    for params in [plan.effective(plan.baseline), *plan.configurations[1:]]:
        fit = plan.fit(params)
        if fit.problem is None:
            found.append(Candidate(params, plan.trainer.workload(plan.settings(params), cores), fit.fits, fit.reason))
    return found


def parts(found: Sequence[Candidate]) -> list[Part]:
    """Everything whose cost must be known to predict the candidates; what does not fit is not tried."""
    return [part for one in found if one.fits for part in one.workload.parts]


def to_rehearse(plan: Plan, found: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Settings to run for a moment: for each course those with the smallest and with the largest updates.

    Of these the ones with the shortest rounds are taken. Nothing is run where each side has cores of its own, or where
    throughput is no objective. Rounds that wait stand for those that drop: runs of both took four seconds more, and
    predictions were no better.
    """
    if not any(objective.metric in RATES for objective in plan.suite.objectives):
        return []
    chosen: list[Candidate] = []
    for course in REHEARSED:
        if course == "drop" and chosen:
            continue
        group = [one for one in found if one.fits and one.workload.course == course]
        group = [one for one in group if one.workload.yields or course == "turns"]
        short = [one for one in group if one.workload.samples <= REHEARSED_SAMPLES] or group[:1]
        every = [one.workload.rows for one in short]
        for rows in sorted({min(every), max(every)}) if every else ():
            own = [one for one in short if one.workload.rows == rows]
            chosen.append(min(own, key=lambda one: (one.workload.samples, one.workload.env_steps)))
    return [plan.settings(one.params) for one in chosen]


def objectives(plan: Plan) -> list[tuple[str, str]]:
    """Metrics and directions that the ranking is by: the objectives that are predicted, else env steps a second."""
    wanted = [(objective.metric, str(objective.direction)) for objective in plan.suite.objectives]
    return [one for one in wanted if one[0] in RATES] or [(RATES[0], METRICS[RATES[0]])]

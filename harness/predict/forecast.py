"""What is known of a study's configurations before they are run, and what that says of each record afterwards."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from harness.measure.host import fingerprint
from harness.measure.record import Record, write_atomic
from harness.measure.stop import StopSignal
from harness.predict import calibration, ceilings, ranking
from harness.predict import throughput as predict
from harness.predict.bottleneck import explain
from harness.predict.ceilings import Ceilings, CeilingsError
from harness.predict.plan import Plan
from harness.predict.ranking import Candidate, Ranked
from harness.predict.throughput import Predictor
from harness.suite.space import Params
from unilab.machine.devices import usable_cores


@dataclasses.dataclass
class Outlook:
    """By default nothing is known: nothing is predicted, and records stay as they are."""

    plan: Plan
    predictor: Predictor | None = None
    ranking: Sequence[Ranked] = ()
    """all candidates, best first"""
    results: Path | None = None
    """where the machine's memory calibration is kept; None: nothing is learned"""

    @property
    def seeds(self) -> list[Params]:
        """What the search begins with after the baseline."""
        return ranking.seeds(self.plan, self.ranking)

    def complete(self, record: Record) -> Record:
        """The record with prediction, efficiency, verdict and expected memory; its peak calibrates later plans."""
        expected = round(record.budget_host_bytes * self.plan.factor(record.params).expected)
        record = dataclasses.replace(record, calibrated_host_bytes=expected)
        if self.results is not None:
            calibration.add(self.results, self.plan.launch(record.params)[0], record, self.plan.code)
        return explain(record, self.plan, self.predictor)


def kept(plan: Plan, results: Path) -> tuple[Outlook, int]:
    """What this machine's kept ceilings say, and how many costs ``run`` would measure before; starts nothing."""
    known = ceilings.load(ceilings.path_of(results, plan.code)) or Ceilings()
    found = ranking.candidates(plan)
    missing = known.missing(plan.suite.trainer, ranking.parts(plan, found, usable_cores()))
    return _from(plan, found, known, results), len(missing)


def prepare(
    plan: Plan,
    results: Path,
    study: Path,
    stop: StopSignal,
    say: Callable[[str], None] = lambda text: None,
    alone: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Outlook:
    """Measure what is missing of the ceilings, keep a copy in the study, and rank.

    A trainer that does not describe its rounds, or whose parts cannot be measured, goes without.

    Args:
        plan: of the study.
        results: folder of all studies.
        study: the study's folder; a study that goes on uses the ceilings that it began with.
        stop: ends the measuring.
        say: is told what is measured.
        alone: what is measured is measured while it is entered.

    Raises:
        Stopped: a signal came.
        RecordError: the ceilings could not be written.
    """
    found, cores = ranking.candidates(plan), usable_cores()
    parts = ranking.parts(plan, found, cores)
    if not parts:
        return Outlook(plan, results=results)
    own = ceilings.load(study / ceilings.FILE)
    if own is None or own.machine != fingerprint():
        try:
            with alone():
                own = ceilings.measure(
                    plan.suite.trainer, parts, results, plan.code, stop, say,
                    rehearse=ranking.to_rehearse(plan, found, cores),
                )  # fmt: skip
        except CeilingsError as error:
            say(f"warning: {error}\nnothing is predicted in this study")
            return Outlook(plan, results=results)
        write_atomic(study / ceilings.FILE, own.text())
    return _from(plan, found, own, results)


def _from(plan: Plan, found: Sequence[Candidate], known: Ceilings, results: Path) -> Outlook:
    predictor = predict.predictor(plan, known)
    ranked = [] if predictor is None else ranking.rank(plan, found, predictor)
    return Outlook(plan, predictor, ranked, results)

"""Both sides measured now, in turns and in fresh processes: base, new, new, base in each block of two pairs.

A machine that grows slower or faster hits both sides alike. The two repeats of a side within a block, which lie as far
apart as a pair does or farther, show how much the same code differs from itself: the noise floor.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import machine, plan
from harness.compare.judge import Pairs
from harness.compare.revisions import CompareError
from harness.execute import Limits, Outcome, execute
from harness.record import Record, RecordFile
from harness.stop import StopSignal
from harness.suite import Measure
from harness.trial import TrialSpec

BASE, NEW = 0, 1
"""numbers of the sides, as ``trial`` of their records"""
NAMES = ("base", "new")
RECORDS = "repeats.jsonl"

Execute = Callable[..., Outcome]


@dataclass(frozen=True)
class Version:
    """One side, ready to be measured."""

    trainer: str
    settings: dict[str, Any]
    limits: Limits
    commit: str
    dirty: bool = False
    code: Path | None = None
    """folder of the code that runs it; None: the code of this process"""


@dataclass(frozen=True)
class Schedule:
    """How long and how often."""

    measure: Measure
    pairs: int

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Side and number of the pair, in the order of measuring."""
        for pair in range(self.pairs):
            first, second = (BASE, NEW) if pair % 2 == 0 else (NEW, BASE)
            yield first, pair
            yield second, pair

    @property
    def seconds(self) -> float:
        """Estimate of the whole."""
        return 2 * self.pairs * (plan.PROCESS_SECONDS + self.measure.warmup_seconds + self.measure.seconds)


@dataclass
class Measuring:
    """Carries out a schedule; what each repeat gives is a record in ``folder`` as soon as it ends."""

    versions: tuple[Version, Version]
    schedule: Schedule
    folder: Path
    stop: StopSignal
    show: Callable[[str], None]
    """a line for each repeat that ended"""
    live: Callable[[str], None] = lambda text: None
    """what is going on now"""
    execute: Execute = execute

    def run(self) -> Pairs:
        """Measure all pairs.

        Raises:
            CompareError: a repeat was not measured to its end.
            Stopped: by a signal.
            RecordError: a record could not be written.
        """
        self._records = RecordFile(self.folder / RECORDS)
        self._machine = machine.fingerprint()
        self._began = time.monotonic()
        measured: tuple[list[Record], list[Record]] = ([], [])
        for side, pair in self.schedule:
            measured[side].append(self._repeat(side, pair))
        across = list(zip(*measured, strict=True))
        within = [
            (own[first], own[first + 1]) for own in measured for first in range(0, self.schedule.pairs - 1, 2)
        ]  # fmt: skip
        return Pairs(across, within)

    def _repeat(self, side: int, pair: int) -> Record:
        version, what = self.versions[side], f"pair {pair + 1} of {self.schedule.pairs}, {NAMES[side]:<4}"
        log = f"logs/{NAMES[side]}-{pair}"
        seed = int(version.settings.get("seed", 0)) + pair
        settings = version.settings | ({"seed": seed} if "seed" in version.settings else {})
        measure = self.schedule.measure
        spec = TrialSpec(
            version.trainer, settings, measure.warmup_seconds, measure.seconds,
            str((self.folder / log).resolve()), report_fd=-1,
        )  # fmt: skip
        record = Record(
            study=self.folder.name, trial=side, repeat=pair, state="failed", phase="confirm", baseline=side == BASE,
            params=version.settings, seed=seed, started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=version.commit, dirty=version.dirty, machine=self._machine, log=log,
        )  # fmt: skip
        outcome = self.execute(
            spec, version.limits, self.stop, lambda progress: self._live(what, progress), code=version.code
        )
        record = _completed(record, outcome)
        self._records.append(record)
        if outcome.state != "complete":
            name = NAMES[side].upper()
            raise CompareError(f"{name} was not measured: {outcome.state}: {outcome.error}; see {self.folder / log}")
        self._show(what, record)
        return record

    def _live(self, what: str, progress: dict[str, Any]) -> None:
        seconds = progress["wall_seconds"]
        speed = progress["env_steps"] / seconds if seconds else math.nan
        self.live(f"{what}: {speed:,.0f} steps/s since its start, {self._left()} left")

    def _show(self, what: str, record: Record) -> None:
        marks = [name for name, there in (("unsteady", record.unsteady), ("disturbed", record.disturbed)) if there]
        doubt = f" ({', '.join(marks)})" if marks else ""
        self.show(f"{what} {record.env_steps_per_second:>12,.0f} steps/s{doubt}, {self._left()} left")

    def _left(self) -> str:
        done, total = len(self._records.records), 2 * self.schedule.pairs
        each = (time.monotonic() - self._began) / done if done else self.schedule.seconds / total
        return plan.describe_minutes(each * (total - done))


def _completed(record: Record, outcome: Outcome) -> Record:
    """With what was measured; fields that another version of the code reports and this one does not know are left."""
    known = {field.name for field in dataclasses.fields(Record)}
    result = {name: value for name, value in outcome.result.items() if name in known}
    return dataclasses.replace(
        record, state=outcome.state, error=outcome.error, **result, peak_host_bytes=outcome.peak.host,
        peak_shm_bytes=outcome.peak.shm, peak_device_bytes=outcome.peak.device,
        memory_accounting=outcome.memory_accounting, wall_seconds=outcome.wall_seconds,
    )  # fmt: skip

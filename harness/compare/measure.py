"""Both sides measured now, in turns and in fresh processes: base, new, new, base in each block of two pairs.

A machine that grows slower or faster hits both sides alike. The two repeats of a side within a block, which lie as far
apart as a pair does or farther, show how much the same code differs from itself: the noise floor.
"""

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
    threads: str = ""
    """as ``Record.threads``"""
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
        return 2 * self.pairs * (plan.PROCESS_SECONDS + self.measure.least_seconds)


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
        here = machine.describe()
        self._machine = machine.fingerprint(here)
        self._versions = machine.versions_text(here)
        self._began = time.monotonic()
        self._retries = self.schedule.pairs
        measured: tuple[list[Record], list[Record]] = ([], [])
        for side, pair in self.schedule:
            measured[side].append(self._last_attempt(side, pair))
        across = list(zip(*measured, strict=True))
        within = [
            (own[first], own[first + 1]) for own in measured for first in range(0, self.schedule.pairs - 1, 2)
        ]  # fmt: skip
        return Pairs(across, within)

    def _last_attempt(self, side: int, pair: int) -> Record:
        """A repeat; again, as often as the suite allows, if something disturbed it.

        On a machine that is never quiet that would take three times as long: together not more often than once a pair.
        """
        record = self._repeat(side, pair, attempt=0)
        while record.disturbed and record.attempt < self.schedule.measure.disturbed_retries and self._retries:
            self._retries -= 1
            record = self._repeat(side, pair, record.attempt + 1)
        return record

    def _repeat(self, side: int, pair: int, attempt: int) -> Record:
        version, what = self.versions[side], f"pair {pair + 1} of {self.schedule.pairs}, {NAMES[side]:<4}"
        seed = int(version.settings.get("seed", 0)) + pair
        record = Record(
            study=self.folder.name, trial=side, repeat=pair, state="failed", phase="confirm", baseline=side == BASE,
            params=version.settings, seed=seed, started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=version.commit, dirty=version.dirty, machine=self._machine, attempt=attempt, threads=version.threads,
            versions=self._versions, log=f"logs/{NAMES[side]}-{pair}" + (f"-again-{attempt}" if attempt else ""),
        )  # fmt: skip
        outcome = self.execute(
            self._spec(version, record), version.limits, self.stop, lambda progress: self._live(what, progress),
            code=version.code,
        )  # fmt: skip
        record = outcome.added_to(record)
        self._records.append(record)
        if record.state != "complete":
            name, log = NAMES[side].upper(), self.folder / record.log
            raise CompareError(f"{name} was not measured: {record.state}: {record.error}; see {log}")
        self._show(what, record)
        return record

    def _spec(self, version: Version, record: Record) -> TrialSpec:
        settings = version.settings | ({"seed": record.seed} if "seed" in version.settings else {})
        return TrialSpec.of(self.schedule.measure, version.trainer, settings, (self.folder / record.log).resolve())

    def _live(self, what: str, progress: dict[str, Any]) -> None:
        seconds = progress["wall_seconds"]
        speed = progress["env_steps"] / seconds if seconds else math.nan
        self.live(f"{what}: {speed:,.0f} steps/s since its start, {self._left()} left")

    def _show(self, what: str, record: Record) -> None:
        marks = [name for name, there in (("unsteady", record.unsteady), ("disturbed", record.disturbed)) if there]
        doubt = f" ({', '.join(marks)})" if marks else ""
        self.show(f"{what} {record.env_steps_per_second:>12,.0f} steps/s{doubt}, {self._left()} left")

    def _left(self) -> str:
        done = sum(record.attempt == 0 for record in self._records.records)
        total = 2 * self.schedule.pairs
        each = (time.monotonic() - self._began) / done if done else self.schedule.seconds / total
        return plan.describe_minutes(each * (total - done))

"""Both sides measured now, in turns and in fresh processes, in blocks of two pairs.

A block is base, new, new, base or the reverse, which is random: a machine that grows slower or faster hits both sides
alike, and what comes back at a fixed rhythm does not always hit the same one. The four of a block are alive
together and take turns of a fraction of a second (``harness.measure.interleaving``), so that what changes from one
second to the next hits them alike. Where that cannot be (four at once do not fit into the memory, or one side's code is
older than turns) they run one after the other in that order.
"""

import dataclasses
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.compare.judge import Pairs
from harness.compare.revisions import CompareError
from harness.measure import host as machine
from harness.measure.interleaving import FILE, Seat, take_turns
from harness.measure.process import Limits, Outcome, execute
from harness.measure.record import Record, RecordFile, disturbance
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from harness.predict import plan
from harness.suite.schema import Measure
from harness.suite.text import describe_minutes

BASE, NEW = 0, 1
"""numbers of the sides, as ``trial`` of their records"""
NAMES = ("base", "new")
RECORDS = "repeats.jsonl"
GIVEN_UP = "another repeat was not measured"

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
    one_by_one: str = ""
    """why the repeats of a block cannot take turns; empty: they do"""
    seed: str = ""
    """of the order"""

    def blocks(self) -> Iterator[list[tuple[int, int]]]:
        """Side and number of the pair of what is measured together, in the order of measuring."""
        order = list(self)
        size = 1 if self.one_by_one else 4
        return (order[first : first + size] for first in range(0, len(order), size))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Side and number of the pair, in the order of measuring."""
        rng = random.Random(self.seed)
        for pair in range(0, self.pairs, 2):
            first, second = rng.sample((BASE, NEW), 2)
            yield from ((first, pair), (second, pair))
            if pair + 1 < self.pairs:
                yield from ((second, pair + 1), (first, pair + 1))

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
        for block in self.schedule.blocks():
            for (side, _), record in zip(block, self._least_disturbed(block), strict=True):
                measured[side].append(record)
        return Pairs([[pair] for pair in zip(*measured, strict=True)])

    def _least_disturbed(self, block: list[tuple[int, int]]) -> list[Record]:
        """A block; again, as often as the suite allows, if something disturbed it. The least disturbed attempt counts.

        On a machine that is never quiet that would take three times as long: together not more often than once a pair.
        """
        attempts = [self._attempt(block, 0)]
        for attempt in range(1, self.schedule.measure.disturbed_retries + 1):
            if not (any(record.disturbed for record in attempts[-1]) and self._retries >= len(block) / 2):
                break
            self._retries -= math.ceil(len(block) / 2)
            attempts.append(self._attempt(block, attempt))
        return min(reversed(attempts), key=lambda records: max(map(disturbance, records)))

    def _attempt(self, block: list[tuple[int, int]], attempt: int) -> list[Record]:
        """Measure a block once.

        Raises:
            CompareError: a repeat was not measured to its end; the others were given up.
        """
        records = [self._record(side, pair, attempt, in_turns=len(block) > 1) for side, pair in block]
        if len(block) == 1:
            return [self._finish(records[0], self._execute(records[0]))]
        given_up = threading.Event()
        files = [self.folder / record.log / FILE for record in records]
        jobs = [partial(self._in_turns, record, given_up) for record in records]
        outcomes = take_turns(files, jobs)
        # a failure first: the others ended because of it
        done = sorted(zip(records, outcomes, strict=False), key=lambda pair: pair[1].state in ("complete", "pruned"))
        if done[0][1].state != "complete":
            self._finish(*done[0])
        return [self._finish(record, outcome) for record, outcome in zip(records, outcomes, strict=True)]

    def _in_turns(self, record: Record, given_up: threading.Event, seat: Seat) -> Outcome:
        if given_up.is_set():
            return Outcome("pruned", error=GIVEN_UP)
        outcome = self._execute(record, given_up, seat=seat)
        if outcome.state != "complete":
            given_up.set()
        return outcome

    def _record(self, side: int, pair: int, attempt: int, *, in_turns: bool) -> Record:
        version = self.versions[side]
        return Record(
            study=self.folder.name, trial=side, repeat=pair, state="failed", phase="confirm", baseline=side == BASE,
            params=version.settings, seed=int(version.settings.get("seed", 0)) + pair,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"), commit=version.commit, dirty=version.dirty,
            machine=self._machine, attempt=attempt, in_turns=in_turns, threads=version.threads, versions=self._versions,
            log=f"logs/{NAMES[side]}-{pair}" + (f"-again-{attempt}" if attempt else ""),
        )  # fmt: skip

    def _execute(self, record: Record, given_up: threading.Event | None = None, seat: Seat | None = None) -> Outcome:
        version = self.versions[record.trial]

        def watch(progress: dict[str, Any]) -> str | None:
            self._live(self._what(record), progress)
            return GIVEN_UP if given_up is not None and given_up.is_set() else None

        more: dict[str, Any] = {} if seat is None else {"seat": seat}
        spec = self._spec(version, record)
        if seat is not None:
            spec = dataclasses.replace(spec, pauses=str(seat.file.resolve()))
        return self.execute(spec, version.limits, self.stop, watch, code=version.code, **more)

    def _finish(self, record: Record, outcome: Outcome) -> Record:
        """Keep what was measured.

        Raises:
            CompareError: it was not measured to its end.
        """
        record = outcome.added_to(record)
        self._records.append(record)
        if record.state != "complete":
            name, log = NAMES[record.trial].upper(), self.folder / record.log
            raise CompareError(f"{name} was not measured: {record.state}: {record.error}; see {log}")
        self._show(self._what(record), record)
        return record

    def _what(self, record: Record) -> str:
        return f"pair {record.repeat + 1} of {self.schedule.pairs}, {NAMES[record.trial]:<4}"

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
        return describe_minutes(each * (total - done))

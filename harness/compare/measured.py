"""Both sides measured now, in turns and in fresh processes, in blocks of two pairs.

A block is base, new, new, base or the reverse, which is random. The four of a block are alive together and take turns
of a fraction of a second (``harness.measure.interleaving``), so that what changes from one second to the next hits them
alike. Where that cannot be (four at once do not fit into the memory, or one side's code is older than turns) they run
one after the other in that order.
"""

import dataclasses
import json
import math
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.compare.sides import CompareError, Side, checkouts, configuration, suite_of, why_not_together
from harness.compare.verdict import Pairs
from harness.measure import host as machine
from harness.measure import provenance
from harness.measure.engines.blocks import Attempt, Job, carry_out, measured, mirrored, until_calm
from harness.measure.engines.local import LocalEngine
from harness.measure.process import Outcome, RepeatLimits, execute
from harness.measure.record import Record, RecordFile, attempts_that_count, write_atomic
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from harness.predict import plan
from harness.suite.schema import Limits, Measure, Suite
from harness.suite.text import minutes_text

BASE, NEW = 0, 1
"""numbers of the sides, as ``trial`` of their records"""
NAMES = ("base", "new")
RECORDS = "repeats.jsonl"
GIVEN_UP = "another repeat was not measured"


@dataclass(frozen=True)
class Options:
    """What was asked for beside the two sides; None: nothing was said."""

    results: Path
    suite: Path | None = None
    """its baseline is measured for sides that are commits"""
    config: Path | None = None
    """instead of a suite's baseline"""
    pairs: int = 8
    seconds: float | None = None
    warmup_seconds: float | None = None
    turns: bool = True


@dataclass(frozen=True)
class Version:
    """One side, ready to be measured."""

    trainer: str
    settings: dict[str, Any]
    limits: RepeatLimits
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
        for pair in range(0, self.pairs, 2):
            order = mirrored((BASE, NEW), f"{self.seed} {pair}", None if pair + 1 < self.pairs else ())
            block = [(side, pair + back) for side, back in order]
            yield from [[one] for one in block] if self.one_by_one else [block]

    @property
    def seconds(self) -> float:
        """Estimate of the whole."""
        return 2 * self.pairs * (plan.PROCESS_SECONDS + self.measure.least_seconds)


def measure(base: Side, new: Side, options: Options, console: Console) -> tuple[Pairs, list[str], Path]:
    """Measure both sides; their pairs, the metrics that decide, and the folder that has the records.

    Raises:
        CompareError, InputError: a side cannot be measured, or was not measured to its end.
        Stopped: by a signal.
    """
    folder = options.results / "compare" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with StopSignal() as stop, prepared(base, new, options) as (versions, schedule, deciding):
        took = minutes_text(schedule.seconds)
        console.print(f"{schedule.pairs} pairs, about {took}; records in {folder}", soft_wrap=True)
        folder.mkdir(parents=True)
        manifest = {
            "command": shlex.join([Path(sys.executable).name, "-m", "harness", *sys.argv[1:]]),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pairs": schedule.pairs,
            "warmup_seconds": schedule.measure.warmup_seconds, "seconds": schedule.measure.steady_seconds,
            "sides": [
                {"name": side.name, "commit": version.commit, "dirty": version.dirty, "trainer": version.trainer,
                 "settings": version.settings}
                for side, version in zip((base, new), versions, strict=True)
            ],
        }  # fmt: skip
        write_atomic(folder / "manifest.json", json.dumps(manifest, indent=2, default=str) + "\n")
        schedule = dataclasses.replace(schedule, seed=folder.name)
        with console.status("starting") as status:
            pairs = Measuring(versions, schedule, folder, stop, console.print, status.update).run()
    one, other = versions
    if (one.trainer, one.settings) != (other.trainer, other.settings):
        pairs.notes.append("the sides have different settings: a change is that of settings and code together")
    if (base.commit or new.commit) and provenance.commit().dirty:
        pairs.notes.append("the working tree has changes that no commit has; they were not measured at a commit")
    if schedule.one_by_one:
        pairs.notes.append(f"the repeats ran one after the other, not in turns: {schedule.one_by_one}")
    return pairs, deciding, folder


@contextmanager
def prepared(base: Side, new: Side, options: Options) -> Iterator[tuple[tuple[Version, Version], Schedule, list[str]]]:
    """Both sides ready to be measured, and the metrics that decide; the commits' worktrees last as long as the context.

    Raises:
        CompareError: a configuration is missing, or does not fit into this machine.
        InputError: a suite or a configuration is wrong.
    """
    suite = suite_of(base, new, options.suite)
    sides = (base, new)
    configurations = [configuration(side, options.suite, options.config, options.results) for side in sides]
    measure = suite.measure if suite else Measure()
    if options.seconds is not None:
        measure = dataclasses.replace(measure, seconds=options.seconds, return_at=None)
    if options.warmup_seconds is not None:
        measure = dataclasses.replace(measure, warmup_seconds=options.warmup_seconds)
    limits = suite.limits if suite else Limits()
    deciding = [objective.metric for objective in (suite.objectives if suite else Suite.objectives)]
    here = provenance.commit()
    with checkouts([side.commit for side in sides if side.commit is not None]) as folders:
        timeout = max(limits.trial_timeout_seconds, 2 * measure.least_seconds)
        versions = []
        for side, own in zip(sides, configurations, strict=True):
            allowed = RepeatLimits(timeout, limits.progress_timeout_seconds, own.host_limit)
            commit, changed, code = here.commit, here.dirty, None
            if side.commit is not None:
                commit, changed, code = side.commit, False, folders[side.commit]
            versions.append(Version(own.trainer, own.settings, allowed, commit, changed, own.threads, code))
        if not options.turns:
            one_by_one = "--no-turns"
        elif not measure.turns:
            one_by_one = "the suite says measure.turns: false"
        else:
            one_by_one = why_not_together(configurations, [version.code for version in versions])
        yield (versions[0], versions[1]), Schedule(measure, options.pairs, one_by_one), deciding


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
    execute: Callable[..., Outcome] = execute

    def run(self) -> Pairs:
        """Measure all pairs.

        Raises:
            CompareError: a repeat was not measured to its end.
            Stopped: by a signal.
            RecordError: a record could not be written.
        """
        self._records = RecordFile(self.folder / RECORDS)
        here = machine.describe()
        self._machine, self._packages = machine.fingerprint(here), machine.versions_text(here)
        self._began = time.monotonic()
        self._retries = self.schedule.pairs
        self._failed = threading.Event()
        blocks = self.schedule.blocks()
        works = (until_calm([None] * len(block), partial(self._measure, block), self._again) for block in blocks)
        carry_out(works, LocalEngine(self._machine, self.stop, self._until_one_fails), self.stop)
        counted = {(record.repeat, record.trial): record for record in attempts_that_count(self._records.records)}
        return Pairs([[(counted[pair, BASE], counted[pair, NEW])] for pair in range(self.schedule.pairs)])

    def _again(self, last: Sequence[Record]) -> bool:
        """As often as the suite allows, if something disturbed a block.

        On a machine that is never quiet that would take three times as long: together not more often than once a pair.
        """
        if last[0].attempt >= self.schedule.measure.disturbed_retries or self._retries < len(last) / 2:
            return False
        if not any(record.disturbed for record in last):
            return False
        self._retries -= math.ceil(len(last) / 2)
        return True

    def _measure(self, block: Sequence[tuple[int, int]], attempt: int, _: bool) -> Attempt:
        """One attempt at a block, recorded.

        Raises:
            CompareError: a repeat was not measured to its end; the others were given up.
        """
        repeats = []
        for side, pair in block:
            record = self._record(side, pair, attempt, in_turns=len(block) > 1)
            repeats.append((record, self._job(record)))
        records = yield from measured(repeats)
        # a failure first: the others ended because of it
        for record in sorted(records, key=lambda one: one.state in ("complete", "pruned")):
            if record.state != "complete":
                self._records.append(record)
                name, log = NAMES[record.trial].upper(), self.folder / record.log
                raise CompareError(f"{name} was not measured: {record.state}: {record.error}; see {log}")
        for record in records:
            self._records.append(record)
            marks = [name for name, there in (("unsteady", record.unsteady), ("disturbed", record.disturbed)) if there]
            doubt = f" ({', '.join(marks)})" if marks else ""
            speed = f"{record.env_steps_per_second:>12,.0f} steps/s"
            self.show(f"{self._what(record)} {speed}{doubt}, {self._left()} left")
        return records

    def _until_one_fails(self, spec: TrialSpec, *arguments: Any, **more: Any) -> Outcome:
        if self._failed.is_set():
            return Outcome("pruned", error=GIVEN_UP)
        outcome = self.execute(spec, *arguments, **more)
        if outcome.state != "complete":
            self._failed.set()
        return outcome

    def _record(self, side: int, pair: int, attempt: int, *, in_turns: bool) -> Record:
        version = self.versions[side]
        return Record(
            study=self.folder.name, trial=side, repeat=pair, state="failed", phase="confirm", baseline=side == BASE,
            params=version.settings, seed=int(version.settings.get("seed", 0)) + pair,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"), commit=version.commit, dirty=version.dirty,
            machine=self._machine, attempt=attempt, in_turns=in_turns, threads=version.threads, versions=self._packages,
            log=f"logs/{NAMES[side]}-{pair}" + (f"-again-{attempt}" if attempt else ""),
        )  # fmt: skip

    def _job(self, record: Record) -> Job:
        version = self.versions[record.trial]

        def watch(progress: dict[str, Any]) -> str | None:
            seconds = progress["wall_seconds"]
            speed = progress["env_steps"] / seconds if seconds else math.nan
            self.live(f"{self._what(record)}: {speed:,.0f} steps/s since its start, {self._left()} left")
            return GIVEN_UP if self._failed.is_set() else None

        settings = version.settings | ({"seed": record.seed} if "seed" in version.settings else {})
        folder = (self.folder / record.log).resolve()
        spec = TrialSpec.of(self.schedule.measure, version.trainer, settings, folder)
        return Job(spec, version.limits, watch, code=version.code)

    def _what(self, record: Record) -> str:
        return f"pair {record.repeat + 1} of {self.schedule.pairs}, {NAMES[record.trial]:<4}"

    def _left(self) -> str:
        done = sum(record.attempt == 0 for record in self._records.records)
        total = 2 * self.schedule.pairs
        each = (time.monotonic() - self._began) / done if done else self.schedule.seconds / total
        return minutes_text(each * (total - done))

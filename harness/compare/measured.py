"""Both sides measured now, in turns and in fresh processes, in blocks of two pairs.

A block is base, new, new, base or the reverse, chosen at random. The four of a block are alive together and take turns
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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.compare.sides import CompareError, Side, Version, checkouts, version_of, why_not_together
from harness.compare.verdict import Pairs
from harness.measure import host as machine
from harness.measure import provenance
from harness.measure.engines.blocks import Attempt, carry_out, measured, mirrored, until_calm
from harness.measure.engines.local import LocalEngine
from harness.measure.process import Job, Outcome
from harness.measure.record import Record, RecordFile, attempts_that_count, write_atomic
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from harness.predict import plan
from harness.study.results import RecordedStudy
from harness.suite.schema import Measure, Suite
from harness.suite.text import minutes_text

BASE, NEW = 0, 1
"""numbers of the sides, as ``trial`` of their records"""
NAMES = ("base", "new")
RECORDS = "repeats.jsonl"


@dataclass(frozen=True)
class Options:
    """What the command line says beside the two sides; None where it says nothing."""

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
class Schedule:
    """How long and how often."""

    measure: Measure
    pairs: int
    one_by_one: str = ""
    """why the repeats of a block cannot take turns; empty: they do"""
    seed: str = ""
    """of the order"""

    def blocks(self) -> Iterator[list[tuple[int, int]]]:
        """What is measured together: the side and the number of the pair of each repeat, in the order of measuring."""
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
        pairs.notes.append("the sides have different settings: a change may come from the settings or from the code")
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
    study = base.study or new.study
    made = plan.make(options.suite) if options.suite else None
    suite = made.suite if made else RecordedStudy(study).suite if study else Suite("none")
    measure = suite.measure
    if options.seconds is not None:
        measure = dataclasses.replace(measure, seconds=options.seconds, return_at=None)
    if options.warmup_seconds is not None:
        measure = dataclasses.replace(measure, warmup_seconds=options.warmup_seconds)
    one, other = (
        version_of(side, made, options.config, options.results, suite.limits, measure.least_seconds)
        for side in (base, new)
    )
    with checkouts([side.commit for side in (base, new) if side.commit is not None]) as folders:
        one = dataclasses.replace(one, code=folders.get(base.commit or ""))
        other = dataclasses.replace(other, code=folders.get(new.commit or ""))
        if not options.turns:
            one_by_one = "--no-turns"
        elif not measure.turns:
            one_by_one = "the suite says measure.turns: false"
        else:
            one_by_one = why_not_together([one, other])
        deciding = [objective.metric for objective in suite.objectives]
        yield (one, other), Schedule(measure, options.pairs, one_by_one), deciding


@dataclass
class Measuring:
    """Carries out a schedule. The record of each repeat is in ``folder`` as soon as the repeat has ended."""

    versions: tuple[Version, Version]
    schedule: Schedule
    folder: Path
    stop: StopSignal
    show: Callable[[str], None]
    """a line for each repeat that ended"""
    live: Callable[[str], None] = lambda text: None
    """what is going on now"""
    execute: Callable[..., Outcome] | None = None
    """runs one repeat; None: in a process of its own"""

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
        blocks = self.schedule.blocks()
        works = (until_calm([None] * len(block), partial(self._measure, block), self._again) for block in blocks)
        with LocalEngine(self._machine, self.stop, self.execute) as engine:
            carry_out(works, engine, self.stop)
        counted = {(record.repeat, record.trial): record for record in attempts_that_count(self._records.records)}
        return Pairs([[(counted[pair, BASE], counted[pair, NEW])] for pair in range(self.schedule.pairs)])

    def _again(self, last: Sequence[Record]) -> bool:
        """Whether a disturbed block is measured again: as often as the suite allows, and once a pair over all.

        Without that bound a comparison would take three times as long on a machine that is never quiet.
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
            CompareError: a repeat was not measured to its end.
        """
        repeats = []
        for side, pair in block:
            version = self.versions[side]
            seed = int(version.settings.get("seed", 0)) + pair
            record = Record(
                study=self.folder.name, trial=side, repeat=pair, state="failed", phase="confirm", baseline=side == BASE,
                params=version.settings, seed=seed, started_at=datetime.now(UTC).isoformat(timespec="seconds"),
                commit=version.commit, dirty=version.dirty, machine=self._machine, attempt=attempt,
                in_turns=len(block) > 1, threads=version.threads, versions=self._packages,
                log=f"logs/{NAMES[side]}-{pair}" + (f"-again-{attempt}" if attempt else ""),
            )  # fmt: skip
            settings = version.settings | ({"seed": seed} if "seed" in version.settings else {})
            folder = (self.folder / record.log).resolve()
            spec = TrialSpec.of(self.schedule.measure, version.trainer, settings, folder)
            repeats.append((record, Job(spec, version.limits, partial(self._watch, record), code=version.code)))
        records = yield from measured(repeats)
        for record in records:
            self._records.append(record)
            if record.state != "complete":
                log = self.folder / record.log
                raise CompareError(
                    f"{NAMES[record.trial].upper()} was not measured: {record.state}: {record.error}; see {log}"
                )
            marks = [name for name, there in (("unsteady", record.unsteady), ("disturbed", record.disturbed)) if there]
            doubt = f" ({', '.join(marks)})" if marks else ""
            speed = f"{record.env_steps_per_second:>12,.0f} steps/s"
            self.show(f"{self._what(record)} {speed}{doubt}, {self._left()} left")
        return records

    def _watch(self, record: Record, progress: dict[str, Any]) -> None:
        seconds = progress["wall_seconds"]
        speed = progress["env_steps"] / seconds if seconds else math.nan
        self.live(f"{self._what(record)}: {speed:,.0f} steps/s since its start, {self._left()} left")

    def _what(self, record: Record) -> str:
        return f"pair {record.repeat + 1} of {self.schedule.pairs}, {NAMES[record.trial]:<4}"

    def _left(self) -> str:
        done = sum(record.attempt == 0 for record in self._records.records)
        total = 2 * self.schedule.pairs
        each = (time.monotonic() - self._began) / done if done else self.schedule.seconds / total
        return minutes_text(each * (total - done))

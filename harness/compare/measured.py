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
from harness.trainers.trainer import threads_text

BASE, NEW = 0, 1
"""numbers of the sides, as ``trial`` of their records"""
NAMES = ("base", "new")
RECORDS = "repeats.jsonl"


def measure(
    base: Side, new: Side, results: Path, console: Console, **options: Any
) -> tuple[Pairs, dict[str, str], Path]:
    """Measure both sides; their pairs, what decides (see ``prepared``), and the folder that has the records.

    Args:
        base: one side.
        new: the other.
        results: folder of all studies, and of comparisons.
        console: where progress is shown.
        options: those of ``prepared``.

    Raises:
        CompareError, InputError: a side cannot be measured, or was not measured to its end.
        Stopped: by a signal.
    """
    folder = results / "compare" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with StopSignal() as stop, prepared(base, new, results, **options) as (measuring, deciding):
        took = minutes_text(measuring.seconds)
        console.print(f"{measuring.pairs} pairs, about {took}; records in {folder}", soft_wrap=True)
        folder.mkdir(parents=True)
        specs = [measuring.spec(side, 0, folder) for side in (BASE, NEW)]
        manifest = {
            "command": shlex.join([Path(sys.executable).name, "-m", "harness", *sys.argv[1:]]),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "pairs": measuring.pairs,
            "warmup_seconds": measuring.measure.warmup_seconds, "seconds": measuring.measure.steady_seconds,
            "sides": [
                {"name": side.name, "commit": version.commit, "dirty": version.dirty, "trainer": spec.trainer,
                 "settings": spec.settings}
                for side, version, spec in zip((base, new), measuring.versions, specs, strict=True)
            ],
        }  # fmt: skip
        write_atomic(folder / "manifest.json", json.dumps(manifest, indent=2, default=str) + "\n")
        with console.status("starting") as status:
            pairs = measuring.run(folder, stop, console.print, status.update)
    if specs[BASE] != specs[NEW]:
        pairs.notes.append("the sides have different settings: a change may come from the settings or from the code")
    if (base.commit or new.commit) and provenance.commit().dirty:
        pairs.notes.append("the working tree has changes that no commit has; they were not measured at a commit")
    if measuring.one_by_one:
        pairs.notes.append(f"the repeats ran one after the other, not in turns: {measuring.one_by_one}")
    return pairs, deciding, folder


@contextmanager
def prepared(
    base: Side,
    new: Side,
    results: Path,
    *,
    suite: Path | None = None,
    config: Path | None = None,
    pairs: int = 8,
    seconds: float | None = None,
    warmup: float | None = None,
    no_turns: bool = False,
) -> Iterator[tuple["Measuring", dict[str, str]]]:
    """Both sides ready to be measured, and what decides: the objectives, with their directions.

    The files of commits last as long as the context. The options are those of the command line.

    Raises:
        CompareError: a configuration is missing, or does not fit into this machine.
        InputError: a suite or a configuration is wrong.
    """
    made = plan.make(suite, results=results) if suite else None
    studies = [RecordedStudy(study) for study in (*base.studies, *new.studies)]
    rules = made.suite if made else studies[0].suite if studies else Suite("none")
    how = rules.measure
    if seconds is not None:
        how = dataclasses.replace(how, seconds=seconds, return_at=None)
    if warmup is not None:
        how = dataclasses.replace(how, warmup_seconds=warmup)
    versions = [version_of(side, made, config, results, rules.limits) for side in (base, new)]
    with checkouts([side.commit for side in (base, new) if side.commit is not None]) as folders:
        one, other = (
            dataclasses.replace(version, code=folders.get(side.commit or ""))
            for version, side in zip(versions, (base, new), strict=True)
        )
        if no_turns:
            one_by_one = "--no-turns"
        elif not how.turns:
            one_by_one = "the suite says measure.turns: false"
        else:
            one_by_one = why_not_together([one, other])
        directions: dict[str, str] = {one.metric: one.direction for one in rules.objectives}
        yield Measuring((one, other), how, pairs, one_by_one), directions


def blocks(pairs: int, seed: str, *, one_by_one: bool = False) -> Iterator[list[tuple[int, int]]]:
    """What is measured together: the side and the number of the pair of each repeat, in the order of measuring."""
    for pair in range(0, pairs, 2):
        order = mirrored((BASE, NEW), f"{seed} {pair}", None if pair + 1 < pairs else ())
        block = [(side, pair + back) for side, back in order]
        yield from [[one] for one in block] if one_by_one else [block]


@dataclass(frozen=True)
class Measuring:
    """What is measured of both sides, how long and how often."""

    versions: tuple[Version, Version]
    measure: Measure
    pairs: int
    one_by_one: str = ""
    """why the repeats of a block cannot take turns; empty: they do"""

    @property
    def seconds(self) -> float:
        """Estimate of the whole."""
        return 2 * self.pairs * (plan.PROCESS_SECONDS + self.measure.least_seconds)

    def seed(self, pair: int) -> int:
        """That of both sides of a pair."""
        base = self.versions[BASE].plan
        return base.first_seed(base.baseline) + pair

    def spec(self, side: int, pair: int, folder: Path) -> TrialSpec:
        """What the process of one repeat needs to know; ``folder`` is the repeat's own."""
        own = self.versions[side].plan
        return own.spec(own.baseline, self.seed(pair), folder, self.measure)

    def run(
        self,
        folder: Path,
        stop: StopSignal,
        show: Callable[[str], None],
        live: Callable[[str], None] = lambda text: None,
        execute: Callable[..., Outcome] | None = None,
    ) -> Pairs:
        """Measure all pairs. ``folder`` has the records of a block, or of a repeat that runs alone, when it has ended.

        ``show`` gets a line for each repeat that ended, ``live`` what is going on now. ``execute`` runs one repeat;
        None: in a process of its own.

        Raises:
            CompareError: a repeat was not measured to its end.
            Stopped: by a signal.
            RecordError: a record could not be written.
        """
        records, here = RecordFile(folder / RECORDS), machine.describe()
        name, packages = machine.fingerprint(here), machine.versions_text(here)
        began, retries = time.monotonic(), self.pairs

        def progress_text(record: Record, text: str) -> str:
            done, total = sum(one.attempt == 0 for one in records.records), 2 * self.pairs
            each = (time.monotonic() - began) / done if done else self.seconds / total
            what = f"pair {record.repeat + 1} of {self.pairs}, {NAMES[record.trial]:<4}"
            return f"{what}{text}, {minutes_text(each * (total - done))} left"

        def watch(record: Record, progress: dict[str, Any]) -> None:
            seconds = progress["wall_seconds"]
            speed = progress["env_steps"] / seconds if seconds else math.nan
            live(progress_text(record, f": {speed:,.0f} steps/s since its start"))

        def attempt_at(block: Sequence[tuple[int, int]], attempt: int, _: bool) -> Attempt:
            repeats = []
            for side, pair in block:
                version = self.versions[side]
                log = f"logs/{NAMES[side]}-{pair}" + (f"-again-{attempt}" if attempt else "")
                spec = self.spec(side, pair, (folder / log).resolve())
                timeout = max(version.limits.timeout_seconds, 2 * self.measure.least_seconds)
                limits = dataclasses.replace(version.limits, timeout_seconds=timeout)
                record = Record(
                    study=folder.name, trial=side, repeat=pair, state="failed", phase="confirm", baseline=side == BASE,
                    params=version.settings, seed=self.seed(pair),
                    started_at=datetime.now(UTC).isoformat(timespec="seconds"), commit=version.commit,
                    dirty=version.dirty, machine=name, attempt=attempt, in_turns=len(block) > 1,
                    threads=threads_text(version.plan.trainer, version.settings), versions=packages, log=log,
                )  # fmt: skip
                repeats.append((record, Job(spec, limits, partial(watch, record), code=version.code)))
            ended = yield from measured(repeats)
            for record in ended:  # all before an error: none is lost
                records.append(record)
            for record in ended:
                if record.state != "complete":
                    raise CompareError(
                        f"{NAMES[record.trial].upper()} was not measured: {record.state}: {record.error}; see "
                        f"{folder / record.log}"
                    )
                marks = ", ".join(mark for mark in ("unsteady", "disturbed") if getattr(record, mark))
                doubt = f" ({marks})" if marks else ""
                show(progress_text(record, f" {record.env_steps_per_second:>12,.0f} steps/s{doubt}"))
            return ended

        def again(last: Sequence[Record]) -> bool:
            """Whether a disturbed block is measured again: as often as the suite allows, and once a pair over all.

            Without that bound a comparison would take three times as long on a machine that is never quiet.
            """
            nonlocal retries
            if last[0].attempt >= self.measure.disturbed_retries or retries < len(last) / 2:
                return False
            if not any(record.disturbed for record in last):
                return False
            retries -= math.ceil(len(last) / 2)
            return True

        order = blocks(self.pairs, folder.name, one_by_one=bool(self.one_by_one))
        works = (until_calm([None] * len(block), partial(attempt_at, block), again) for block in order)
        with LocalEngine(name, stop, execute, cores=self.measure.cores, side_by_side=1) as engine:
            carry_out(works, engine, stop)
        counted = {(record.repeat, record.trial): record for record in attempts_that_count(records.records)}
        return Pairs([[(counted[pair, BASE], counted[pair, NEW])] for pair in range(self.pairs)])

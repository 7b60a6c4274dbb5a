"""The verb ``compare``: from names on the command line to an exit code."""

import dataclasses
import json
import secrets
import shlex
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.compare import prepare, recorded, tables
from harness.compare.judge import DETECT, Comparison, Pairs, compare
from harness.compare.measure import Measuring, Schedule, Version
from harness.compare.revisions import CompareError
from harness.compare.sides import Side, resolve
from harness.measure import provenance
from harness.measure.record import write_atomic
from harness.measure.stop import StopSignal
from harness.stats.inference import needed_pairs
from harness.suite.metrics import METRICS
from harness.suite.text import describe_minutes
from unilab.settings import nearest

MEASURE_OPTIONS = ("suite", "config", "pairs", "seconds", "warmup", "no_turns")
"""that mean nothing without --measure"""


def run(arguments: Namespace, console: Console) -> tuple[Comparison, dict[str, Any]]:
    """Compare as the command line says, and show it; the comparison and what ``--json`` prints.

    Raises:
        CompareError, InputError: something is wrong with what was asked for, or a side cannot be measured.
        Stopped: by a signal, while measuring.
    """
    _check(arguments)
    base, new = (resolve(name, arguments.results) for name in (arguments.base, arguments.new))
    if arguments.measure:
        pairs, deciding, folder = _measure(arguments, base, new, console)
    else:
        pairs, deciding = recorded.pairs(base, new, arguments.results, across_machines=arguments.across_machines)
        folder = None
    comparison = compare(pairs, arguments.metric or deciding, arguments.detect or DETECT)
    content = tables.as_dict(comparison, base, new)
    if folder is not None:
        content["folder"] = str(folder)
        write_atomic(folder / "comparison.json", json.dumps(content, indent=2, default=str) + "\n")
    tables.show(comparison, base, new, console)
    if folder is not None:
        console.print(f"Records: {folder}", soft_wrap=True)
    return comparison, content


def _check(arguments: Namespace) -> None:
    for name in arguments.metric:
        if name not in METRICS:
            raise CompareError(f"--metric {name}: unknown metric; {nearest(name, METRICS)}")
    given = [name for name in MEASURE_OPTIONS if getattr(arguments, name) is not None]
    if given and not arguments.measure:
        option = f"--{given[0].replace('_', '-')}"
        raise CompareError(f"{option} is for measuring now: add --measure, or leave {option} out")
    if arguments.measure and arguments.across_machines:
        raise CompareError("--across-machines is for studies that were measured before; leave it or --measure out")
    if arguments.pairs is not None and arguments.pairs < needed_pairs():
        raise CompareError(
            f"--pairs {arguments.pairs}: nothing can be shown with fewer than {needed_pairs()} pairs; the exact test "
            "reaches p < 0.05 with six"
        )


def _measure(arguments: Namespace, base: Side, new: Side, console: Console) -> tuple[Pairs, list[str], Path]:
    given = {"pairs": arguments.pairs, "seconds": arguments.seconds, "warmup_seconds": arguments.warmup}
    given |= {"turns": False} if arguments.no_turns else {}
    options = prepare.Options(
        arguments.suite, arguments.config, **{name: value for name, value in given.items() if value is not None}
    )
    folder = arguments.results / "compare" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with StopSignal() as stop, prepare.prepared(base, new, options) as (versions, schedule, deciding):
        console.print(
            f"{schedule.pairs} pairs, about {describe_minutes(schedule.seconds)}; records in {folder}",
            soft_wrap=True,
        )
        folder.mkdir(parents=True)
        schedule = dataclasses.replace(schedule, seed=folder.name)
        _describe(folder, versions, schedule, (base, new))
        with console.status("starting") as status:
            pairs = Measuring(versions, schedule, folder, stop, console.print, status.update).run()
        pairs.notes.extend(_notes(versions, (base, new)))
        if schedule.one_by_one:
            pairs.notes.append(f"the repeats ran one after the other, not in turns: {schedule.one_by_one}")
    return pairs, deciding, folder


def _notes(versions: tuple[Version, Version], sides: tuple[Side, Side]) -> list[str]:
    notes = []
    if versions[0].settings != versions[1].settings or versions[0].trainer != versions[1].trainer:
        notes.append("the sides have different settings: a change is that of settings and code together")
    if any(side.commit for side in sides) and provenance.commit().dirty:
        notes.append("the working tree has changes that no commit has; they were not measured at a commit")
    return notes


def _describe(folder: Path, versions: tuple[Version, Version], schedule: Schedule, sides: tuple[Side, Side]) -> None:
    """What is measured, before it is."""
    content = {
        "command": shlex.join([Path(sys.executable).name, "-m", "harness", *sys.argv[1:]]),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "pairs": schedule.pairs,
        "warmup_seconds": schedule.measure.warmup_seconds, "seconds": schedule.measure.steady_seconds,
        "sides": [
            {"name": side.name, "commit": version.commit, "dirty": version.dirty, "trainer": version.trainer,
             "settings": version.settings}
            for side, version in zip(sides, versions, strict=True)
        ],
    }  # fmt: skip
    write_atomic(folder / "manifest.json", json.dumps(content, indent=2, default=str) + "\n")

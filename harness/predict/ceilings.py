"""What this machine can do at most: the parts of a trainer's round, each measured alone, once for machine and code.

``<results>/ceilings/<machine>-<trainer>-<code>.json`` keeps them, with the digest that a study's id has; a study has a
copy. What a later study needs besides is added to the file, so the first study of a kind takes some seconds longer, and
the others start at once. Costs are measured in a fresh process, as trials are. What was measured while other programs
took the cores serves its study alone.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from harness.files.locks import locked
from harness.measure import interference
from harness.measure.host import fingerprint
from harness.measure.record import write_atomic
from harness.measure.repeat import UNLIMITED
from harness.measure.stop import Stopped, StopSignal
from harness.measure.window import SteadyWindow
from harness.suite import sources
from harness.trainers import trainer as trainers
from harness.trainers.rounds import Cost, Describes, Part
from unilab.ipc import CollectorError, CollectorGroup, SharedFlag, remove_leftovers
from unilab.machine.devices import usable_cores

FILE = "ceilings.json"
"""the copy in a study's folder"""
SILENT_SECONDS = 120.0
"""for one part; a measuring process that says nothing for longer hangs"""
SIZES = 4
"""at which the cost of a part is measured at most; between them it is interpolated"""
REHEARSAL_SECONDS = 2.0
"""steady window of the short run of both sides"""
SECONDS = 40.0
"""after which no further variant of a part of which one is known is measured; the most similar one stands in"""
CLOSE = 1.05
"""sizes within this ratio are not told apart"""


class CeilingsError(RuntimeError):
    """The ceilings could not be measured."""


@dataclass(frozen=True)
class Measured:
    """A part and what it costs."""

    part: Part
    cost: Cost


@dataclass(frozen=True)
class Rehearsal:
    """Both sides: a short run of a configuration whose sides share cores, or take turns."""

    settings: Mapping[str, Any]
    updates_per_second: float


@dataclass
class Ceilings:
    """Costs of a trainer's parts on one machine."""

    machine: str
    cores: int
    measured: list[Measured] = field(default_factory=list)
    rehearsals: list[Rehearsal] = field(default_factory=list)
    disturbed: str = ""
    """what disturbed the measuring, in words; empty when nothing did"""
    seconds: float = 0.0
    """that all the measuring took"""

    def __post_init__(self) -> None:
        self._groups: dict[str, dict[int, Cost]] = {}
        for one in self.measured:
            self._groups.setdefault(one.part.group, {})[one.part.size] = one.cost

    def cost(self, part: Part) -> Cost | None:
        """The cost of one execution, interpolated over the size; None when nothing of the kind was measured.

        Where the part's own settings were not measured, those that share the most with them stand in.
        """
        group = self._groups.get(part.group)
        if group is None:
            alike = [one.part for one in self.measured if one.part.kind == part.kind]
            if not alike:
                return None
            nearest = max(alike, key=lambda one: sum(part.settings.get(k) == v for k, v in one.settings.items()))
            group = self._groups[nearest.group]
        sizes = sorted(group)
        return Cost(
            _interpolate(part.size, sizes, [group[size].seconds for size in sizes]),
            _interpolate(part.size, sizes, [group[size].core_seconds for size in sizes]),
        )

    def missing(self, parts: Iterable[Part]) -> list[Part]:
        """Those of a study's parts that are to be measured, the most needed settings first, ``SIZES`` of each."""
        needed: dict[str, list[Part]] = {}
        for part in parts:
            needed.setdefault(part.group, []).append(part)
        missing = []
        for group, own in sorted(needed.items(), key=lambda item: -len(item[1])):
            known = sorted(self._groups.get(group, {}))
            by_size = {part.size: part for part in own}
            for size in spread(sorted(by_size), SIZES):
                is_known = any(max(size, other) <= CLOSE * min(size, other) for other in known)
                is_between = len(known) >= SIZES and known[0] <= size <= known[-1]
                if not is_known and not is_between:
                    missing.append(by_size[size])
        return missing

    def take_in(self, others: "Ceilings") -> None:
        """Add what another study measured on this machine meanwhile; where both measured the same, ours stays."""
        sizes = [(one.part.group, one.part.size) for one in self.measured]
        self.measured += [one for one in others.measured if (one.part.group, one.part.size) not in sizes]
        runs = [one.settings for one in self.rehearsals]
        self.rehearsals += [one for one in others.rehearsals if one.settings not in runs]
        self.__post_init__()

    def text(self) -> str:
        """The content of the file."""
        return _CEILINGS.dump_json(self, indent=1).decode() + "\n"


_CEILINGS = pydantic.TypeAdapter(Ceilings)


def spread(sizes: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the sizes, both ends among them, evenly spaced by their ratios."""
    wanted = np.geomspace(sizes[0], sizes[-1], min(count, len(sizes)))
    return sorted({min(sizes, key=lambda size: abs(np.log(size / aim))) for aim in wanted} | {sizes[0], sizes[-1]})


def _interpolate(size: float, sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Linear between logarithms; beyond the ends in proportion to the size."""
    if size > sizes[-1]:
        return costs[-1] * size / sizes[-1]
    floor = 1e-9  # a cost of nothing has no logarithm
    logs = np.log(np.maximum(costs, floor))
    return float(np.exp(np.interp(np.log(size), np.log(sizes), logs)))


def path_of(results: Path, trainer: str, code: str) -> Path:
    """Where the ceilings of this machine, a trainer and code, by its digest, are kept."""
    name = re.sub("[^A-Za-z0-9_.]", "-", trainer)
    return results / "ceilings" / f"{fingerprint()}-{name}-{code[: sources.SHORT]}.json"


def load(path: Path) -> Ceilings | None:
    """The ceilings kept in a file; None when there are none, or none that can be read."""
    try:
        return _CEILINGS.validate_json(path.read_bytes())
    except (OSError, ValueError):  # absent, cut short, or of another version: measured again
        return None


def measure(
    trainer: str,
    parts: Iterable[Part],
    results: Path,
    code: str,
    stop: StopSignal,
    say: Callable[[str], None] = lambda text: None,
    rehearse: Sequence[Mapping[str, Any]] = (),
) -> Ceilings:
    """The ceilings that a study needs: kept ones, and what is missing measured now.

    Args:
        parts: of all configurations that are to be predicted.
        code: digest of the code that is measured.
        rehearse: settings to run for a moment, to see what the sides cost beside each other: once for a trainer and
            each way in which they go together.

    Raises:
        CeilingsError: a part cannot be measured.
        Stopped: a signal came.
    """
    path = path_of(results, trainer, code)
    kept = load(path) or Ceilings(fingerprint(), usable_cores())
    missing = kept.missing(parts)
    describes = trainers.get(trainer)
    if rehearse and isinstance(describes, Describes):
        rehearsed = {describes.workload(one.settings, kept.cores).course for one in kept.rehearsals}
        rehearse = [one for one in rehearse if describes.workload(one, kept.cores).course not in rehearsed]
    if not missing and not rehearse:
        return kept
    kinds = [*dict.fromkeys(part.kind for part in missing), *(["both sides"] if rehearse else [])]
    say(f"measuring this machine's ceilings: {', '.join(kinds)}")
    started = time.monotonic()
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {one.part.kind for one in kept.measured}
    made = _measured_apart(path.with_suffix(".log"), stop, trainer, missing, known, list(rehearse))
    kept.take_in(made)
    kept.seconds += time.monotonic() - started
    kept.disturbed = made.disturbed
    if made.disturbed:
        problem = "predictions may be off, and the next study measures the ceilings again"
        say(f"warning: {made.disturbed} meanwhile; {problem}")
        return kept
    with locked(path.parent):
        kept.take_in(load(path) or made)
        write_atomic(path, kept.text())
    return kept


def _measured_apart(log: Path, stop: StopSignal, *request: Any) -> Ceilings:
    """Measure in a fresh process, which ends with this one, however that ends; ``measure_parts`` has the request."""
    trainers.calm_thread_pools()
    group, said = CollectorGroup(), None
    receive, send = group.ctx.Pipe(duplex=False)
    try:
        group.start_collector(measure_parts, (send, group.stop_event, *request), name="ceilings", log=log)
        while not isinstance(said, Ceilings):
            ready = connection.wait([receive, group.interrupt.fileno(), stop.fd], SILENT_SECONDS)
            stop.check()
            group.check_collectors()
            if not ready:
                raise CeilingsError(f"the ceilings cannot be measured: no answer for {SILENT_SECONDS:g} s")
            said = receive.recv()
        log.unlink(missing_ok=True)  # of use after an error alone
        return said
    except (CeilingsError, Stopped):  # it would not look at the flag that asks it to stop
        group.kill_collectors("was measuring ceilings that nobody waits for any more")
        raise
    except CollectorError as error:
        raise CeilingsError(f"the ceilings cannot be measured:\n{error.traceback_text or error}") from None
    finally:
        group.stop_collectors()
        remove_leftovers()
        receive.close()
        send.close()


def measure_parts(
    told: Connection,
    stop_event: SharedFlag,
    name: str,
    parts: Sequence[Part],
    known: set[str],
    rehearse: Sequence[Mapping[str, Any]],
) -> None:
    """Entry of the measuring process, which tells the kind of each part, to show that it is alive, and then all costs.

    ``known`` are kinds of which some variant was measured before; the rest is as in ``measure``.
    """
    os.setpgrp()  # its collectors are told from other programs by their group
    trainer, made = trainers.get(name), Ceilings(fingerprint(), usable_cores())
    assert isinstance(trainer, Describes)
    deadline, before = time.monotonic() + SECONDS, interference.read()
    for part in parts:
        if part.kind not in known or time.monotonic() <= deadline:
            made.measured.append(Measured(part, trainer.measure_alone(part)))
            known.add(part.kind)
            told.send(part.kind)
    for settings in rehearse:
        window = SteadyWindow(REHEARSAL_SECONDS / 2, REHEARSAL_SECONDS)
        with tempfile.TemporaryDirectory() as folder:
            trainer.run(settings, window.add, log_dir=Path(folder), max_iterations=UNLIMITED, save_interval=0)
        made.rehearsals.append(Rehearsal(settings, window.result()["updates_per_second"]))
        told.send("both sides")
    made.disturbed = interference.between(before, interference.read()).disturbed
    told.send(made)
    stop_event.wait()

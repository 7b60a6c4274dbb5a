"""Blocks of repeats: how they are ordered, run, and run again; for search, second look, confirmation and ``compare``.

A *work* is what is measured together: a generator that yields jobs (one, or several that take turns) and receives how
each ended. An engine carries out several works side by side, each on its own cores or node. Works are resumed in one
thread, that of ``carry_out``.
"""

import itertools
import random
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from harness.measure.process import Job, Outcome
from harness.measure.record import Record, disturbance
from harness.measure.stop import StopSignal
from unilab.ipc.memory_budget import MemoryAvailable

SPOILT = 1e6
"""disturbance of a block in which a repeat was not measured to its end"""
Work = Generator[list[Job], list[Outcome], None]
Attempt = Generator[list[Job], list[Outcome], list[Record]]
"""part of a work that has its records as the result"""


class Engine(Protocol):
    """Runs the jobs of works, those of one work (repeats of a trial, or of a block) one after another, on one node.

    A work has a number::

        while engine.has_room():
            engine.start(number, jobs)
        ended = engine.wait()
    """

    machine: str
    """name of the machine that it measures on, as in records"""
    in_turns: bool = False
    """several jobs of a work can be alive and take turns; otherwise they are given one at a time"""
    exclusive: bool = True
    """a repeat has the machine that it runs on to itself"""

    @property
    def concurrency(self) -> int:
        """Number of works that run side by side when nobody else uses the machine."""

    def available(self) -> MemoryAvailable | None:
        """Memory that a repeat may take; None: what this machine has at the moment, as other programs come and go."""
        return None

    def reserved_here(self) -> AbstractContextManager[None]:
        """While entered, no repeat of this or another search runs on this process's machine, as far as it can tell."""
        return nullcontext()

    def has_room(self) -> bool:
        """Whether another work may begin now; always while none runs."""

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        """Begin the next jobs of a work: one, or several that take turns."""

    def wait(self) -> tuple[int, list[Outcome]] | None:
        """Block until the jobs of a work have ended, or there is room for another work (None).

        Raises:
            Stopped: a signal came; leaving the engine ends what runs.
            whatever ``on_progress`` of a job raises.
        """


def carry_out(works: Iterator[Work], engine: Engine, stop: StopSignal) -> None:
    """Begin a work wherever there is room, until there are no more and all have ended.

    Raises:
        Stopped: a signal came.
        whatever a work raises.
    """
    running: dict[int, Work] = {}
    numbers, more = itertools.count(), True
    while more or running:
        outcomes: Any = None
        if more and (not running or engine.has_room()):
            work = next(works, None)
            if work is None:
                more = False
                continue
            number = next(numbers)
            running[number] = work
        else:
            ended = engine.wait()
            if ended is None:
                continue
            number, outcomes = ended
        stop.check()
        try:
            jobs = running[number].send(outcomes)
        except StopIteration:
            del running[number]
        else:
            engine.start(number, jobs)


def mirrored(members: Iterable[int], seed: str, again: Collection[int] | None = None) -> list[tuple[int, int]]:
    """The order of a block: each member once in random order, then once more in the mirrored order, as B A C C A B.

    A machine that grows slower or faster hits all of them alike, and what comes back at a fixed rhythm does not always
    hit the same one.

    Those of ``again`` are measured a second time (None: all). A member is (member, 0) there and (member, 1) back.
    """
    there = sorted(members)
    random.Random(seed).shuffle(there)
    return [(one, 0) for one in there] + [(one, 1) for one in reversed(there) if again is None or one in again]


def measured(repeats: Sequence[tuple[Record, Job]]) -> Attempt:
    """Run each job once, several of them in turns; returns their records, completed with how they ended."""
    outcomes = yield [job for _, job in repeats]
    records = [outcome.added_to(record) for (record, _), outcome in zip(repeats, outcomes, strict=True)]
    if len(records) > 1:  # what disturbs one disturbs all, and all count together or none
        worst = max(disturbance(record) if record.state == "complete" else SPOILT for record in records)
        records = [replace(record, disturbance=min(worst, SPOILT)) for record in records]
    return records


def until_calm(
    last: Sequence[Record | None],
    attempt: Callable[[int, bool], Attempt],
    again: Callable[[Sequence[Record]], bool],
) -> Work:
    """Measure together the repeats that lack a record, and measure them again while ``again`` returns true.

    Every attempt is recorded; ``harness.measure.record.attempts_that_count`` says which one counts.

    Args:
        last: the newest record of each repeat, None where there is none. Where only some have one, all are measured
            anew, and what was there before does not count.
        attempt: measures and records them, by the number of the attempt and whether it is anew.
        again: whether these, the newest records of each, were disturbed and may be measured again.
    """
    known = [one for one in last if one is not None]
    while len(known) < len(last) or again(known):
        number = 1 + max((one.attempt for one in known), default=-1)
        known = yield from attempt(number, 0 < len(known) < len(last))

"""The small interface between a search, which asks and records, and what carries its repeats out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harness.measure.process import Limits, Outcome
from harness.measure.repeat import TrialSpec

if TYPE_CHECKING:  # unilab.ipc loads torch, which takes longer than a wrong suite may take to be refused
    from unilab.ipc.memory_budget import MemoryAvailable

OnProgress = Callable[[dict[str, Any]], str | None]


@dataclass(frozen=True)
class Job:
    """One repeat."""

    spec: TrialSpec
    limits: Limits
    on_progress: OnProgress
    """sees each report, in the process that asked; a reason that it returns ends the repeat as pruned"""
    host_bytes: int = 0
    """RAM that it is expected to take; 0: not known"""


class Engine(Protocol):
    """Carries out works: jobs one after another in one place, such as the repeats of a trial or of a block.

    A work has a number. It takes a place with its first jobs and holds it until ``leave``::

        while engine.has_room():
            engine.start(number, jobs)
        ended = engine.wait()
    """

    @property
    def in_turns(self) -> bool:
        """Whether several jobs can be alive in one place and take turns; otherwise they are given one at a time."""

    @property
    def places(self) -> int:
        """Works that run side by side when nobody else is there."""

    @property
    def machine(self) -> str:
        """What it measures on, as records have it."""

    @property
    def alone(self) -> bool:
        """Whether a repeat has the machine that it runs on to itself."""

    def available(self) -> "MemoryAvailable | None":
        """What a repeat may take; None: what this machine has at the moment."""

    def alone_here(self) -> AbstractContextManager[None]:
        """While entered, no repeat of this or another search runs on this process's machine, as far as it can tell."""

    def has_room(self) -> bool:
        """Whether another work may begin now; always while none runs."""

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        """Begin the next jobs of a work: one, or several that take turns."""

    def wait(self) -> tuple[int, list[Outcome]] | None:
        """Block until the jobs of a work have ended, or there is room for another work (None).

        Raises:
            Stopped: a signal came; what runs is ended by ``close``, or is gone.
        """

    def leave(self, work: int) -> None:
        """The work is over: its place is free. One that never had a job has none."""

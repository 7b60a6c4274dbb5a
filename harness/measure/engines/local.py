"""The default: this machine, one repeat at a time, several that take turns, or side by side on cores of their own."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.measure import interleaving
from harness.measure.process import Alive, Job, Outcome
from harness.measure.stop import StopSignal
from unilab.machine.devices import core_sets


@dataclass
class LocalEngine:
    """See ``harness.measure.engines.blocks.Engine``. Use as a context manager: its end ends what runs.

    Args:
        execute: runs one repeat; None: in a process of its own.
        in_turns: whether several may take turns.
        cores: that a repeat has to itself; as many works run side by side as there are such sets. None: one at a time,
            on all cores.
    """

    machine: str
    stop: StopSignal
    execute: Callable[..., Outcome] | None = None
    in_turns: bool = field(default_factory=interleaving.possible)
    cores: int | None = None
    alone: bool = True

    def __post_init__(self) -> None:
        self._sets = [None] if self.cores is None else core_sets(self.cores)
        self._started: dict[int, Sequence[Job]] = {}
        self._place_of: dict[int, int] = {}
        """of the works whose jobs run"""
        self._alive = Alive(self.stop)

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self._alive.__exit__(*error)

    @property
    def places(self) -> int:
        return len(self._sets)

    def available(self) -> None:
        """Judged anew for each configuration: other programs come and go."""

    def alone_here(self) -> AbstractContextManager[None]:
        return nullcontext()

    def has_room(self) -> bool:
        return len(self._place_of) < self.places

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        """A work whose job has ended gets the place again that it had: it is the only one that begins then."""
        self._place_of[work] = next(place for place in range(self.places) if place not in self._place_of.values())
        jobs = [replace(job, spec=replace(job.spec, cores=self._sets[self._place_of[work]])) for job in jobs]
        if len(jobs) > 1:
            files = (str(Path(job.spec.folder).resolve() / interleaving.FILE) for job in jobs)
            jobs = [replace(job, spec=replace(job.spec, pauses=file)) for job, file in zip(jobs, files, strict=True)]
        if self.execute is None:
            self._alive.start(work, jobs)
        else:
            self._started[work] = jobs

    def wait(self) -> tuple[int, list[Outcome]]:
        if self.execute is None:
            work, outcomes = self._alive.wait()
        else:
            work = next(iter(self._started))
            jobs = self._started.pop(work)
            outcomes = [self.execute(job.spec, job.limits, self.stop, job.on_progress) for job in jobs]
        del self._place_of[work]
        return work, outcomes

"""The default: this machine, one repeat at a time, several that take turns, or side by side on cores of their own."""

import math
import selectors
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.measure import interleaving
from harness.measure.engines.blocks import Engine
from harness.measure.process import Job, OnProgress, Outcome, RepeatLimits, Repeats
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from unilab.machine.devices import core_sets


class LocalEngine(Engine):
    """Use as a context manager: its end ends what runs.

    Repeats that take turns are started one after the other; each stands still once it is warm. Then they run in a
    circle, so that all have equally many pauses: each pause costs a cold cache. Where the first and the last are of one
    kind and those between of another, a steady drift of the machine hits both kinds alike. What was measured stands
    still until all are, and comes to its end then. While a repeat stands still, its limits do.

    Args:
        execute: runs one repeat; None: in a process of its own.
        in_turns: whether several may take turns; None: where this system can stop processes.
        cores: that a repeat has to itself; as many works run side by side as there are such sets. None: one at a time,
            on all cores.
    """

    def __init__(
        self,
        machine: str,
        stop: StopSignal,
        execute: Callable[..., Outcome] | None = None,
        *,
        in_turns: bool | None = None,
        cores: int | None = None,
    ) -> None:
        self.machine = machine
        self.in_turns = interleaving.possible() if in_turns is None else in_turns
        self._stop, self._execute = stop, execute
        self._sets = [None] if cores is None else core_sets(cores)
        self._started: dict[int, Sequence[Job]] = {}
        self._works: dict[int, Repeats] = {}
        self._place_of: dict[int, int] = {}
        """of the works whose jobs run"""
        self._selector = selectors.DefaultSelector()
        self._selector.register(stop.fd, selectors.EVENT_READ)

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *_: object) -> None:
        repeats = [one for work in self._works.values() for one in work.repeats]
        for one in repeats:
            one.terminate()
        for one in repeats:
            one.end()
        self._selector.close()

    @property
    def places(self) -> int:
        return len(self._sets)

    def has_room(self) -> bool:
        return len(self._place_of) < self.places

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        """A work whose job has ended gets the place again that it had: it is the only one that begins then."""
        self._place_of[work] = next(place for place in range(self.places) if place not in self._place_of.values())
        jobs = [replace(job, spec=replace(job.spec, cores=self._sets[self._place_of[work]])) for job in jobs]
        if len(jobs) > 1:
            files = (str(Path(job.spec.folder).resolve() / interleaving.FILE) for job in jobs)
            jobs = [replace(job, spec=replace(job.spec, pauses=file)) for job, file in zip(jobs, files, strict=True)]
        if self._execute is None:
            self._works[work] = Repeats(jobs, self._stop, self._selector)
        else:
            self._started[work] = jobs

    def wait(self) -> tuple[int, list[Outcome]]:
        if self._execute is not None:
            work = next(iter(self._started))
            jobs = self._started.pop(work)
            outcomes = [self._execute(job.spec, job.limits, self._stop, job.on_progress) for job in jobs]
            del self._place_of[work]
            return work, outcomes
        while True:
            self._stop.check()
            seconds = min([turns.proceed() for turns in self._works.values()], default=math.inf)
            for work, turns in self._works.items():
                if turns.ended:
                    del self._works[work], self._place_of[work]
                    return work, [one.outcome for one in turns.repeats if one.outcome is not None]
            for key, _ in self._selector.select(max(0.0, min(seconds, 3600.0))):
                if key.data is not None:
                    key.data.read()


def execute(
    spec: TrialSpec, limits: RepeatLimits, stop: StopSignal, on_progress: OnProgress = lambda progress: None
) -> Outcome:
    """Run one repeat and wait for its end.

    Raises:
        Stopped: a signal came; the repeat is gone, nothing is known of it.
        whatever ``on_progress`` raises, likewise.
    """
    with LocalEngine("", stop) as engine:
        engine.start(0, [Job(spec, limits, on_progress)])
        return engine.wait()[1][0]

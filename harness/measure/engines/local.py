"""The default: this machine, one repeat at a time, several that take turns, or side by side on cores of their own."""

import math
import selectors
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.measure import interleaving
from harness.measure.engines.blocks import Engine
from harness.measure.process import Job, OnProgress, Outcome, Repeat, RepeatLimits
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from unilab.ipc.memory_budget import MemoryAvailable
from unilab.machine.cores import core_sets


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
        side_by_side: works at most; None: as many as there are cores for.
    """

    def __init__(
        self,
        machine: str,
        stop: StopSignal,
        execute: Callable[..., Outcome] | None = None,
        *,
        in_turns: bool | None = None,
        cores: int | None = None,
        side_by_side: int | None = None,
    ) -> None:
        self.machine = machine
        self.in_turns = interleaving.possible() if in_turns is None else in_turns
        self._stop, self._execute = stop, execute
        self._sets = [None] if cores is None else core_sets(cores)[:side_by_side]
        self._share = MemoryAvailable.here().part(len(self._sets)) if len(self._sets) > 1 else None
        self._works: dict[int, Generator[float, None, list[Outcome]]] = {}
        self._set_of: dict[int, int] = {}
        """index in ``_sets`` of the cores of the works whose jobs run"""
        self._alive: list[Repeat] = []
        """those that are not over"""
        self._selector = selectors.DefaultSelector()
        self._selector.register(stop.fd, selectors.EVENT_READ)

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *_: object) -> None:
        for repeat in self._alive:
            repeat.terminate()
        for repeat in self._alive:
            repeat.end()
        self._selector.close()

    @property
    def concurrency(self) -> int:
        return len(self._sets)

    def available(self) -> MemoryAvailable | None:
        """Where repeats run side by side, each has its part of what was free when none did."""
        return self._share

    def has_room(self) -> bool:
        return len(self._set_of) < self.concurrency

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        """A work whose job has ended gets the cores again that it had: it is the only one that begins then."""
        self._set_of[work] = next(one for one in range(self.concurrency) if one not in self._set_of.values())
        jobs = [replace(job, spec=replace(job.spec, cores=self._sets[self._set_of[work]])) for job in jobs]
        if len(jobs) > 1:
            files = (str(Path(job.spec.folder).resolve() / interleaving.FILE) for job in jobs)
            jobs = [replace(job, spec=replace(job.spec, pauses=file)) for job, file in zip(jobs, files, strict=True)]
        self._works[work] = self._run(jobs)

    def wait(self) -> tuple[int, list[Outcome]]:
        while True:
            self._stop.check()
            seconds = 3600.0  # infinity cannot be waited for
            for work, run in self._works.items():
                try:
                    seconds = min(seconds, next(run))
                except StopIteration as ended:
                    del self._works[work], self._set_of[work]
                    return work, ended.value
            for key, _ in self._selector.select(max(0.0, seconds)):
                if key.data is not None:
                    key.data.read()

    def _run(self, jobs: Sequence[Job]) -> Generator[float, None, list[Outcome]]:
        """Run the jobs of a work; yields the seconds for which their repeats may be waited for."""
        if self._execute is not None:
            return [self._execute(job.spec, job.limits, self._stop, job.on_progress) for job in jobs]
        repeats: list[Repeat] = []

        def until(
            reached: Callable[[Repeat], bool], of: Sequence[Repeat], seconds: float = math.inf
        ) -> Iterator[float]:
            """End what is over or took too long, until all of these have reached it or the seconds are over."""
            ends = time.monotonic() + seconds
            while True:
                running = [one for one in repeats if one.outcome is None and one.seat.paused_at is None]
                for one in running:
                    if one.remaining <= 0:
                        one.time_out()
                for one in repeats:
                    if one.outcome is not None and not one.over:
                        self._selector.unregister(one.reports)
                        one.end()
                        self._alive.remove(one)
                left = ends - time.monotonic()
                if all(map(reached, of)) or left <= 0:
                    return
                yield min([left, *(one.remaining for one in running)])

        for job in jobs:
            repeat = Repeat(job, self._stop, repeats)
            repeats.append(repeat)
            self._alive.append(repeat)
            self._selector.register(repeat.reports, selectors.EVENT_READ, repeat)
            yield from until(lambda one: one.steady, [repeat])
            if len(jobs) > 1:
                repeat.seat.pause()
        while unmeasured := [repeat for repeat in repeats if not repeat.measured]:
            for repeat in unmeasured:
                repeat.seat.go_on()
                seconds = math.inf if unmeasured == [repeat] else interleaving.TURN_SECONDS
                yield from until(lambda one: one.measured, [repeat], seconds)
                if any(not other.measured for other in repeats if other is not repeat):
                    repeat.seat.pause()
        for repeat in repeats:
            repeat.seat.go_on()
        yield from until(lambda one: one.over, repeats)
        return [repeat.outcome for repeat in repeats if repeat.outcome is not None]


def execute(
    spec: TrialSpec,
    limits: RepeatLimits,
    stop: StopSignal,
    on_progress: OnProgress = lambda progress: None,
    *,
    cores: int | None = None,
) -> Outcome:
    """Run one repeat, on so many cores, and wait for its end.

    Raises:
        Stopped: a signal came; the repeat is gone, nothing is known of it.
        whatever ``on_progress`` raises, likewise.
    """
    with LocalEngine("", stop, cores=cores, side_by_side=1) as engine:
        engine.start(0, [Job(spec, limits, on_progress)])
        return engine.wait()[1][0]

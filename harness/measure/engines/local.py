"""The default: this machine, one repeat at a time, or several that take turns."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.measure import interleaving as turns
from harness.measure.engines.blocks import Job
from harness.measure.interleaving import FILE, Seat, take_turns
from harness.measure.process import Outcome, execute
from harness.measure.stop import StopSignal

Execute = Callable[..., Outcome]


@dataclass
class LocalEngine:
    """See ``harness.measure.engines.blocks.Engine``.

    Args:
        machine: this one, as records have it.
        stop: ends the repeat that runs.
        execute: runs one.
        in_turns: whether several may take turns.
    """

    machine: str
    stop: StopSignal
    execute: Execute = execute
    places: int = 1
    alone: bool = True
    in_turns: bool = field(default_factory=turns.possible)
    _started: dict[int, Sequence[Job]] = field(default_factory=dict)

    def available(self) -> None:
        """Judged anew for each configuration: other programs come and go."""

    def alone_here(self) -> AbstractContextManager[None]:
        return nullcontext()

    def has_room(self) -> bool:
        return not self._started

    def start(self, work: int, jobs: Sequence[Job]) -> None:
        self._started[work] = jobs

    def wait(self) -> tuple[int, list[Outcome]]:
        ((work, jobs),) = self._started.items()
        if len(jobs) == 1:
            return work, [self._execute(jobs[0])]
        files = [Path(job.spec.folder).resolve() / FILE for job in jobs]
        return work, take_turns(files, [partial(self._execute, job) for job in jobs])

    def _execute(self, job: Job, seat: Seat | None = None) -> Outcome:
        spec, more = job.spec, dict[str, Any]()
        if seat is not None:
            spec, more = replace(spec, pauses=str(seat.file)), {"seat": seat}
        if job.code is not None:
            more["code"] = job.code
        return self.execute(spec, job.limits, self.stop, job.on_progress, **more)

    def leave(self, work: int) -> None:
        self._started.pop(work, None)

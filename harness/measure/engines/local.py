"""The default: this machine, one repeat at a time, or several that take turns."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.measure import interleaving
from harness.measure.process import Job, Outcome, execute_together
from harness.measure.stop import StopSignal


@dataclass
class LocalEngine:
    """See ``harness.measure.engines.blocks.Engine``.

    Args:
        machine: this one, as records have it.
        stop: ends what runs.
        execute: runs one repeat; None: in a process of its own.
        in_turns: whether several may take turns.
    """

    machine: str
    stop: StopSignal
    execute: Callable[..., Outcome] | None = None
    in_turns: bool = field(default_factory=interleaving.possible)
    places: int = 1
    alone: bool = True
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
        work, jobs = self._started.popitem()
        if len(jobs) > 1:
            files = (str(Path(job.spec.folder).resolve() / interleaving.FILE) for job in jobs)
            jobs = [replace(job, spec=replace(job.spec, pauses=file)) for job, file in zip(jobs, files, strict=True)]
        if self.execute is None:
            return work, execute_together(jobs, self.stop)
        return work, [self.execute(job.spec, job.limits, self.stop, job.on_progress) for job in jobs]

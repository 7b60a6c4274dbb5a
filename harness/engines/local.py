"""The default: this machine, one repeat at a time."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from harness.engines.base import Job, OnProgress
from harness.execute import Limits, Outcome, execute
from harness.stop import StopSignal
from harness.trial import TrialSpec

Execute = Callable[[TrialSpec, Limits, StopSignal, OnProgress], Outcome]


@dataclass
class LocalEngine:
    """See ``harness.engines.base.Engine``.

    Args:
        machine: this one, as records have it.
        stop: ends the repeat that runs.
        execute: runs one.
    """

    machine: str
    stop: StopSignal
    execute: Execute = execute
    places: int = 1
    alone: bool = True
    _started: dict[int, Job] = field(default_factory=dict)

    def available(self) -> None:
        """Judged anew for each configuration: other programs come and go."""

    def alone_here(self) -> AbstractContextManager[None]:
        return nullcontext()

    def has_room(self) -> bool:
        return not self._started

    def start(self, work: int, job: Job) -> None:
        self._started[work] = job

    def wait(self) -> tuple[int, Outcome]:
        ((work, job),) = self._started.items()
        return work, self.execute(job.spec, job.limits, self.stop, job.on_progress)

    def leave(self, work: int) -> None:
        self._started.pop(work, None)

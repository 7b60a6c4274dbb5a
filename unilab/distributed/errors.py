"""What can go wrong with distributed workers."""

from typing import Any

from unilab.ipc.collector_error import ProcessFailure


class WorkerError(ProcessFailure):
    """A worker died or raised, and may not be restarted (any more).

    Its message has the original traceback; where the exception itself arrived it is ``__cause__``.

    Attributes:
        worker: which one, 0 to n_workers - 1.
        restarts: how often workers were restarted before.
        traceback_text: the original traceback, or None if it raised nothing.
    """

    def __init__(self, worker: int, restarts: int, what: str, traceback_text: str | None = None) -> None:
        self.worker = worker
        self.restarts = restarts
        self.what = what
        self.traceback_text = traceback_text
        super().__init__(
            f"worker {worker} failed after {restarts} restarts, which is all that max_restarts allows. {what}"
        )

    @property
    def place(self) -> str:
        return f"in worker {self.worker}"

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerError, (self.worker, self.restarts, self.what, self.traceback_text)


class NotEnoughEntriesError(RuntimeError):
    """A batch was asked for that is larger than what the buffer holds."""

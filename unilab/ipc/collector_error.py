"""The one error that a user reads when a collector fails."""

import functools
import signal
from pathlib import Path
from typing import Any

from unilab.ipc.process.failures import ProcessFailure

_LOG_LINES = 40


class CollectorError(ProcessFailure):
    """A collector process ended although nobody asked it to.

    Its message names the process, how it ended, its last env step, the traceback of the exception that ended it and
    the end of its log. Where that exception could be pickled it is ``__cause__``.

    Attributes:
        collector: name of the collector.
        pid: process id.
        exit_code: as of multiprocessing.Process: negative for a signal.
        signal_name: such as SIGKILL, or None.
        traceback_text: the original traceback, or None if it raised nothing.
        last_step: last env step that it reported, or None.
        log: file with its output, or None.
        why: for what the parent killed it, or None.
    """

    def __init__(
        self,
        collector: str,
        pid: int,
        exit_code: int,
        *,
        traceback_text: str | None = None,
        last_step: int | None = None,
        log: Path | None = None,
        why: str | None = None,
    ) -> None:
        self.collector = collector
        self.pid = pid
        self.exit_code = exit_code
        self.signal_name = _signal_name(exit_code)
        self.traceback_text = traceback_text
        self.last_step = last_step
        self.log = log
        self.why = why
        super().__init__(self._message())

    def __reduce__(self) -> tuple[Any, ...]:
        details: dict[str, Any] = {
            "traceback_text": self.traceback_text,
            "last_step": self.last_step,
            "log": self.log,
            "why": self.why,
        }
        return functools.partial(CollectorError, **details), (self.collector, self.pid, self.exit_code)

    @property
    def place(self) -> str:
        return f"in collector {self.collector!r}, {self._step()}"

    def _step(self) -> str:
        return "before it reported a step" if self.last_step is None else f"after env step {self.last_step}"

    def _message(self) -> str:
        lines = [f"collector {self.collector!r} (process {self.pid}) {self._how()} {self._step()}. {self._remedy()}"]
        if self.traceback_text:  # the log has it as well
            lines.append(f"Its traceback:\n{self.traceback_text.rstrip()}")
            lines += [f"Its log is {self.log}"] if self.log is not None else []
        elif self.log is not None:
            lines.append(f"Its log is {self.log}, which ends:\n{_tail(self.log)}")
        return "\n".join(lines)

    def _how(self) -> str:
        if self.traceback_text:
            return f"failed with {self.cause},"
        if self.why:
            return self.why
        if self.signal_name:
            return f"was killed by {self.signal_name}"
        return f"ended by itself with exit code {self.exit_code}"

    def _remedy(self) -> str:
        if self.traceback_text:
            return "Fix the cause shown in its traceback and start again from the last checkpoint."
        if self.why:
            return (
                "Its stacks, on its error output, say where it hung; a process that was stopped (SIGSTOP) writes none."
            )
        if self.signal_name == "SIGKILL":
            return "Often the system was out of memory (see `dmesg`): use fewer environments. Or somebody killed it."
        if self.signal_name:
            return "Native code crashed or somebody killed it: its stack is on its error output."
        return "A collector must run until its stop event is set: look for sys.exit or os._exit in the environment."


def _signal_name(exit_code: int) -> str | None:
    if exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"(unreadable: {error})"
    return "\n".join(lines[-_LOG_LINES:])

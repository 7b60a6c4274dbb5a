"""Failures of other processes: what their parent gets, and the error that a user reads about a collector."""

import signal
from pathlib import Path
from typing import Any

from unilab.errors import UserError

HEADER = "Traceback (most recent call last):"
BEGIN = "--- process {} ---"
"""in a log: what follows is of the process with this number"""
_LOG_LINES = 40


class ProcessFailure(UserError, RuntimeError):
    """A process ended although it should not have.

    Attributes:
        traceback_text: its original traceback, or None if it raised nothing.
    """

    traceback_text: str | None = None

    @property
    def cause(self) -> str | None:
        """The exception that ended it, in one line; None if it raised nothing."""
        lines = (self.traceback_text or "").rpartition(HEADER)[2].splitlines()
        grouped = [line.strip().removeprefix("| ") for line in lines]  # where it is one of a group of exceptions
        return next((line for line in [*lines, *grouped] if line and not line[0].isspace()), None)  # notes follow it

    @property
    def where(self) -> str:
        """Which process that was."""
        return "in another process"


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
        traceback_text: str | None = None,
        last_step: int | None = None,
        log: Path | None = None,
        why: str | None = None,
    ) -> None:
        self.collector = collector
        self.pid = pid
        self.exit_code = exit_code
        self.signal_name: str | None = None
        if exit_code < 0:
            known = -exit_code in signal.valid_signals()
            self.signal_name = signal.Signals(-exit_code).name if known else f"signal {-exit_code}"
        self.traceback_text = traceback_text
        self.last_step = last_step
        self.log = log
        self.why = why
        super().__init__(self._message())

    def __reduce__(self) -> tuple[Any, ...]:
        end = (self.traceback_text, self.last_step, self.log, self.why)
        return CollectorError, (self.collector, self.pid, self.exit_code, *end)

    @property
    def where(self) -> str:
        """Which process that was, and how far it came."""
        return f"in collector {self.collector!r}, {self._step}"

    @property
    def _step(self) -> str:
        return "before it reported a step" if self.last_step is None else f"after env step {self.last_step}"

    def _message(self) -> str:
        if self.traceback_text:
            how = f"failed with {self.cause},"
            remedy = "Fix the cause shown in its traceback and start again from the last checkpoint."
        elif self.why:
            how = self.why
            remedy = (
                "Its stacks, on its error output, say where it hung; a process that was stopped (SIGSTOP) writes none."
            )
        elif self.signal_name == "SIGKILL":
            how = "was killed by SIGKILL"
            remedy = "Often the system was out of memory (see `dmesg`): use fewer environments. Or somebody killed it."
        elif self.signal_name:
            how = f"was killed by {self.signal_name}"
            remedy = "Native code crashed or somebody killed it: its stack is on its error output."
        else:
            how = f"ended by itself with exit code {self.exit_code}"
            remedy = (
                "A collector must run until its stop event is set: look for sys.exit or os._exit in the environment."
            )
        lines = [f"collector {self.collector!r} (process {self.pid}) {how} {self._step}. {remedy}"]
        if self.traceback_text:  # the log has it as well
            lines.append(f"Its traceback:\n{self.traceback_text.rstrip()}")
            lines += [f"Its log is {self.log}"] if self.log is not None else []
        elif self.log is not None:
            try:
                own = self.log.read_text(errors="replace").rpartition(BEGIN.format(self.pid))[2].strip("\n")
                end = "\n".join(own.splitlines()[-_LOG_LINES:])
            except OSError as error:
                end = f"(unreadable: {error})"
            lines.append(f"Its log is {self.log}, which ends:\n{end}")
        return "\n".join(lines)

"""Failures of other processes, as whoever waits for them is told."""

from unilab.errors import UserError

HEADER = "Traceback (most recent call last):"


class ProcessFailure(UserError, RuntimeError):
    """A process ended that should not have.

    Attributes:
        traceback_text: its original traceback, or None if it raised nothing.
    """

    traceback_text: str | None = None

    @property
    def cause(self) -> str | None:
        """The exception that ended it, in one line; None if it raised nothing."""
        lines = (self.traceback_text or "").rpartition(HEADER)[2].splitlines()
        return next((line for line in lines if line and not line[0].isspace()), None)  # notes follow it

    @property
    def place(self) -> str:
        """Which process that was."""
        return "in another process"

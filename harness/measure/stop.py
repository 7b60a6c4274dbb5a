"""SIGINT and SIGTERM: the first asks for an orderly end, the second ends at once."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any


class Stopped(Exception):
    """An orderly end was asked for; ``exit_code`` is 130 or 143."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum


class StopSignal:
    """While entered, the first signal is remembered and makes ``fd`` readable; the second kills ``groups`` and us."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.groups: set[int] = set()
        """process groups to take along"""
        self.at_once: set[Callable[[], None]] = set()
        """to be called before, by the signal handler"""
        self.fd, self._write = os.pipe()
        """the first is readable from the first signal on, for selectors"""
        self._previous: dict[int, Any] = {}

    def check(self) -> None:
        """Raises ``Stopped`` after a signal."""
        if self.signum is not None:
            raise Stopped(self.signum)

    def __enter__(self) -> "StopSignal":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        os.close(self.fd)
        os.close(self._write)

    def ask(self, signum: int) -> None:
        """Ask for an orderly end as the first signal does, from any thread, entered or not."""
        self.signum = signum
        os.write(self._write, b"x")

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if self.signum is None:
            self.ask(signum)
            return
        for call in list(self.at_once):
            call()
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        os._exit(128 + signum)

"""Waking other processes: pipes, because nobody owns a pipe whose death could leave the others waiting.

Waits end by the kernel's relative timeouts, which a change of the wall clock does not touch.
"""

import contextlib
import errno
import os
import select
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext


def _pipe(context: BaseContext | None) -> tuple[Connection, Connection]:
    receive, send = (context or get_context("spawn")).Pipe(duplex=False)
    os.set_blocking(receive.fileno(), False)
    os.set_blocking(send.fileno(), False)
    return receive, send


def _post(send: Connection) -> None:
    with contextlib.suppress(BlockingIOError):  # a full pipe wakes the other side just as well
        os.write(send.fileno(), b"!")


def _readable(fds: list[int], timeout: float | None) -> set[int]:
    """The descriptors of ``fds`` that have something to read, after at most ``timeout`` seconds (None: no limit)."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    milliseconds = None if timeout is None else max(0.0, timeout) * 1000
    return {fd for fd, _ in poll.poll(milliseconds)}


def exit_descriptor(pid: int) -> int | None:
    """A descriptor that becomes readable when a process ends, to be closed by the caller.

    Unlike the end of a pipe it is not kept open by what that process forked. None: the system has no such thing.

    Raises:
        ProcessLookupError: there is no such process.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):  # an old kernel, or a sandbox
            return None
        raise


class SharedFlag:
    """An event between processes that no death can break: once set, it stays set and every waiter returns.

    Has ``is_set``, ``set`` and ``wait`` like multiprocessing.Event, whose lock a killed process can keep for ever.
    Picklable as an argument of a process that is being started.
    """

    def __init__(self, context: BaseContext | None = None) -> None:
        self._receive, self._send = _pipe(context)

    def fileno(self) -> int:
        """Readable, for poll and select, once the flag is set."""
        return self._receive.fileno()

    def is_set(self) -> bool:
        return self.wait(0.0)

    def set(self) -> None:
        """Set it; safe in a signal handler."""
        _post(self._send)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most ``timeout`` seconds; whether it is set."""
        return bool(_readable([self.fileno()], timeout))


class Bell:
    """Wakes the one process that waits for a counter in shared memory to change.

    The rule that loses no wake-up: the ringer changes the counter first and rings then; the waiter silences the bell
    first and looks at the counter then.
    """

    def __init__(self, context: BaseContext | None = None) -> None:
        self._receive, self._send = _pipe(context)

    def ring(self) -> None:
        """Wake the waiter, now or as soon as it waits; never blocks."""
        _post(self._send)

    def fileno(self) -> int:
        """Readable, for poll and select, from a ring until ``silence``."""
        return self._receive.fileno()

    def silence(self) -> None:
        """Forget the rings so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fileno(), 65536)

    def wait(self, timeout: float, unless: SharedFlag | None = None) -> bool:
        """Wait for a ring, at most ``timeout`` seconds; False when ``unless`` is set or was set meanwhile."""
        ready = _readable([self.fileno()] if unless is None else [self.fileno(), unless.fileno()], timeout)
        if self.fileno() in ready:
            self.silence()
        return unless is None or unless.fileno() not in ready


class Deadline:
    """So many seconds from now, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())

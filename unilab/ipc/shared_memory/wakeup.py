"""Waking other processes: pipes, because nobody owns a pipe whose death could leave the others waiting.

Waits end by the kernel's relative timeouts, which a change of the wall clock does not touch.
"""

import contextlib
import os
import select
import time
from multiprocessing.connection import Pipe


class SharedFlag:
    """An event between processes that no death can break: once set, it stays set, and every waiter returns.

    Has ``is_set``, ``set``, ``clear`` and ``wait`` like multiprocessing.Event, whose lock a killed process can keep
    for ever. Picklable as an argument of a process that is being started.

    It also wakes the one process that waits for something in shared memory to change. The rule that loses no wake-up:
    the others change it first and set the flag then; the waiter clears the flag first and looks then.
    """

    def __init__(self) -> None:
        self._receive, self._send = Pipe(duplex=False)
        os.set_blocking(self._receive.fileno(), False)
        os.set_blocking(self._send.fileno(), False)

    def fileno(self) -> int:
        """Readable, for poll and select, while the flag is set."""
        return self._receive.fileno()

    def is_set(self) -> bool:
        return self.wait(0.0)

    def set(self) -> None:
        """Set it; never blocks, and is safe in a signal handler."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the other side just as well
            os.write(self._send.fileno(), b"!")

    def clear(self) -> None:
        """Forget that it was set so far; for a flag that one process alone waits for."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fileno(), 65536)

    def wait(self, timeout: float | None = None, unless: "SharedFlag | None" = None) -> bool:
        """Wait until it is set, at most ``timeout`` seconds, or until ``unless`` is set; whether it is set itself."""
        poll = select.poll()
        for flag in (self, unless):
            if flag is not None:
                poll.register(flag.fileno(), select.POLLIN)
        ready = poll.poll(None if timeout is None else max(0.0, timeout) * 1000)
        return any(descriptor == self.fileno() for descriptor, _ in ready)


class Deadline:
    """So many seconds from now, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())

"""Repeats that take turns: all are alive, one runs, the others stand still, and the turn passes on after a moment.

A machine whose speed changes from second to second, as shared hosts do without showing it anywhere, hits repeats that
take turns alike, while repeats that run one after the other are hit by chance. A repeat whose turn is over is stopped
by SIGSTOP with all its processes, and goes on by SIGCONT with nothing lost. So that its clock stands still too, each
pause is written to a file that it reads, before it goes on. ``harness.measure.engines.local`` passes the turns.

``benchmarks/turns.py`` says what turns are worth: at equal time an interval a third as wide.
"""

import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from harness.files.writing import writing

TURN_SECONDS = 0.25
"""long beside what a cold cache costs after a pause, short beside the seconds in which hosts change"""
FILE = "turns.log"
"""of a repeat: a line for each process group that takes turns with it, and one for each pause"""


def possible() -> bool:
    """Whether this system has descriptors of processes (Linux 5.3). A signal through one reaches that process alone."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


class Pauses:
    """A repeat's own view of its turns: who takes turns with it, and how long it stood still."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb", buffering=0)
        self._line = b""
        self._groups: set[int] = set()
        self._pending: deque[float] = deque()
        """pauses that the clock is not known to have gone over"""
        self._left_out = self._active = 0.0

    @property
    def groups(self) -> set[int]:
        """Process groups that take turns with this one, itself included."""
        self._read()
        return self._groups

    def active(self, wall_seconds: float) -> float:
        """Seconds of training without its pauses, given those on training's own clock, which never goes backward.

        A pause is left out as soon as the clock has gone over it: a reading taken before a pause may get here after it.
        """
        self._read()
        while self._pending and wall_seconds - self._left_out - self._active >= self._pending[0]:
            self._left_out += self._pending.popleft()
        self._active = wall_seconds - self._left_out
        return self._active

    def _read(self) -> None:
        while chunk := self._file.read(65536):
            *lines, self._line = (self._line + chunk).split(b"\n")
            for line in lines:
                what, value = line.split()
                if what == b"group":
                    self._groups.add(int(value))
                else:
                    self._pending.append(float(value))


class Seat:
    """The harness's side of a repeat that can stand still.

    Its processes are held by descriptors: a process id may be given to another process later.

    Args:
        members: the numbers of those alive now.
        found: is told of each new one before it is signalled.
        file: what the repeat reads its pauses from; None: it never pauses.
    """

    def __init__(
        self, members: Callable[[], Iterable[int]], found: Callable[[int], None], file: Path | None = None
    ) -> None:
        self._members, self._found, self._file = members, found, file
        self._held: dict[int, int] = {}
        """descriptors by process id"""
        self.paused_at: float | None = None
        """of the monotonic clock; None: it runs"""
        self._paused_seconds = 0.0
        self._closed = False
        if file is not None:
            with writing(file):
                file.write_bytes(b"")

    def clock(self) -> float:
        """Monotonic seconds that stand still while the repeat does, for deadlines."""
        now = time.monotonic() if self.paused_at is None else self.paused_at
        return now - self._paused_seconds

    def tell(self, what: str, value: float) -> None:
        """Write a line that the repeat reads."""
        if self._file is not None:
            with writing(self._file), self._file.open("a") as file:
                file.write(f"{what} {value!r}\n")

    def find(self) -> bool:
        """Hold new processes, and let go of those that have ended; whether there were new ones."""
        poll = select.poll()
        numbers = {held: pid for pid, held in self._held.items()}
        for held in numbers:
            poll.register(held, select.POLLIN)  # a descriptor is readable when its process has ended
        for held, _ in poll.poll(0):
            del self._held[numbers[held]]
            os.close(held)
        opened = {}
        for pid in set(self._members()) - self._held.keys():
            with suppress(ProcessLookupError):  # ended since it was listed
                opened[pid] = os.pidfd_open(pid)
        still = set(self._members()) if opened else set()
        for pid, held in opened.items():
            if pid in still:  # and was when it was opened: what it holds is no stranger with the number of a dead one
                self._held[pid] = held
                self._found(pid)
            else:
                os.close(held)
        return not still.isdisjoint(opened)

    def signal(self, signum: int) -> None:
        """Send a signal to all processes that are held; one that has ended is left out."""
        for held in list(self._held.values()):
            with suppress(OSError):  # it has ended; or a signal handler calls this while they are being let go
                signal.pidfd_send_signal(held, signum)

    def pause(self) -> None:
        """Let it stand still; a second call does nothing."""
        if self.paused_at is not None or self._closed:
            return
        if not self._held:
            self.find()
        self.signal(signal.SIGSTOP)  # those that are known at once: to look for new ones takes a while
        self.paused_at = time.monotonic()
        while self.find():
            self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run; a second call does nothing."""
        if self.paused_at is None:
            return
        pause = time.monotonic() - self.paused_at
        self._paused_seconds += pause
        self.paused_at = None
        self.tell("pause", pause)
        self.signal(signal.SIGCONT)

    def run_at_once(self) -> None:
        """End the pause from a signal handler, because the program ends."""
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        """Forget its processes: it has ended, and their ids may be those of other processes."""
        self._closed = True
        for held in self._held.values():
            os.close(held)
        self._held = {}

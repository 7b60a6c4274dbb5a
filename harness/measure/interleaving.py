"""Trials that take turns: all are alive, one runs, the others stand still, and a few times a second the turn passes on.

A machine whose speed changes from second to second, as shared hosts do without showing it anywhere, hits trials that
take turns alike, while trials that run one after the other are hit by chance. A trial whose turn is over is stopped by
SIGSTOP with all its processes, and goes on by SIGCONT with nothing lost. So that its clock stands still too, each pause
is written to a file that it reads, before it goes on. Whatever ends the harness, a trial does not stay stopped: its
guard (``harness.measure.process``) knows its processes, and continues and ends them.

``benchmarks/turns.py`` says what turns are worth: at equal time an interval a third as wide.
"""

import itertools
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

TURN_SECONDS = 0.25
"""long beside what a cold cache costs after a pause, short beside the seconds in which hosts change"""
FILE = "turns.log"
"""of a trial: a line for each process group that takes turns with it, and one for each pause"""

Result = TypeVar("Result")


def possible() -> bool:
    """Whether this system has descriptors of processes (Linux 5.3), through which only they themselves are stopped."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


class Processes:
    """Those of a trial, each held by a descriptor: a number that was given to another process means nothing.

    Args:
        members: the numbers of those alive now.
        found: is told of each new one before it is signalled.
    """

    def __init__(self, members: Callable[[], Iterable[int]], found: Callable[[int], None]) -> None:
        self._members, self._found = members, found
        self._held: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def find(self) -> bool:
        """Take in new ones; whether there were any."""
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
        for held in list(self._held.values()):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, signum)

    def close(self) -> None:
        for held in self._held.values():
            os.close(held)
        self._held = {}


class Pauses:
    """The trial's view of its seat: who takes turns with it, and how long it stood still."""

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
    """One trial among those that take turns; used by the thread that watches it and by the one that gives turns.

    Args:
        file: what the trial reads.
        changed: set whenever this seat's trial has been started, has become steady or has been measured.
    """

    def __init__(self, file: Path, changed: threading.Event) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        self._changed = changed
        self._lock = threading.Lock()
        self._processes = Processes(tuple, lambda pid: None)
        self._paused_at: float | None = None
        self._paused_seconds = 0.0
        self._left = False
        self.group = 0
        self.steady = False
        """it is warm, and its window has begun"""
        self.measured = False
        """it needs no more turns"""

    def joined(self, group: int, processes: Processes) -> None:
        """The trial was started; ``processes`` are those that are to stand still."""
        self._processes, self.group = processes, group
        self._changed.set()

    def note(self, *, steady: bool = False, measured: bool = False) -> None:
        """What the trial said of itself."""
        if (steady and not self.steady) or (measured and not self.measured):
            self.steady |= steady
            self.measured |= measured
            self._changed.set()

    def ended(self, _: object) -> None:
        """However it did: nothing is to be waited for."""
        self.note(steady=True, measured=True)

    @property
    def stands(self) -> bool:
        """It is another one's turn."""
        return self._paused_at is not None

    def clock(self) -> float:
        """Monotonic seconds that stand still while the trial does, for deadlines."""
        with self._lock:
            now = time.monotonic() if self._paused_at is None else self._paused_at
            return now - self._paused_seconds

    def know(self, group: int) -> None:
        """Tell the trial who takes turns with it."""
        self._tell(f"group {group}")

    def stop(self) -> None:
        """Let it stand still; a second call does nothing."""
        with self._lock:
            if self._paused_at is not None or self._left:
                return
            if not self._processes:
                self._processes.find()
            self._processes.signal(signal.SIGSTOP)  # those that are known at once: to look for new ones takes a while
            self._paused_at = time.monotonic()
            while self._processes.find():
                self._processes.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run; a second call does nothing."""
        with self._lock:
            if self._paused_at is None:
                return
            pause = time.monotonic() - self._paused_at
            self._paused_seconds += pause
            self._paused_at = None
            self._tell(f"pause {pause!r}")
            self._processes.signal(signal.SIGCONT)

    def run_at_once(self) -> None:
        """As a signal handler may call it, whoever has the lock: the program ends."""
        with suppress(OSError):  # they are being let go just now
            self._processes.signal(signal.SIGCONT)

    def leave(self) -> None:
        """It is ending, for which it needs to run: from now on nothing stops it."""
        with self._lock:
            self._left = True
        self.go_on()
        with self._lock:
            self._processes.close()

    def _tell(self, line: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{line}\n")


def take_turns(files: Sequence[Path], jobs: Sequence[Callable[[Seat], Result]]) -> list[Result]:
    """Start one trial after the other, each of which stands still once it is warm, then let all take turns.

    They take them in a circle, so that all have equally many pauses, each of which costs them a cold cache. Where the
    first and the last are of one kind, those between of another, a steady drift of the machine hits both kinds alike.

    Args:
        files: one for each, for its pauses.
        jobs: run one trial each, and return when it has ended.

    Raises:
        whatever a job raised; the other trials then run on at once, to their ends.
    """
    changed = threading.Event()
    seats = [Seat(file, changed) for file in files]
    trials: list[Future[Result]] = []

    def one_failed() -> bool:
        return any(trial.done() and trial.exception() is not None for trial in trials)

    with ThreadPoolExecutor(len(seats), "trial") as threads:
        try:
            for seat, job in zip(seats, jobs, strict=True):
                trials.append(threads.submit(job, seat))
                trials[-1].add_done_callback(seat.ended)
                told = False
                while not seat.steady:
                    changed.wait()
                    changed.clear()
                    if seat.group and not told:
                        told = True
                        for one in seats:
                            one.know(seat.group)
                seat.stop()
                if one_failed():
                    break
            for seat in itertools.cycle(seats):
                if all(one.measured for one in seats) or one_failed():
                    break
                if not seat.measured:
                    changed.clear()
                    seat.go_on()
                    changed.wait(TURN_SECONDS)
                    if not all(one.measured for one in seats if one is not seat):
                        seat.stop()
        finally:
            for seat in seats:
                seat.go_on()
    return [trial.result() for trial in trials]

"""Trials that take turns: all are alive, one runs, the others stand still, and a few times a second the turn passes on.

A machine whose speed changes from second to second, as shared hosts do without showing it anywhere, hits trials that
take turns alike, while trials that run one after the other are hit by chance. A trial whose turn is over is stopped by
SIGSTOP with all its processes, and goes on by SIGCONT with nothing lost. So that its clock stands still too, the pauses
are written to a file that it reads: only while it stands still, so that it never reads half of one.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

TURN_SECONDS = 0.25
"""long beside what a cold cache costs after a pause, short beside the seconds in which hosts change"""
FILE = "turns.f64"
_PAUSED, _GROUPS = range(2)
"""words of the file: seconds of all pauses; then the process groups that take turns, 0 where there is none yet"""

Result = TypeVar("Result")


class Pauses:
    """The trial's view of its seat: how long it stood still."""

    def __init__(self, file: Path) -> None:
        self._words = np.memmap(file, np.float64, "r")
        self._newest = self._left_out = 0.0

    @property
    def groups(self) -> set[int]:
        """Process groups that take turns with this one, itself included."""
        return {int(group) for group in self._words[_GROUPS:] if group}

    def active(self, wall_seconds: float) -> float:
        """Seconds of training without its pauses, given those on training's own clock, which never goes backward.

        A pause is left out as soon as the clock has gone over it: a reading taken before a pause may get here after it.
        """
        more = float(self._words[_PAUSED]) - self._left_out
        if wall_seconds - self._newest >= more:
            self._left_out += more
        self._newest = wall_seconds
        return wall_seconds - self._left_out


class Seat:
    """One trial among those that take turns; used by the thread that watches it and by the one that gives turns.

    Args:
        file: for its pauses.
        seats: how many take turns.
        changed: set whenever this seat's trial has been started, has become steady or has been measured.
    """

    def __init__(self, file: Path, seats: int, changed: threading.Event) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._words = np.memmap(file, np.float64, "w+", shape=(_GROUPS + seats,))
        self._changed = changed
        self._lock = threading.Lock()
        self._members: Callable[[], Sequence[int]] = tuple
        self._standing: Sequence[int] = ()
        self._paused_at: float | None = None
        self._paused_seconds = 0.0
        self.group = 0
        self.steady = False
        """it is warm, and its window has begun"""
        self.measured = False
        """it needs no more turns"""

    def joined(self, group: int, members: Callable[[], Sequence[int]]) -> None:
        """The trial was started; ``members`` are the processes that are to stand still."""
        self._members, self.group = members, group
        self._changed.set()

    def note(self, *, steady: bool = False, measured: bool = False) -> None:
        """What the trial said of itself."""
        if (steady and not self.steady) or (measured and not self.measured):
            self.steady |= steady
            self.measured |= measured
            self._changed.set()

    def clock(self) -> float:
        """Monotonic seconds that stand still while the trial does, for deadlines."""
        with self._lock:
            now = time.monotonic() if self._paused_at is None else self._paused_at
            return now - self._paused_seconds

    def know(self, groups: Sequence[int]) -> None:
        """Tell the trial, before its window begins, who takes turns with it."""
        self._words[_GROUPS : _GROUPS + len(groups)] = groups

    def stop(self) -> None:
        """Let it stand still; a second call does nothing."""
        with self._lock:
            if self._paused_at is None:
                self._standing = self._members()
                self._signal(signal.SIGSTOP)
                self._paused_at = time.monotonic()

    def go_on(self) -> None:
        """Let it run; a second call does nothing."""
        with self._lock:
            if self._paused_at is None:
                return
            self._paused_seconds += time.monotonic() - self._paused_at
            self._paused_at = None
            self._words[_PAUSED] = self._paused_seconds
            self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        for pid in self._standing:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)


class _Watcher(threading.Thread, Generic[Result]):
    """Runs one trial to its end."""

    def __init__(self, seat: Seat, job: Callable[[Seat], Result]) -> None:
        super().__init__(name=f"trial of {seat.file}")
        self.seat, self._job = seat, job
        self.result: list[Result] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._job(self.seat))
        except BaseException as error:  # noqa: BLE001 raised again where turns are given
            self.error = error
        finally:
            self.seat.note(steady=True, measured=True)


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
    seats = [Seat(file, len(files), changed) for file in files]
    watchers = [_Watcher(seat, job) for seat, job in zip(seats, jobs, strict=True)]
    try:
        for watcher in watchers:
            watcher.start()
            _warm_up(watcher.seat, seats, changed)
            if watcher.error:
                break
        for seat in itertools.cycle(seats):
            if all(one.measured for one in seats) or any(watcher.error for watcher in watchers):
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
        for watcher in watchers:
            if watcher.ident is not None:
                watcher.join()
    errors = [watcher.error for watcher in watchers if watcher.error is not None]
    if errors:
        raise errors[0]
    return [result for watcher in watchers for result in watcher.result]


def _warm_up(seat: Seat, seats: Sequence[Seat], changed: threading.Event) -> None:
    """Until it is steady, and stands still, as the others do that are."""
    told = False
    while not seat.steady:
        changed.wait()
        changed.clear()
        if not told and seat.group:
            told = True
            for one in seats:
                one.know([other.group for other in seats])
    seat.stop()

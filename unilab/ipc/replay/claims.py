"""Who writes which rows of a ring in shared memory, for any number of writers, any of which may die at any instant.

A writer claims the next rows under a lock that is held for a few stores, writes them without any lock, and takes its
claim back with one store. A claim is where the rows lie (position, count), so that it means the same however often
the ring has wrapped since. A reader looks at ``reserved`` first and at the claims afterwards: rows below ``reserved``
that nobody claims are complete. When it has copied them it looks at ``reserved`` again: rows that were claimed once
more meanwhile lie below ``reserved - capacity``. So readers take no lock.

The order of the stores makes each state that a killed writer can leave a safe one: a claim is stored before
``reserved`` counts it, and a position before the count that makes it one. What a dead writer claimed stays a hole
until another writer gets there, finds that its owner is dead, and writes over it. A writer that is alive but stopped
is passed over instead: its rows stay its own, whatever is written around them.
"""

import os

from unilab.ipc.replay.window import ReplayWindow, Span, merged
from unilab.ipc.shared_memory import segments

_RESERVED, _FIRST, _LOADS, _LOST, _USED, _TABLES = range(6)
_ABANDONED = -1
"""owner of a claim that nobody will finish although the process lives"""
RECENT = 8
"""a claim within the newest 1/RECENT of the ring ends the window, an older one is a hole in it"""


def claims_bytes(max_writers: int) -> int:
    """Bytes of the header that ReplayClaims takes."""
    return segments.align(8 * (_TABLES + 4 * max_writers))


class ReplayClaims:
    """The header of a ring of ``capacity`` rows: ``offset`` bytes into a segment, zero-filled when it is new."""

    def __init__(self, segment: segments.Segment, offset: int, capacity: int, max_writers: int) -> None:
        self._words = segment.words(offset, _TABLES + 4 * max_writers)
        self._lock = segment.lock
        self._name = segment.name
        self._capacity = capacity
        self._max_writers = max_writers
        self._counts = _TABLES
        self._positions = _TABLES + max_writers
        self._owners = _TABLES + 2 * max_writers
        self._started = _TABLES + 3 * max_writers
        self._entry: int | None = None
        self._mine = 0

    @property
    def reserved(self) -> int:
        """Rows claimed so far."""
        return self._words[_RESERVED]

    @property
    def loads(self) -> int:
        """How often the contents were replaced by restart()."""
        return self._words[_LOADS]

    @property
    def lost(self) -> int:
        """Rows given up because others had the whole ring claimed."""
        return self._words[_LOST]

    # Writers

    def claim(self, count: int, skip: int = 0) -> Span:
        """Claim up to ``count`` <= capacity rows, after ``skip`` rows that count but are not written: first, last + 1.

        There are fewer where a stopped writer's rows are in the way, none if such rows are all there is.
        """
        words = self._words
        with self._lock:
            entry = self._own_entry()
            start = words[_RESERVED] + skip
            dead: list[int] = []
            if others := self._in_the_way(entry, start, count):
                dead = [other for other in others if self._is_dead(other)]
                wanted = count
                start, count = self._free_rows(start, count, [other for other in others if other not in dead])
                if count == 0:
                    words[_LOST] += wanted
                    return start, start
            words[self._positions + entry] = start % self._capacity
            segments.fence()
            words[self._mine] = count
            for other in dead:
                self._take_over(other, start, count)
            if skip:
                words[_FIRST] = start
            segments.fence()
            words[_RESERVED] = start + count
        return start, start + count

    def finish(self) -> None:
        """The claimed rows are written."""
        segments.fence()
        self._words[self._mine] = 0

    def _own_entry(self) -> int:
        """Where this writer's claims are; the caller holds the lock."""
        words = self._words
        if self._entry is not None:
            if words[self._mine] == 0:
                return self._entry
            words[self._owners + self._entry] = _ABANDONED  # the last add() was interrupted
        for entry in range(self._max_writers):
            free = words[self._owners + entry] == 0
            if free or (words[self._counts + entry] == 0 and self._is_dead(entry)):
                words[self._started + entry] = segments.start_time(os.getpid()) or 0
                words[self._owners + entry] = os.getpid()
                words[_USED] = max(words[_USED], entry + 1)
                self._entry, self._mine = entry, self._counts + entry
                return entry
        self._entry = None
        raise RuntimeError(
            f"{self._name}: all {self._max_writers} writers are taken; close() handles that are done with, or create "
            "the buffer with more max_writers"
        )

    def _is_dead(self, entry: int) -> bool:
        owner = self._words[self._owners + entry]
        return owner == _ABANDONED or segments.start_time(owner) != self._words[self._started + entry]

    def _claimed(self, entry: int) -> Span:
        """Position and count."""
        return self._words[self._positions + entry], self._words[self._counts + entry]

    def _in_the_way(self, entry: int, start: int, count: int) -> list[int]:
        """Entries whose rows lie where [start, start + count) would."""
        found = []
        for other, rows in enumerate(self._words[self._counts : self._counts + self._words[_USED]].tolist()):
            if rows and other != entry:
                position = self._words[self._positions + other]
                inside = (start - position) % self._capacity < rows
                if inside or (position - start) % self._capacity < count:
                    found.append(other)
        return found

    def _free_rows(self, start: int, count: int, others: list[int]) -> Span:
        """From ``start`` on the first rows that none of the others claims, at most ``count``: first and how many."""
        capacity, origin = self._capacity, start
        claims = [self._claimed(other) for other in others]
        while inside := [rows - past for at, rows in claims if (past := (start - at) % capacity) < rows]:
            start += max(inside)
            if start - origin >= capacity:
                return origin, 0
        return start, min([count, *((at - start) % capacity for at, rows in claims if rows)])

    def _take_over(self, entry: int, start: int, count: int) -> None:
        """Take from a dead writer's claim the rows that are part of the claim [start, start + count) now."""
        position, rows = self._claimed(entry)
        ahead = (position - start) % self._capacity
        if ahead + rows <= count:
            self._words[self._counts + entry] = 0
            segments.fence()
            self._words[self._owners + entry] = 0
        elif ahead < count:
            self._words[self._positions + entry] = (start + count) % self._capacity
            segments.fence()
            self._words[self._counts + entry] = rows - (count - ahead)

    # Readers

    @property
    def oldest(self) -> int:
        """Rows with smaller numbers are overwritten, or may be."""
        segments.fence()
        return self._words[_RESERVED] - self._capacity

    def window(self) -> ReplayWindow:
        """The rows that can be read now."""
        words = self._words
        reserved = words[_RESERVED]
        segments.fence()
        low = min(reserved, max(words[_FIRST], reserved - self._capacity))
        used = words[_USED]
        counts = words[self._counts : self._counts + used].tolist()
        if not any(counts):
            return ReplayWindow(low, reserved)
        segments.fence()
        positions = words[self._positions : self._positions + used].tolist()
        return self._around(low, reserved, [pair for pair in zip(positions, counts, strict=True) if pair[1]])

    def _around(self, low: int, reserved: int, claims: list[Span]) -> ReplayWindow:
        """[low, reserved) without the claims (position, count); it ends below those at its upper end."""
        spans = []
        for position, count in claims:
            start = low + (position - low) % self._capacity
            spans += [(start, start + count), (low, start + count - self._capacity)]
        high = reserved
        recent = reserved - self._capacity // RECENT
        holes = merged(spans, low, reserved)
        for start, stop in reversed(holes):
            if start >= recent or stop >= high:
                high = start
        return ReplayWindow(low, high, merged(holes, low, high))

    # Contents from a checkpoint

    def restart(self, first: int, reserved: int) -> None:
        """Say that the ring holds the complete rows [first, reserved).

        Raises:
            RuntimeError: somebody is adding.
        """
        words = self._words
        with self._lock:
            counts = words[self._counts : self._counts + words[_USED]].tolist()
            if any(rows and not self._is_dead(entry) for entry, rows in enumerate(counts)):
                raise RuntimeError(f"{self._name}: loaded while rows are being added; load before collectors start")
            for entry, rows in enumerate(counts):
                if rows:
                    words[self._counts + entry] = 0
                    words[self._owners + entry] = 0
            words[_FIRST], words[_RESERVED] = first, reserved
            words[_LOADS] += 1

    def close(self) -> None:
        """Leave this writer's place to others and let the words go."""
        if self._entry is not None:
            with self._lock:
                self._words[self._owners + self._entry] = _ABANDONED if self._words[self._mine] else 0
            self._entry = None
        self._words.release()

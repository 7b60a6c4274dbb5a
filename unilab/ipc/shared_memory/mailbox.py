"""A mailbox for the latest value: putting never blocks, whoever reads, sleeps or dies on the other side."""

import pickle
import queue
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any

from unilab.ipc.shared_memory import segments
from unilab.ipc.shared_memory.latest import LatestBuffer, latest_bytes

_LENGTH = 8
"""bytes in front of the pickled value: its length"""

DEFAULT_CAPACITY = 65536
"""bytes of the largest pickled value"""


def mailbox_bytes(capacity: int) -> int:
    """Bytes of shared memory that a mailbox of this capacity takes."""
    return latest_bytes(_LENGTH + capacity)


class LatestValue:
    """The latest of the values that were put; a reader gets each at most once and never an older one.

    Speaks the queue protocol too (``put_nowait`` is never Full, ``get_nowait`` raises queue.Empty). Several readers
    each get the latest. Several writers take turns by a file lock, which the kernel ends when its holder dies.

    Args:
        ctx: accepted so that a mailbox can stand in for ``ctx.Queue()``; it works under every start method.
        capacity: bytes that a pickled value may have.

    Picklable as an argument of a process; what was put before is new there.

    Raises:
        SharedMemoryFullError: /dev/shm is too small.
        SegmentClosedError: from any use after close().
    """

    def __init__(self, ctx: BaseContext | None = None, *, capacity: int = DEFAULT_CAPACITY) -> None:
        self._open(segments.create(mailbox_bytes(capacity), "mailbox"), capacity)

    def _open(self, segment: segments.Segment, capacity: int) -> None:
        self._segment = segment
        self._capacity = capacity
        self._latest = LatestBuffer(segment, 0, _LENGTH + capacity)
        self._seen = 0

    @property
    def name(self) -> str:
        """Name of the shared memory."""
        return self._segment.name

    def put(self, value: Any) -> None:
        """Replace the latest value by this one.

        Raises:
            ValueError: pickled it is larger than the capacity.
        """
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        if len(data) > self._capacity:
            raise ValueError(
                f"{self.name}: the pickled value has {len(data)} bytes, the mailbox holds {self._capacity}; "
                f"create it with capacity={len(data)} or more"
            )
        memory = self._segment.memory

        def fill(buffer: int) -> None:
            start = self._latest.offsets[buffer]
            memory[start : start + _LENGTH] = len(data).to_bytes(_LENGTH, "little")
            memory[start + _LENGTH : start + _LENGTH + len(data)] = data

        with self._segment.lock:
            self._latest.write(fill)

    def get(self) -> Any | None:
        """The latest value, or None if nothing was put since this handle's last get."""
        try:
            return self.get_nowait()
        except queue.Empty:
            return None

    def put_nowait(self, value: Any) -> None:
        """The same as put: there is always room for the latest value."""
        self.put(value)

    def get_nowait(self) -> Any:
        """The latest value.

        Raises:
            queue.Empty: nothing was put since this handle's last get.
        """
        if self._latest.version == self._seen:
            raise queue.Empty
        memory = self._segment.memory

        def copy(buffer: int) -> bytes:
            start = self._latest.offsets[buffer]
            length = int.from_bytes(memory[start : start + _LENGTH], "little")
            return memory[start + _LENGTH : start + _LENGTH + min(length, self._capacity)]

        self._seen, data = self._latest.read(copy)
        return pickle.loads(data)

    def close(self) -> None:
        """Give up this handle (idempotent)."""
        self._segment.close()
        self._latest.close()

    def cleanup(self) -> None:
        """Close, and free the shared memory once nobody maps it any more. The creator calls it (idempotent)."""
        self.close()
        self._segment.unlink()

    def __reduce__(self) -> tuple[Callable[..., "LatestValue"], tuple[Any, ...]]:
        return _attach, (type(self), self.name, self._capacity)


def _attach(cls: type[LatestValue], name: str, capacity: int) -> LatestValue:
    mailbox = cls.__new__(cls)
    mailbox._open(segments.attach(name), capacity)
    return mailbox

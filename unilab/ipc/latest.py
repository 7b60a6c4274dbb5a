"""The newest complete version of something: writing never waits for readers, nor reading for writers.

Three buffers in turn (a seqlock each): version v is written into buffer v % 3 while readers still take v - 1. A word
per buffer says which version it holds, and is CHANGING while it is being written. A reader copies and then looks at
the word again: if it changed meanwhile, two further versions were begun during the copy, and the reader takes the
newer one. A writer that dies leaves a buffer that is CHANGING, which no reader touches; the newest complete version
stays readable. Nobody's death or pause can hold up anybody else.

Stores reach other processors in order on x86-64; ``fence`` orders them elsewhere.
"""

import functools
import pickle
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import numpy as np

from unilab.ipc.shared_buffer import FieldSpec, Layout, SharedBufferBase
from unilab.ipc.shared_memory import segments

BUFFERS = 3
CHANGING = -1

T = TypeVar("T")


def latest_layout(kind: str, fields: Mapping[str, FieldSpec]) -> Layout:
    """The layout of a LatestVersion of these arrays: its words are the newest version, and the one in each buffer."""
    return Layout(kind, 1 + BUFFERS, fields, BUFFERS)


class LatestVersion(SharedBufferBase):
    """The newest version of some arrays in shared memory.

    Several writers take turns by a file lock, which the kernel ends when its holder dies. Readers take no lock at all.

    Args:
        lock: entered around each write in place of that lock.
        layout, attach, label: as for ``SharedBufferBase``.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        attach: str | None = None,
        label: str | None = None,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        super().__init__(layout, attach=attach, label=label)
        self._lock = lock

    @property
    def version(self) -> int:
        """The newest version that can be read; 0: nothing was written yet."""
        self._check_open()
        return self._words[0]

    def _publish(self, fill: Callable[[int], object]) -> int:
        """Call ``fill(buffer)`` for the buffer to be written and publish it; its version.

        When ``fill`` raises, nothing is published.
        """
        with self._lock or self._segment.locked():
            version = self.version + 1
            buffer = version % BUFFERS
            self._words[1 + buffer] = CHANGING
            segments.fence()
            fill(buffer)
            segments.fence()
            self._words[1 + buffer] = version
            segments.fence()
            self._words[0] = version
            return version

    def _newest(self, copy: Callable[[int], T]) -> tuple[int, T]:
        """Call ``copy(buffer)`` until it copied one whole version; that version and what copy returned."""
        while True:
            version = self.version
            buffer = version % BUFFERS
            segments.fence()
            if self._words[1 + buffer] == version:
                copied = copy(buffer)
                segments.fence()
                if self._words[1 + buffer] == version:
                    return version, copied


DEFAULT_CAPACITY = 65536
"""bytes of the largest pickled value"""


def _mailbox(capacity: int) -> Layout:
    return latest_layout("mailbox", {"length": ((1,), np.dtype(np.int64)), "value": ((capacity,), np.dtype(np.uint8))})


def mailbox_bytes(capacity: int) -> int:
    """Bytes of shared memory that a LatestValue of this capacity takes."""
    return _mailbox(capacity).bytes


class LatestValue(LatestVersion):
    """A mailbox for the latest of the values that were put; a reader gets each at most once and never an older one.

    Putting never blocks, whoever reads, sleeps or dies on the other side. Several readers each get the latest.

    Args:
        ctx: accepted so that a mailbox can stand in for ``ctx.Queue()``; it works under every start method.
        capacity: bytes that a pickled value may have.
        name: attach to the mailbox of this name, made with the same capacity; None makes one.

    Picklable as an argument of a process; what was put before is new there.

    Raises:
        SharedMemoryFullError: /dev/shm is too small.
        SegmentClosedError: from any use after close().
    """

    def __init__(
        self, ctx: BaseContext | None = None, *, capacity: int = DEFAULT_CAPACITY, name: str | None = None
    ) -> None:
        super().__init__(_mailbox(capacity), attach=name)
        self._capacity = capacity
        self._seen = 0

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

        def fill(buffer: int) -> None:
            self._arrays[buffer]["length"][0] = len(data)
            self._arrays[buffer]["value"][: len(data)] = np.frombuffer(data, np.uint8)

        self._publish(fill)

    def put_nowait(self, value: Any) -> None:
        """The same as put, as of a queue: there is always room for the latest value."""
        self.put(value)

    def get(self) -> Any | None:
        """The latest value, or None if nothing was put since this handle's last get."""
        if self.version == self._seen:
            return None

        def copy(buffer: int) -> bytes:
            return self._arrays[buffer]["value"][: self._arrays[buffer]["length"][0]].tobytes()

        self._seen, data = self._newest(copy)
        return pickle.loads(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), capacity=self._capacity, name=self.name), (None,)

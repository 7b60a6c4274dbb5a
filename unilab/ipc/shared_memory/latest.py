"""The newest complete version of a block of bytes, for one writer and any number of readers that never wait.

Three buffers in turn (a seqlock each): version v is written into buffer v % 3 while readers still take v - 1. A word
per buffer says which version it holds, and is CHANGING while it is being written. A reader copies and then looks at
the word again: if it changed meanwhile, two further versions were begun during the copy, and the reader takes the
newer one. A writer that dies leaves a buffer that is CHANGING, which no reader touches; the newest complete version
stays readable. Nobody's death or pause can hold up anybody else.

Stores reach other processors in order on x86-64; ``fence`` orders them elsewhere.
"""

from collections.abc import Callable
from typing import TypeVar

from unilab.ipc.shared_memory import segments

BUFFERS = 3
CHANGING = -1
_HEADER = segments.align(8 * (1 + BUFFERS))

T = TypeVar("T")


def latest_bytes(size: int) -> int:
    """Bytes of shared memory that a LatestBuffer for ``size`` bytes takes."""
    return _HEADER + BUFFERS * segments.align(size)


class LatestBuffer:
    """BUFFERS buffers of ``size`` bytes at ``offset`` in a segment, that is zero-filled when it is new."""

    def __init__(self, segment: segments.Segment, offset: int, size: int) -> None:
        self._segment = segment
        self._words = segment.words(offset, 1 + BUFFERS)
        stride = segments.align(size)
        self.offsets = [offset + _HEADER + buffer * stride for buffer in range(BUFFERS)]
        """where in the segment each buffer begins, bytes"""

    @property
    def version(self) -> int:
        """The newest complete version; 0: nothing was written yet."""
        _ = self._segment.memory
        return self._words[0]

    def write(self, fill: Callable[[int], object]) -> int:
        """Call ``fill(buffer)`` for the buffer to be written and publish it; its version. One writer at a time.

        When ``fill`` raises, nothing is published.
        """
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

    def read(self, copy: Callable[[int], T]) -> tuple[int, T]:
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

    def close(self) -> None:
        """Let the words go (idempotent)."""
        self._words.release()

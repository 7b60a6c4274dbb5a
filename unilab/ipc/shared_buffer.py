"""The base of all objects in shared memory: a segment that describes its content, with words and arrays."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from unilab.ipc.shared_memory import segments

FieldSpec = tuple[tuple[int, ...], Any]
"""shape and dtype of an array, the dtype NumPy's or PyTorch's"""
_TEXT = 8
"""where the description begins, bytes; before it is its length"""


@dataclass(frozen=True)
class Layout:
    """A segment's parts: a description, int64 words, and the same named arrays once or several times.

    Each part and each array begins a cache line.
    """

    kind: str
    """what it is, in errors and in the segment's name"""
    words: int
    fields: Mapping[str, FieldSpec]
    """name to shape and dtype; NumPy's as an object, not as a class"""
    copies: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)
    """name to value: what else the maker and those who attach must agree on"""

    @cached_property
    def text(self) -> bytes:
        """The description; whoever attaches compares it with their own, and an error names the difference."""
        fields = {name: f"{list(shape)} {dtype}" for name, (shape, dtype) in self.fields.items()}
        parts = [f"{name}={value}" for name, value in {**self.sizes, **fields}.items()]
        return "\n".join([f"unilab {self.kind}", *parts]).encode()

    @cached_property
    def starts(self) -> list[int]:
        """Where the words, and then the arrays of each copy in turn begin, and where the segment ends, bytes."""
        sizes = [8 * self.words]
        sizes += [math.prod(shape) * dtype.itemsize for shape, dtype in self.fields.values()] * self.copies
        starts = [segments.align(_TEXT + len(self.text))]
        for size in sizes:
            starts.append(starts[-1] + segments.align(size))
        return starts

    @property
    def bytes(self) -> int:
        """The size of the segment."""
        return self.starts[-1]


class SharedBufferBase:
    """An object in shared memory, made by one process and attached to by others.

    ``self._words`` are its int64 words, ``self._arrays`` its arrays, a dict for each copy (of a dtype of PyTorch as
    bytes); all are zero when it is new. ``self._segment.locked()`` is for whoever is not alone in storing words.

    Args:
        layout: what lies in its segment; the same for the maker and for those who attach.
        attach: the ``name`` of the maker's object, or the label that it was made with; None makes one.
        label: a name to attach by, in place of a generated one.

    Raises:
        ValueError: the segment holds something else.
        FileNotFoundError: there is no such segment.
        SharedMemoryFullError: /dev/shm is too small.
    """

    def __init__(self, layout: Layout, *, attach: str | None = None, label: str | None = None) -> None:
        text = layout.text
        if attach is None:
            self._segment = segments.create(layout.bytes, layout.kind.replace(" ", "-"), label=label)
            self._segment.memory[_TEXT : _TEXT + len(text)] = text
            segments.fence()
            self._segment.words(0, 1)[0] = len(text)
        else:
            self._segment = segments.attach(attach)
            length = self._segment.words(0, 1)[0] if self._segment.size >= _TEXT else 0
            theirs = self._segment.memory[_TEXT : _TEXT + max(0, length)]
            if theirs != text:
                raise ValueError(f"{self.name} {_difference(theirs, text, layout.kind)}")
        start, *starts = layout.starts
        self._words = self._segment.words(start, layout.words)
        self._arrays: list[dict[str, np.ndarray]] = []
        places = iter(starts)
        for _ in range(layout.copies):
            arrays = {}
            for name, (shape, dtype) in layout.fields.items():
                plain = (shape, dtype) if isinstance(dtype, np.dtype) else ((math.prod(shape) * dtype.itemsize,), "u1")
                arrays[name] = self._segment.array(next(places), *plain)
            self._arrays.append(arrays)

    @property
    def name(self) -> str:
        """Name of the shared memory, to attach by."""
        return self._segment.name

    def close(self) -> None:
        """Give up this handle (idempotent). What was handed out stays valid, and other processes are not disturbed."""
        self._segment.close()
        self._words.release()
        self._arrays = []

    def cleanup(self) -> None:
        """Close, and free the shared memory once nobody maps it any more. The creator calls it, last (idempotent)."""
        self.close()
        self._segment.unlink()

    def _check_open(self) -> None:
        """Raise SegmentClosedError after close()."""
        _ = self._segment.memory


def _difference(theirs: bytes, mine: bytes, kind: str) -> str:
    """The first thing in the layout that is not the same, for an error."""
    head, *there = theirs.decode(errors="replace").splitlines() or [""]
    _, *here = mine.decode().splitlines()
    if head != f"unilab {kind}":
        return f"is no {kind}, or one that is not finished yet"
    created = next((line for line in there if line not in here), None)
    attached = next((line for line in here if line not in there), None)
    if created or attached:
        return f"was created with {created or 'nothing more'}, attached with {attached or 'nothing more'}"
    return "was created with the same in another order"

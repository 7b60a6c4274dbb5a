"""What all objects in shared memory have in common: a segment that says what lies in it, and an end."""

from collections.abc import Mapping

from unilab.ipc.shared_memory import segments

_TEXT = 8
"""where the description begins, bytes; before it is its length"""


def shared_bytes(kind: str, layout: Mapping[str, object], size: int) -> int:
    """Bytes of shared memory of an object with ``size`` bytes of its own."""
    return segments.align(_TEXT + len(_describe(kind, layout))) + size


def _describe(kind: str, layout: Mapping[str, object]) -> bytes:
    return "\n".join([f"unilab {kind}", *(f"{name}={value}" for name, value in layout.items())]).encode()


class SharedBufferBase:
    """An object in shared memory, made by one process and attached to by others.

    Its segment begins with a description, so that whoever attaches to something else is told what differs. The
    object's own part begins ``self._offset`` bytes into ``self._segment``, zero-filled when it is new.

    Args:
        kind: what it is, in errors and in the segment's name.
        layout: name to value, everything that the maker and those who attach must agree upon.
        size: bytes of the object's own part.
        attach: the ``name`` of the maker's object, or the label that it was made with; None makes one.
        label: a name to attach by, in place of a generated one.

    Raises:
        ValueError: the segment holds something else.
        FileNotFoundError: there is no such segment.
        SharedMemoryFullError: /dev/shm is too small.
    """

    def __init__(
        self, kind: str, layout: Mapping[str, object], size: int, *, attach: str | None = None, label: str | None = None
    ) -> None:
        text = _describe(kind, layout)
        self._offset = segments.align(_TEXT + len(text))
        if attach is None:
            self._segment = segments.create(self._offset + size, kind.replace(" ", "-"), label=label)
            self._segment.memory[_TEXT : _TEXT + len(text)] = text
            segments.fence()
            self._segment.words(0, 1)[0] = len(text)
        else:
            self._segment = segments.attach(attach)
            length = self._segment.words(0, 1)[0] if self._segment.size >= _TEXT else 0
            theirs = self._segment.memory[_TEXT : _TEXT + max(0, length)]
            if theirs != text:
                raise ValueError(f"{self.name} {_difference(theirs, text, kind)}")

    @property
    def name(self) -> str:
        """Name of the shared memory, to attach by."""
        return self._segment.name

    def close(self) -> None:
        """Give up this handle (idempotent). What was handed out stays valid, and other processes are not disturbed."""
        self._segment.close()

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

"""What buffers in shared memory have in common: a segment with a checked header, a device, and an end."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from unilab.ipc.shared_memory import segments

_MAGIC = 0x756E695F62756666


class SharedBufferBase(ABC):
    """Rows in a segment of shared memory, made by one process and attached to by others.

    Args:
        capacity: rows that it holds.
        device: where samples are wanted.
        kind: what it is, part of the segment's name and of errors.
        size: bytes behind the header.
        layout: name to size, everything that makers and attachers must agree upon.
        name: attach to the segment of this name; None makes one.

    Raises:
        ValueError: a size is impossible or other than the maker's.
        SharedMemoryFullError: /dev/shm is too small.
        SegmentClosedError: from any use after close().
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str,
        *,
        kind: str,
        size: int,
        layout: Mapping[str, int],
        name: str | None = None,
    ) -> None:
        self._capacity = capacity
        self._device = torch.device(device)
        self._kind = kind
        if name is None:
            self._segment = segments.create(header_bytes(layout) + size, kind)
            words = self._segment.words(0, 2 + len(layout))
            words[1] = len(layout)
            for word, value in enumerate(layout.values(), start=2):
                words[word] = value
            segments.fence()
            words[0] = _MAGIC
        else:
            self._segment = segments.attach(name)
            self._check(layout, header_bytes(layout) + size)

    def _check(self, layout: Mapping[str, int], size: int) -> None:
        words = self._segment.words(0, 2) if self._segment.size >= 16 else (0, 0)
        if words[0] != _MAGIC or words[1] != len(layout):
            raise ValueError(f"{self.name} is no {self._kind} buffer, or one that is not finished yet")
        for (label, mine), theirs in zip(layout.items(), self._segment.words(16, len(layout)), strict=True):
            if mine != theirs:
                raise ValueError(f"{self.name} was created with {label}={theirs}, attached with {label}={mine}")
        if self._segment.size != size:
            raise ValueError(f"{self.name} has {self._segment.size} bytes instead of {size}")

    @property
    def name(self) -> str:
        """Name of the shared memory, to attach by."""
        return self._segment.name

    @property
    def capacity(self) -> int:
        """Rows that it holds."""
        return self._capacity

    @property
    def device(self) -> torch.device:
        """Where samples are."""
        return self._device

    @abstractmethod
    def __len__(self) -> int:
        """Rows that can be sampled."""

    def close(self) -> None:
        """Give up this handle (idempotent); tensors handed out stay valid. Other processes are not disturbed."""
        self._segment.close()

    def cleanup(self) -> None:
        """Close, and free the shared memory once nobody maps it any more. The creator calls it, last (idempotent)."""
        self.close()
        self._segment.unlink()

    def _check_open(self) -> None:
        _ = self._segment.memory


def header_bytes(layout: Mapping[str, int]) -> int:
    """Bytes before a buffer's own part."""
    return segments.align(8 * (2 + len(layout)))

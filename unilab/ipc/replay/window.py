"""Which rows of a replay ring can be sampled, and drawing from them.

Rows are numbered for ever: the n-th row added has number n and lies at position ``n % capacity``. A window is a range
of numbers, minus holes: rows that somebody claimed but has not finished.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

Span = tuple[int, int]
"""first, last + 1"""


class ReplayEmptyError(RuntimeError):
    """Sampling was asked for, and there is no row that can be sampled."""


def merged(spans: Iterable[Span], low: int, high: int) -> tuple[Span, ...]:
    """The parts of the spans within [low, high), in order and without overlap."""
    result: list[Span] = []
    for start, stop in sorted((max(start, low), min(stop, high)) for start, stop in spans):
        if start >= stop:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return tuple(result)


def without(spans: Iterable[Span], holes: Iterable[Span]) -> tuple[Span, ...]:
    """What is left of the spans between the holes (both as ``merged`` returns them)."""
    result = []
    holes = list(holes)
    for start, stop in spans:
        for hole_start, hole_stop in holes:
            if start < hole_stop and hole_start < stop:
                if start < hole_start:
                    result.append((start, hole_start))
                start = hole_stop
        if start < stop:
            result.append((start, stop))
    return tuple(result)


def contiguous(start: int, stop: int, capacity: int, limit: int | None = None) -> Iterator[Span]:
    """[start, stop) cut where the ring wraps, and into spans of at most ``limit`` rows."""
    while start < stop:
        end = min(stop, start - start % capacity + capacity, stop if limit is None else start + limit)
        yield start, end
        start = end


@dataclass(frozen=True)
class ReplayWindow:
    """Rows with the numbers [low, high) apart from the holes, which are in order and lie within."""

    low: int
    high: int
    holes: tuple[Span, ...] = ()

    def __len__(self) -> int:
        return self.high - self.low - sum(stop - start for start, stop in self.holes)

    def starting_at(self, low: int) -> "ReplayWindow":
        """The part from ``low`` on; empty if there is none."""
        if low <= self.low:
            return self
        return replace(self, low=low, high=max(low, self.high), holes=merged(self.holes, low, self.high))

    def draw(self, out: torch.Tensor, base: int, generator: torch.Generator) -> None:
        """Fill ``out`` [B] int64 with numbers of rows less ``base``, uniform and independent.

        Raises:
            ReplayEmptyError: there is none.
        """
        size = len(self)
        if size <= 0:
            raise ReplayEmptyError(
                "the replay buffer has no complete row to sample: add transitions first and see that len(replay) > 0"
            )
        low = self.low - base
        torch.randint(low, low + size, out.shape, generator=generator, out=out)
        for start, stop in self.holes:
            out.add_(out >= start - base, alpha=stop - start)


def wrap(numbers: np.ndarray, capacity: int, out: np.ndarray) -> None:
    """Positions of numbers in [0, 2 * capacity), int64: a quarter of the time of a remainder.

    What would be negative is huge as an unsigned integer, so the smaller of both is the position.
    """
    np.subtract(numbers, capacity, out=out)
    unsigned = out.view(np.uint64)
    np.minimum(numbers.view(np.uint64), unsigned, out=unsigned)

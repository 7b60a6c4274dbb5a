"""Whether a configuration fits: the trainer's predicted memory against this machine and the suite's constraints."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from harness.predict.calibration import AS_PREDICTED, Factor
from unilab.ipc.memory_budget import MemoryAvailable, MemoryBudget, MemoryBudgetError
from unilab.machine.cgroups import memory_limit


@dataclass(frozen=True)
class Fit:
    """Whether a configuration can be run here, and the bytes that are predicted before anything is started."""

    problem: str | None = None
    """a setting is wrong, or settings contradict each other"""
    reason: str | None = None
    """why it does not fit: the items, and the remedy"""
    host_bytes: int = 0
    """RAM of all processes, shared memory included"""
    shm_bytes: int = 0
    device_bytes: int = 0
    """summed over the accelerators"""
    host_limit: int | None = None
    """RAM that the trial may use"""
    table: str = ""
    """item by item, for people"""
    items: dict[str, int] = field(default_factory=dict)
    """bytes by the item's name, those of accelerators included"""
    expected_host_bytes: int = 0
    """``host_bytes`` times what past runs on this machine took of it, in the median"""

    @property
    def fits(self) -> bool:
        return self.problem is None and self.reason is None


def host_limit(fraction: float) -> int:
    """Bytes of RAM that a trial may use: a part of what this machine or container has."""
    limit = memory_limit()
    total = psutil.virtual_memory().total
    return int(fraction * (min(total, limit.limit) if limit else total))


def fit(
    predicted: MemoryBudget | None,
    fraction: float,
    factor: Factor = AS_PREDICTED,
    available: MemoryAvailable | None = None,
) -> Fit:
    """Compare a trainer's budget with what there is; None (nothing predicted) fits.

    Args:
        fraction: of the machine's memory, that a trial may use.
        factor: measured over predicted host memory of past runs. The check asks for as much as would have been enough
            for nearly all of them, and never for less than the predicted items.
        available: what there is; None: what this machine has now.
    """
    if predicted is None:
        return Fit(host_limit=int(fraction * available.host_total) if available else host_limit(fraction))
    available = available or MemoryAvailable.here()
    reason: str | None = None
    margin = max(1.0, factor.safe)
    total, free = int(available.host_total / margin), int(available.host_free / margin)
    left = dataclasses.replace(available, host_total=total, host_free=free)
    try:
        predicted.check(left, host_fraction=fraction)
    except MemoryBudgetError as error:
        reason = str(error)
        if margin > 1:
            reason += f"\nsome past runs took {margin - 1:.0%} more than predicted, for which memory is kept free"
    items: Counter[str] = Counter()
    for item in predicted.items:
        items[item.name] += item.bytes
    return Fit(
        None, reason, predicted.host_bytes, predicted.shm_bytes, predicted.device_bytes,
        int(fraction * available.host_total), predicted.table(), dict(items),
        round(predicted.host_bytes * factor.expected),
    )  # fmt: skip


def fit_together(predicted: Sequence[MemoryBudget | None], fraction: float, safe: float = 1.0) -> bool:
    """Whether all of them fit at once; False where one is not predicted.

    ``safe`` is how much more than predicted may be needed, the rest as in ``fit``.
    """
    known = [one for one in predicted if one is not None]
    items = tuple(item for one in known for item in one.items)
    return len(known) == len(predicted) and fit(MemoryBudget(items), fraction, Factor(safe=safe)).fits

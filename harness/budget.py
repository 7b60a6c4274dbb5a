"""Whether a configuration fits: the trainer's predicted memory against this machine and the suite's constraints."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from unilab.training.cgroups import memory_limit

if TYPE_CHECKING:  # unilab.ipc loads torch, which takes longer than a wrong suite may take to be refused
    from unilab.ipc.budget import MemoryBudget


@dataclass(frozen=True)
class Verdict:
    """Bytes predicted before anything is started. ``reason`` has the items, and the remedy, when they do not fit."""

    fits: bool = True
    reason: str | None = None
    host_bytes: int = 0
    """RAM of all processes, shared memory included"""
    shm_bytes: int = 0
    device_bytes: int = 0
    """summed over the accelerators"""
    host_limit: int | None = None
    """RAM that the trial may use"""
    table: str = ""
    """item by item, for people"""


def host_limit(fraction: float) -> int:
    """Bytes of RAM that a trial may use: a part of what this machine or container has."""
    limit = memory_limit()
    total = psutil.virtual_memory().total
    return int(fraction * (min(total, limit.limit) if limit else total))


def judge(predicted: "MemoryBudget | None", fraction: float) -> Verdict:
    """Compare a trainer's budget with what this machine has now; None (nothing predicted) fits."""
    from unilab.ipc.budget import MemoryAvailable, MemoryBudgetError

    limit = host_limit(fraction)
    if predicted is None:
        return Verdict(host_limit=limit)
    reason = None
    try:
        predicted.check(MemoryAvailable.here(), host_fraction=fraction)
    except MemoryBudgetError as error:
        reason = str(error)
    return Verdict(
        reason is None, reason, predicted.host_bytes, predicted.shm_bytes, predicted.device_bytes, limit,
        predicted.table(),
    )  # fmt: skip

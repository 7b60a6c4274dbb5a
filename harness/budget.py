"""Whether a configuration fits: the trainer's predicted memory against this machine and the suite's constraints."""

from dataclasses import dataclass
from typing import Any

import psutil

from unilab.training.cgroups import memory_limit


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

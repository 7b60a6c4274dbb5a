"""The memory that a run needs, item by item, against what a machine has; and what to change when it does not fit."""

import mmap
import shutil
import textwrap
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from unilab.errors import UserError
from unilab.machine.cgroups import memory_limit
from unilab.machine.nvidia_smi import query, torch_device

MIB = 2**20
NEXT_SMALLER = 64
"""values that are tried where the largest one that fits is not possible beside other settings"""
SHM = "shm"
HOST = "host"


@dataclass(frozen=True)
class BudgetItem:
    """One thing that a run holds in memory."""

    name: str
    place: str
    """host, shm (in /dev/shm, which is host memory too), or a device, such as cuda:0"""
    bytes: int
    detail: str = ""
    """how the size comes about"""


@dataclass(frozen=True)
class MemoryAvailable:
    """Bytes that a run may use on this machine."""

    host_total: int
    host_free: int
    shm_free: int | None = None
    """None: there is no file system whose size limits shared memory"""
    devices: Mapping[str, int] = field(default_factory=dict)
    """free memory of each accelerator, by name; those that are not named are not checked"""

    @classmethod
    def here(cls) -> "MemoryAvailable":
        """This machine now; inside a container what is left of its limit."""
        memory, limit = psutil.virtual_memory(), memory_limit()
        return cls(
            host_total=min(memory.total, limit.limit) if limit else memory.total,
            host_free=min(memory.available, limit.free) if limit else memory.available,
            shm_free=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None,
            devices={
                device: int(free) * MIB
                for index, free in query("gpu", "index", "memory.free")
                if free.isdigit() and (device := torch_device(index)) is not None
            },
        )

    def part(self, count: int) -> "MemoryAvailable":
        """What each of ``count`` runs side by side may use."""
        shm = None if self.shm_free is None else self.shm_free // count
        devices = {name: free // count for name, free in self.devices.items()}
        return MemoryAvailable(self.host_total // count, self.host_free // count, shm, devices)


class MemoryBudgetError(UserError, MemoryError):
    """A run that does not fit: what it needs, item by item, what there is, and the smallest change that fits.

    ``changes`` maps a setting to the largest value with which the run would fit, all else equal.
    """

    def __init__(self, message: str, budget: "MemoryBudget", changes: Mapping[str, int]) -> None:
        super().__init__(message)
        self.budget = budget
        self.changes = dict(changes)


@dataclass(frozen=True)
class MemoryBudget:
    """The memory of one run.

    ``settings`` are whole numbers that the run's size depends on, and ``estimate(name, value)`` is the budget with
    one of them changed; ``check`` searches them for a change that fits. ``possible(name, value)`` says whether the
    run's other settings allow it.
    """

    items: tuple[BudgetItem, ...]
    settings: Mapping[str, int] = field(default_factory=dict)
    estimate: Callable[[str, int], "MemoryBudget"] | None = field(default=None, compare=False, repr=False)
    possible: Callable[[str, int], bool] = field(default=lambda name, value: True, compare=False, repr=False)

    @property
    def host_bytes(self) -> int:
        """All RAM of the machine that the run needs, /dev/shm included, as the sum of PSS would count it."""
        return sum(item.bytes for item in self.items if item.place in (HOST, SHM))

    @property
    def shm_bytes(self) -> int:
        """The part of ``host_bytes`` that lies in /dev/shm."""
        return sum(item.bytes for item in self.items if item.place == SHM)

    @property
    def devices(self) -> dict[str, int]:
        """Bytes of each accelerator."""
        totals: dict[str, int] = defaultdict(int)
        for item in self.items:
            if item.place not in (HOST, SHM):
                totals[item.place] += item.bytes
        return dict(totals)

    @property
    def device_bytes(self) -> int:
        """Bytes of all accelerators together."""
        return sum(self.devices.values())

    def table(self) -> str:
        """The items and totals for people, at most 80 columns wide."""
        rows = [_row("item", "place", "MiB", "detail")]
        rows += [_row(item.name, item.place, _mib(item.bytes), item.detail) for item in self.items if item.bytes]
        rows.append(_row("host", "total", _mib(self.host_bytes), f"of it in /dev/shm {_mib(self.shm_bytes)}"))
        rows += [_row(device, "total", _mib(size), "") for device, size in self.devices.items()]
        return "\n".join(rows)

    def shortages(self, available: MemoryAvailable, host_fraction: float = 1.0) -> list[str]:
        """What is too small, a sentence each; empty when the run fits.

        Args:
            available: what there is.
            host_fraction: part of the machine's RAM that the run may use; never more than is free.
        """
        limits = {"host": min(available.host_free, int(available.host_total * host_fraction))}
        needs = {"host": self.host_bytes}
        if available.shm_free is not None:
            limits["/dev/shm"], needs["/dev/shm"] = available.shm_free, self.shm_bytes
        for device, size in self.devices.items():
            if device in available.devices:
                limits[device], needs[device] = available.devices[device], size
        return [
            f"{place} needs {_mib(needs[place])} MiB, {_mib(limit)} may be used"
            for place, limit in limits.items()
            if needs[place] > limit
        ]

    def check(self, available: MemoryAvailable, *, host_fraction: float = 1.0) -> None:
        """Refuse a run that does not fit.

        Raises:
            MemoryBudgetError: with the items and the smallest change that would fit.
        """
        shortages = self.shortages(available, host_fraction)
        if not shortages:
            return
        changes = {}
        for name, current in self.settings.items():

            def too_large(value: int, name: str = name) -> bool:
                return self.estimate is None or bool(self.estimate(name, value).shortages(available, host_fraction))

            fitting = bisect_left(range(1, current), True, key=too_large)  # the largest value that fits, alone
            # environments are divided among workers: one of the next smaller numbers may be possible
            lower = range(fitting, max(0, fitting - NEXT_SMALLER), -1)
            if value := next((value for value in lower if self.possible(name, value)), None):
                changes[name] = value
        changes = dict(sorted(changes.items(), key=lambda change: -change[1] / self.settings[change[0]]))
        remedies = [f"{name} {self.settings[name]} -> {value} fits" for name, value in changes.items()]
        remedy = ", or ".join(remedies) or "and no change of one setting alone fits"
        raise MemoryBudgetError(f"{'; '.join(shortages)}; {remedy}\n{self.table()}", self, changes)


def place_of(device: str) -> str:
    """Where a torch device's memory is, as budgets name it."""
    return {"cpu": HOST, "cuda": "cuda:0"}.get(device, device)


def pages(*sizes: int) -> int:
    """What segments of these sizes take of /dev/shm: whole pages."""
    return sum(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes)


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f}"


def _row(name: str, place: str, size: str, detail: str) -> str:
    head = f"{name[:24]:<24} {place[:7]:<7} {size:>9}  "
    return textwrap.fill(head + detail, 80, subsequent_indent=" " * len(head), drop_whitespace=True).rstrip()

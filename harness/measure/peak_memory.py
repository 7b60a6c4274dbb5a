"""Peak memory of a repeat: what all of its processes together take from the machine.

The proportional set size (PSS) divides a page that several processes share among them, so the sum over a repeat's
processes counts shared memory once. Library code is different: what other programs on the machine happen to load must
not change a measurement, so pages of files count as if the repeat ran alone. Where the kernel does not report PSS the
resident set size (RSS: too high) stands in, and the record says so.
"""

import dataclasses
import math
import shutil
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import psutil

from unilab.machine.nvidia_smi import query

Accounting = Literal["pss", "rss"]

PROC = Path("/proc")
SHM = Path("/dev/shm")
DUTY = 0.02
"""part of one core that sampling may take: it must not slow down what it measures"""
DEVICE_INTERVAL = 2.0
"""seconds between two questions to nvidia-smi, each of which takes about 0.1 s to answer"""


@dataclass(frozen=True)
class MemorySample:
    """Bytes at one moment, summed over the trial's processes."""

    host: int = 0
    """RAM, with shared memory counted once"""
    shm: int = 0
    """the part of ``host`` that lies in /dev/shm"""
    device: int = 0
    """accelerator memory; 0 when nvidia-smi is absent"""


class PeakMemory:
    """Samples the process ``pid``, its descendants and its process group from a thread until closed.

    Args:
        pid: the trial's first process; when it leads a group or session, their members count even after their
            parent has died.
        interval: seconds between samples; longer when sampling would take more than ``DUTY`` of a core, as the kernel
            walks all pages of a process to add them up (5 to 10 ms for one of 600 MiB).
        limit: host bytes from which ``on_exceed`` is called, once, on the sampling thread, with the bytes seen.
        stands: whether the trial stands still: then it takes no more than before, and whose turn it is has the cores.
        measuring: whether the steady window is open, in which it counts how busy the device is.
    """

    def __init__(
        self,
        pid: int,
        *,
        interval: float = 0.25,
        limit: int | None = None,
        on_exceed: Callable[[int], None] = lambda seen: None,
        stands: Callable[[], bool] = lambda: False,
        measuring: Callable[[], bool] = lambda: False,
    ) -> None:
        self.pid = pid
        self.accounting = accounting()
        self.peak = MemorySample()
        """the largest of each figure so far"""
        self.cost_seconds = 0.0
        """CPU time of all samples so far"""
        self.samples = 0
        self._interval, self._limit, self._on_exceed, self._stands = interval, limit, on_exceed, stands
        self._measuring = measuring
        self._device_used: Counter[int] = Counter()
        self._device_busy: list[float] = []
        self._next_device = 0.0 if shutil.which("nvidia-smi") else math.inf
        self._sampling = threading.Lock()
        """the sampling thread and whoever calls ``sample`` count into one peak"""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)
        self._thread.start()

    def sample(self) -> MemorySample:
        """Measure once, now, and count it into the peak; any thread may."""
        with self._sampling:
            started = time.thread_time()
            pids = trial_processes(self.pid)
            parts = [process_memory(pid, self.accounting) for pid in pids]
            shm = owned_shm(pids)
            host = (
                sum(part.private for part in parts)
                # The processes of a repeat load the same libraries: the largest has about all that any of them has.
                + max([sum(part.files for part in parts), *(part.all_files for part in parts)])
                # Pages of a segment that nobody has touched yet, or has unmapped again, are in no process's figures.
                + max(shm, sum(part.shared for part in parts))
            )
            if time.monotonic() >= self._next_device:  # asked seldom because the driver is slow to answer
                self._device_used = Counter()
                for pid, mebibytes in query("compute-apps", "pid", "used_memory"):
                    if mebibytes.isdigit():
                        self._device_used[int(pid)] += int(mebibytes) * 2**20
                if self._measuring() and any(self._device_used[pid] for pid in pids):
                    # which of several devices the trial uses the driver does not tell by the names that torch has
                    busy = [percent for (percent,) in query("gpu", "utilization.gpu")]
                    self._device_busy += [int(one) / 100 for one in busy if len(busy) == 1 and one.isdigit()]
                self._next_device = time.monotonic() + DEVICE_INTERVAL
            sample = MemorySample(host, shm, sum(self._device_used[pid] for pid in pids))
            self.peak = MemorySample(*map(max, dataclasses.astuple(self.peak), dataclasses.astuple(sample)))
            self.samples += 1
            self.cost_seconds += time.thread_time() - started
            return sample

    @property
    def device_busy_fraction(self) -> float:
        """Part of the steady window in which the machine's only GPU ran a kernel, anybody's; NaN: not known."""
        return statistics.fmean(self._device_busy or [math.nan])

    def close(self) -> None:
        """Stop sampling; the peak stays readable. May be called more than once."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> "PeakMemory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            host = 0 if self._stands() else self.sample().host
            if self._limit is not None and host > self._limit:
                self._limit = None
                self._on_exceed(host)
            if self._stop.wait(max(self._interval, self.cost_seconds / max(1, self.samples) / DUTY)):
                return


def accounting() -> Accounting:
    """The most truthful figure that this operating system gives about a process."""
    return "pss" if (PROC / "self/smaps_rollup").exists() else "rss"


class ProcessMemory(NamedTuple):
    """Bytes of one process."""

    private: int = 0
    """memory of its own, its part of what it shares with parent or children since a fork included"""
    shared: int = 0
    """its part of shared memory"""
    files: int = 0
    """its part of the pages of files, libraries above all"""
    all_files: int = 0
    """those pages as if nobody shared them"""


def process_memory(pid: int, how: Accounting) -> ProcessMemory:
    """What a process holds now; zeros once it has ended."""
    try:
        if how == "rss":
            return ProcessMemory(psutil.Process(pid).memory_info().rss)
        text = "".join((PROC / str(pid) / name).read_text(errors="replace") for name in ("smaps_rollup", "status"))
        words = (line.split() for line in text.splitlines())
        sizes = {line[0]: int(line[1]) * 1024 for line in words if len(line) == 3 and line[2] == "kB"}
        return ProcessMemory(*(sizes[name] for name in ("Pss_Anon:", "Pss_Shmem:", "Pss_File:", "RssFile:")))
    except (OSError, KeyError, psutil.Error):  # ended, or is not ours, between listing and reading
        return ProcessMemory()


def trial_processes(*pids: int) -> set[int]:
    """Processes alive now that are one of ``pids``, descend from it, or are in the group or session that it leads."""
    parents: dict[int, int] = {}
    members = set[int]()
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(errors="replace")  # a name is cut where it is too long
            except OSError:  # ended since it was listed
                continue
            state, parent, group, session = stat[stat.rindex(")") + 2 :].split(maxsplit=4)[:4]
            if state != "Z":  # a zombie holds no memory
                pid = int(entry.name)
                parents[pid] = int(parent)
                if not {pid, int(group), int(session)}.isdisjoint(pids):
                    members.add(pid)
    while children := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= children
    return members


def owned_shm(pids: Iterable[int]) -> int:
    """Bytes in /dev/shm of the shared memory that these processes created; its names carry the creator's id."""
    total = 0
    for pid in pids:
        for path in SHM.glob(f"unilab.*.{pid}.*"):
            try:
                total += path.stat().st_blocks * 512
            except OSError:  # unlinked since it was listed
                continue
    return total

"""Peak memory of a trial: what all of its processes together take from the machine.

The proportional set size (PSS) divides a page that several processes share among them, so the sum over a trial's
processes counts shared memory once. Library code is different: what other programs on the machine happen to load must
not change a measurement, so pages of files count as if the trial ran alone. Only Linux reports PSS; elsewhere the
sampler falls back to the unique set size (USS: too low, as shared pages are missing) or the resident set size (RSS:
too high), and says which.
"""

import math
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from unilab.machine.nvidia_smi import query

Accounting = Literal["pss", "uss", "rss"]

PROC = Path("/proc")
SHM = Path("/dev/shm")
DUTY = 0.02
"""part of one core that sampling may take: it must not slow down what it measures"""
DEVICE_INTERVAL = 2.0
"""seconds between two questions to nvidia-smi, which takes about 0.1 s to answer"""


@dataclass(frozen=True)
class MemorySample:
    """Bytes at one moment, summed over the trial's processes."""

    host: int = 0
    """RAM, with shared memory counted once"""
    shm: int = 0
    """the part of ``host`` that lies in /dev/shm"""
    device: int = 0
    """accelerator memory; 0 when nvidia-smi is absent"""
    processes: int = 0

    def peak(self, other: "MemorySample") -> "MemorySample":
        """The larger of each figure."""
        return MemorySample(
            max(self.host, other.host),
            max(self.shm, other.shm),
            max(self.device, other.device),
            max(self.processes, other.processes),
        )


class PeakMemory:
    """Samples the process ``pid``, its descendants and its process group from a thread until closed.

    Args:
        pid: the trial's first process; when it leads a group or session, their members count even after their
            parent has died.
        interval: seconds between samples; longer when sampling would take more than ``DUTY`` of a core, as the kernel
            walks all pages of a process to add them up (5 to 10 ms for one of 600 MiB).
        limit: host bytes from which ``on_exceed`` is called, once, on the sampling thread, with the bytes seen.
        stands: whether the trial stands still: then it takes no more than before, and whose turn it is has the cores.
    """

    def __init__(
        self,
        pid: int,
        *,
        interval: float = 0.25,
        limit: int | None = None,
        on_exceed: Callable[[int], None] | None = None,
        stands: Callable[[], bool] = lambda: False,
    ) -> None:
        self.pid = pid
        self.accounting = accounting()
        self.cost_seconds = 0.0
        """CPU time of all samples so far"""
        self.samples = 0
        self._interval = interval
        self._limit = limit
        self._on_exceed = on_exceed
        self._stands = stands
        self._peak = MemorySample()
        self._counting = threading.Lock()
        self._device_used: Counter[int] = Counter()
        self._next_device = 0.0 if shutil.which("nvidia-smi") else math.inf
        self._asking = threading.Lock()
        """the sampling thread and whoever calls ``sample`` share one answer"""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)
        self._thread.start()

    @property
    def peak(self) -> MemorySample:
        """The largest of each figure so far."""
        return self._peak

    def sample(self) -> MemorySample:
        """Measure once, now, and count it into the peak; any thread may."""
        started = time.thread_time()
        pids = trial_processes(self.pid)
        parts = [process_memory(pid, self.accounting) for pid in pids]
        shm = owned_shm(pids)
        host = (
            sum(part.private for part in parts)
            # The processes of a trial load the same libraries: the largest has about all that any of them has.
            + max([sum(part.files for part in parts), *(part.all_files for part in parts)])
            # Pages of a segment that nobody has touched yet, or that are unmapped again, are in no process's figures.
            + max(shm, sum(part.shared for part in parts))
        )
        sample = MemorySample(host, shm, self._device_bytes(pids), len(pids))
        with self._counting:
            self._peak = self._peak.peak(sample)
            self.samples += 1
            self.cost_seconds += time.thread_time() - started
        return sample

    def _device_bytes(self, pids: Iterable[int]) -> int:
        """Accelerator memory, from the driver, asked seldom because that is slow."""
        with self._asking:
            if time.monotonic() >= self._next_device:
                self._device_used = Counter()
                for pid, mebibytes in query("compute-apps", "pid", "used_memory"):
                    if mebibytes.isdigit():
                        self._device_used[int(pid)] += int(mebibytes) * 2**20
                self._next_device = time.monotonic() + DEVICE_INTERVAL
            return sum(self._device_used[pid] for pid in pids)

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
            if self._limit is not None and self._on_exceed is not None and host > self._limit:
                on_exceed, self._on_exceed = self._on_exceed, None
                on_exceed(host)
            if self._stop.wait(max(self._interval, self.cost_seconds / max(1, self.samples) / DUTY)):
                return


def accounting() -> Accounting:
    """The most truthful figure this operating system gives about a process."""
    if (PROC / "self/smaps_rollup").exists():
        return "pss"
    return "uss" if hasattr(psutil.Process().memory_full_info(), "uss") else "rss"


@dataclass(frozen=True)
class ProcessMemory:
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
        if how == "pss":
            part = _fields(PROC / str(pid) / "smaps_rollup")
            files = _fields(PROC / str(pid) / "status")["RssFile"]
            return ProcessMemory(part["Pss_Anon"], part["Pss_Shmem"], part["Pss_File"], files)
        process = psutil.Process(pid)
        return ProcessMemory(process.memory_full_info().uss if how == "uss" else process.memory_info().rss)
    except (OSError, KeyError, psutil.Error):  # ended, or is not ours, between listing and reading
        return ProcessMemory()


def trial_processes(*pids: int) -> set[int]:
    """Processes alive now that are one of ``pids``, descend from it, or are in the group or session that it leads."""
    parents: dict[int, int] = {}
    members = set()
    for other, parent, group, session in _process_table():
        parents[other] = parent
        if not {other, group, session}.isdisjoint(pids):
            members.add(other)
    grown = True
    while grown:
        children = {child for child, parent in parents.items() if parent in members} - members
        members |= children
        grown = bool(children)
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


def _fields(path: Path) -> dict[str, int]:
    """The sizes in a file of /proc, in bytes."""
    words = (line.split() for line in path.read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in words if len(line) == 3 and line[2] == "kB"}


def _process_table() -> list[tuple[int, int, int, int]]:
    """(pid, parent, process group, session) of every process; -1 where the system does not say."""
    if not (PROC / "self/stat").exists():
        return [(process.pid, process.info["ppid"] or -1, -1, -1) for process in psutil.process_iter(["ppid"])]
    table = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # ended since it was listed
                continue
            state, parent, group, session = stat[stat.rindex(")") + 2 :].split(maxsplit=4)[:4]
            if state != "Z":  # a zombie holds no memory
                table.append((int(entry.name), int(parent), int(group), int(session)))
    return table

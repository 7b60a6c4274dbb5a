"""Interference: what else used the cores of a trial while it was measured, by two readings and a verdict.

A reading takes milliseconds: a few files, and the list of processes. The first one lies just inside the steady window,
because only the progress that opens the window tells that the warm-up is over. The second one follows the window. A
trial that keeps all cores busy disturbs nobody: what its own processes and the harness took does not count. The load
average is recorded, but no verdict is based on it, because it still holds the trial that ran before.
"""

import math
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.measure.peak_memory import trial_processes
from unilab.machine.cgroups import ROOT, cpu_quota, throttled_seconds

TAKEN_FRACTION = 0.05
"""of the usable cores, by other processes or by the hypervisor: the size of the differences that suites look for"""
TAKEN_CORES = 0.5
"""however many there are: a pool of threads waits for its slowest, so one busy core among many holds all of them up"""
THROTTLED_FRACTION = 0.05
"""of the steady window"""
OWN_QUOTA = 0.9
"""a trial that used so much of the quota was held back by what it may have, and by nobody else"""
SHORTEST_SECONDS = 1.0
"""the kernel counts in hundredths of a second for each core and process: over less the errors reach the thresholds"""


@dataclass(frozen=True)
class Reading:
    """Cumulative CPU time in seconds at one moment; differences of two readings mean something."""

    at: float
    """monotonic clock"""
    cores: frozenset[int]
    """that the trial's processes may run on; each of them may keep to some"""
    quota: float | None
    """cores' worth of CPU time a second; None: unlimited"""
    idle: float
    """of ``cores`` together, time in interrupts included: no process took it"""
    stolen: float
    """by the hypervisor, of ``cores`` together"""
    own: float
    """of the trial's processes and of the harness"""
    throttled: float | None
    """None: no quota"""
    ran: float = 0.0
    """of the trial's threads that are alive, by the scheduler; 0 where it does not tell"""
    queued: float = 0.0
    """time in which these threads could have run, and waited for a core"""

    @property
    def usable(self) -> float:
        """Cores' worth of CPU time that the trial may have."""
        return len(self.cores) if self.quota is None else min(float(len(self.cores)), self.quota)


@dataclass(frozen=True)
class Interference:
    """What a record keeps of a steady window; NaN is what could not be seen."""

    other_cpu_fraction: float = math.nan
    """part of the usable cores that other processes took"""
    throttled_seconds: float = math.nan
    disturbed: str = ""
    """what disturbed the measurement, in words; empty when nothing did"""
    disturbance: float = math.nan
    """what was taken over what may be: above 1 where the measurement is disturbed"""
    queue_wait_fraction: float = math.nan
    """part of the time in which the trial's threads could have run that they waited for a core"""


def read(root: Path = ROOT, groups: Iterable[int] = (), *, alone: bool = True) -> Reading | None:
    """A reading for the calling trial; None where the system does not tell.

    What the process groups ``groups`` take counts as the trial's own. Where trials take turns these are the groups of
    the others, which stand still during its turns. What a stranger takes at any time disturbs all of them. A trial that
    is not ``alone`` has others beside it, on cores of their own: when one of them ends, its whole time becomes that of
    the harness, which is no use of this trial's cores.
    """
    trial, cores = trial_processes(os.getpgid(0), *groups), set[int]()
    guards = {os.getpgid(0), *groups}  # which lead the groups and wait: they may use cores that are not the trial's
    for pid in trial - guards | {0}:  # 0: this one
        with suppress(ProcessLookupError):  # ended since it was listed
            cores |= os.sched_getaffinity(pid)
    times = _core_times(root / "proc/stat")
    if not cores <= times.keys():
        return None
    own, ran, queued = 0.0, 0, 0
    for pid in trial | {os.getppid()}:
        with suppress(psutil.Error):  # ended since it was listed: its parent has its time
            of_children = alone or pid in trial
            own += sum(psutil.Process(pid).cpu_times()[: 4 if of_children else 2])  # user, system, both of ended ones
    for pid in trial:
        for thread in (root / "proc" / str(pid) / "task").glob("*/schedstat"):
            with suppress(OSError):  # ended since it was listed
                nanoseconds = thread.read_text().split()
                ran, queued = ran + int(nanoseconds[0]), queued + int(nanoseconds[1])
    return Reading(
        time.monotonic(), frozenset(cores), cpu_quota(root), sum(times[core][0] for core in cores),
        sum(times[core][1] for core in cores), own, throttled_seconds(root), ran / 1e9, queued / 1e9,
    )  # fmt: skip


def between(before: Reading | None, after: Reading | None) -> Interference:
    """The interference between two readings."""
    if before is None or after is None:
        return Interference()
    seconds, usable = after.at - before.at, before.usable
    limit = min(TAKEN_CORES, TAKEN_FRACTION * usable)
    throttled = math.nan
    if before.throttled is not None and after.throttled is not None:
        throttled = after.throttled - before.throttled
    if before.cores != after.cores or before.quota != after.quota:
        text = f"the usable cores changed from {usable:g} to {after.usable:g}"
        changed = max(len(before.cores ^ after.cores), abs(usable - after.usable))
        return Interference(math.nan, throttled, text, 1 + changed / limit)
    if seconds < SHORTEST_SECONDS:
        return Interference(throttled_seconds=throttled)
    own = (after.own - before.own) / seconds
    stolen = max(0.0, after.stolen - before.stolen) / seconds
    idle = max(0.0, after.idle - before.idle) / seconds
    others = max(0.0, len(before.cores) - idle - stolen - own)
    # A quota below the number of cores leaves some to others for nothing: they take only what the trial could have had.
    taken = min(usable, max(0.0, others - (len(before.cores) - usable)))
    disturbance = max(taken, stolen) / limit
    problems = []
    if taken > limit:
        problems.append(f"other processes took {taken:.2g} of {usable:g} cores")
    if stolen > limit:
        problems.append(f"the hypervisor took {stolen:.2g} of {usable:g} cores")
    if throttled > THROTTLED_FRACTION * seconds and own < OWN_QUOTA * usable:
        text = f"the CPU quota held it back for {throttled:.2g} s though it used {own:.2g} of {usable:g} cores"
        problems.append(text)
        disturbance = max(disturbance, throttled / (THROTTLED_FRACTION * seconds))
    ran, queued = max(0.0, after.ran - before.ran), max(0.0, after.queued - before.queued)
    waited = queued / (ran + queued) if ran else math.nan
    return Interference(taken / usable, throttled, "; ".join(problems), disturbance, waited)


def _core_times(stat: Path) -> dict[int, tuple[float, float]]:
    """Seconds that each core was idle (or in interrupts) and stolen.

    Idle time is what the kernel measures; the time of user and system code is sampled by ticks on many kernels, which
    is too coarse for a window of seconds.
    """
    if not stat.exists():
        return {}
    hertz = os.sysconf("SC_CLK_TCK")
    times = {}
    for line in stat.read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu" and len(fields) >= 8:
            _, _, _, idle, iowait, irq, softirq, steal = (int(field) / hertz for field in fields[:8])
            times[int(name.removeprefix("cpu"))] = (idle + iowait + irq + softirq, steal)
    return times

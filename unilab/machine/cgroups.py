"""What a container may use: the CPU quota and the memory limit of this process's control group (Linux).

Inside a container the machine's own figures (cores, RAM) are larger than what the process gets; a thread pool or
a memory budget that believes them is throttled or killed. Both versions of the control group file system are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True)
class MemoryLimit:
    """The tightest memory limit over this process, in bytes."""

    limit: int
    used: int
    """by all processes under the limit, without the page cache that can be given back"""

    @property
    def free(self) -> int:
        return max(0, self.limit - self.used)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of CPU time this process may use a second; None when nothing limits it."""
    quotas = [quota for group in _groups("cpu", root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def throttled_seconds(root: Path = ROOT) -> float | None:
    """Time so far for which a CPU quota over this process stopped cores of its group; None when nothing limits it.

    Of several quotas, one inside the other, the one that stopped them for longest.
    """
    stopped = []
    for group in _groups("cpu", root):
        if _quota(group) is not None:
            values = dict(line.split() for line in _lines(group / "cpu.stat"))
            if "throttled_usec" in values:  # version 2
                stopped.append(int(values["throttled_usec"]) / 1e6)
            elif "throttled_time" in values:  # version 1, nanoseconds
                stopped.append(int(values["throttled_time"]) / 1e9)
    return max(stopped, default=None)


def memory_limit(root: Path = ROOT) -> MemoryLimit | None:
    """The limit that leaves least room, its own or a parent's; None when nothing limits this process."""
    limits = []
    for group in _groups("memory", root):
        limit = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        used = _words(group / "memory.current") or _words(group / "memory.usage_in_bytes")
        if limit and used and limit[0].isdigit() and int(limit[0]) < 2**60:  # version 1: nearly 2**63 for no limit
            values = dict(line.split() for line in _lines(group / "memory.stat"))
            # page cache that the kernel drops before it refuses memory
            reclaimable = int(values.get("total_inactive_file", values.get("inactive_file", "0")))
            limits.append(MemoryLimit(int(limit[0]), max(0, int(used[0]) - reclaimable)))
    return min(limits, key=lambda limit: limit.free, default=None)


def _quota(group: Path) -> float | None:
    """Cores' worth of CPU time a second that a group's own quota allows."""
    words = _words(group / "cpu.max")  # version 2: "quota period", quota may be "max"
    if not words:
        words = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
    if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:  # version 1 says -1 for no limit
        return int(words[0]) / int(words[1])
    return None


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group and of its parents; both versions may be mounted side by side."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        group = mount / path.strip("/")
        yield group
        yield from (parent for parent in group.parents if parent.is_relative_to(mount))


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not this version, not Linux, or not ours to read
        return []

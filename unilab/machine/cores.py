"""Which cores the two sides of a run keep to: counts become sets, by NUMA node, physical core and hyperthread."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from unilab.machine.cgroups import ROOT
from unilab.machine.devices import DeviceError, ThreadDemand, usable_cores
from unilab.settings import SettingsError


@cache
def physical_cores(allowed: frozenset[int], root: Path = ROOT) -> dict[tuple[int, ...], list[int]]:
    """The physical cores of these logical ones: the hyperthreads of each, by its memory node and place in there.

    Cores of which the system tells nothing are on one node, and each is one physical core.
    """
    node_of: dict[int, int] = {}
    for cores in (root / "sys/devices/system/node").glob("node*/cpulist"):
        for part in filter(None, _text(cores).split(",")):  # as the kernel writes a list: 0-3,8,10-11
            first, _, last = part.partition("-")
            node = int(cores.parent.name.removeprefix("node"))
            node_of |= dict.fromkeys(range(int(first), int(last or first) + 1), node)

    def place(number: int) -> tuple[int, ...]:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        package, core = (_text(topology / name) for name in ("physical_package_id", "core_id"))
        return node_of.get(number, 0), int(package or 0), int(core or number)

    found: dict[tuple[int, ...], list[int]] = {}
    for core, number in sorted((place(number), number) for number in allowed):
        found.setdefault(core, []).append(number)
    return found


def core_sets(size: int, root: Path = ROOT) -> list[list[int]]:
    """Sets of ``size`` logical cores for processes that run side by side, as many as this process may keep busy.

    No two sets share a physical core: a hyperthread would be no core to oneself.

    Raises:
        DeviceError: there are not so many cores.
    """
    usable, found, gathered = usable_cores(), list[list[int]](), list[int]()
    if size > usable:
        raise DeviceError(f"{size} cores were asked for, and {usable} can be used here")
    for threads in physical_cores(frozenset(os.sched_getaffinity(0)), root).values():
        gathered += threads
        if len(gathered) >= size:
            found.append(gathered[:size])
            gathered = []
    return found[: usable // size]


def sets(config: ThreadDemand, root: Path = ROOT) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """The cores of the collector and of the learner, in order; None twice where they share all, as by default.

    A count takes whole physical cores of one node as long as there are enough. The collector's are taken from one end,
    the learner's from the other, so that they overlap only where both together want more than there are. Where only one
    side states its cores, the other one may run on all.

    Raises:
        SettingsError: a core is not there, or this process may not run on it; or the count is above that of all.
    """
    stated = {name: getattr(config, name) for name in ("collector_cores", "learner_cores") if name not in config.idle}
    if all(cores is None for cores in stated.values()):
        return None, None
    allowed = frozenset(os.sched_getaffinity(0))
    node_of = {number: node for (node, *_), threads in physical_cores(allowed, root).items() for number in threads}
    found: dict[str, tuple[int, ...]] = {}
    for name, cores in stated.items():
        if isinstance(cores, tuple):
            if missing := sorted(set(cores) - allowed):
                known = ", ".join(map(str, sorted(allowed)))
                raise SettingsError(name, f"this process may not run on {missing}; it may on {known}")
            found[name] = tuple(sorted(set(cores)))
        elif cores is None:
            found[name] = tuple(sorted(allowed))
        elif cores > usable_cores():
            raise SettingsError(name, f"{cores} were asked for, and {usable_cores()} can be used here")
    others = {core for name, cores in found.items() if stated[name] is not None for core in cores}
    for name, order in (("collector_cores", [*node_of]), ("learner_cores", [*reversed(node_of)])):
        if name in found:
            continue
        free = [core for core in order if core not in others]
        near = dict.fromkeys(node_of[core] for core in free)
        candidates = [[core for core in free if node_of[core] == node] for node in near]
        candidates.append(free + [core for core in order if core in others])
        enough = next(cores for cores in candidates if len(cores) >= stated[name])
        found[name] = tuple(sorted(enough[: stated[name]]))
        others |= set(found[name])
    return found["collector_cores"], found["learner_cores"]


@contextmanager
def kept_to(cores: Sequence[int] | None) -> Iterator[None]:
    """While entered, all threads of this process run on these cores; None: as they do."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    keep_to(cores)
    try:
        yield
    finally:
        keep_to(before)


def keep_collector_to(config: ThreadDemand) -> None:
    """In the collector's process, whose runner has turned counts into sets: let it run on its own cores."""
    if isinstance(config.collector_cores, tuple):
        keep_to(config.collector_cores)


def keep_to(cores: Sequence[int] | set[int]) -> None:
    """Let all threads of this process run on these cores alone, and those that they start."""
    os.sched_setaffinity(0, cores)
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread.name), cores)


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""

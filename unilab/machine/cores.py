"""Which cores the two sides of a run keep to: counts become sets, by NUMA node, physical core and hyperthread."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unilab.machine.cgroups import ROOT
from unilab.machine.devices import ThreadDemand, usable_cores
from unilab.settings import SettingsError


@dataclass(frozen=True, order=True)
class Place:
    """Where a logical core is."""

    node: int
    """of the memory that is near to it"""
    physical: tuple[int, int]
    """package and core; hyperthreads have it in common"""
    number: int
    """of the logical core"""


@cache
def places(allowed: frozenset[int], root: Path = ROOT) -> tuple[Place, ...]:
    """These logical cores, those of a physical core together, and those of a node.

    Cores of which the system tells nothing are on one node, and each is one physical core.
    """
    nodes = {}
    for cores in (root / "sys/devices/system/node").glob("node*/cpulist"):
        for number in _listed(_text(cores)):
            nodes[number] = int(cores.parent.name.removeprefix("node"))

    def place(number: int) -> Place:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        package, core = (_text(topology / name) for name in ("physical_package_id", "core_id"))
        return Place(nodes.get(number, 0), (int(package or 0), int(core or number)), number)

    return tuple(sorted(map(place, allowed)))


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
    ordered = places(allowed, root)
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
    for name, order in (("collector_cores", ordered), ("learner_cores", ordered[::-1])):
        if name not in found:
            found[name] = _taken(stated[name], order, others)
            others |= set(found[name])
    return found["collector_cores"], found["learner_cores"]


def _taken(count: int, order: Sequence[Place], others: set[int]) -> tuple[int, ...]:
    """``count`` cores in this order: those free of ``others`` first, and all of one node where it has enough."""
    free = [place for place in order if place.number not in others]
    near = [[place for place in free if place.node == node] for node in dict.fromkeys(place.node for place in free)]
    enough = next((cores for cores in near if len(cores) >= count), None)
    rest = [place for place in order if place.number in others]
    return tuple(sorted(place.number for place in (enough or [*free, *rest])[:count]))


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


def _listed(text: str) -> Iterator[int]:
    """The numbers of a list as the kernel writes it: ``0-3,8,10-11``."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)

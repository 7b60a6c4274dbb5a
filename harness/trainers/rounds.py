"""What one round of training consists of, as a trainer describes it: parts whose cost can be measured alone.

A round is what the learner does between two looks at new data. A trainer that describes its rounds (``Describes``)
gets a prediction of its throughput, an efficiency and a verdict for each trial; one that does not is measured as well,
without them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

Side = Literal["collector", "learner", "transfer"]
Course = Literal["turns", "lockstep", "wait", "drop", "free"]
"""how collector and learner are coupled. turns: they alternate. lockstep: both work, then the faster one waits. wait: a
full buffer stops the collector. drop: a full buffer loses its oldest data. free: neither waits"""
Limit = Literal[
    "learner", "launch", "device", "collector", "cores", "threads", "quota", "turns", "transfer", "drop", "waiting"
]  # fmt: skip
"""what limits the throughput of a trial"""


DIRECTIONS = {"more": 1, "higher": 1, "fewer": -1, "lower": -1}
"""direction in which a number moves, by the first word of a change"""


@dataclass(frozen=True)
class Cost:
    """The cost of one execution of a part, or of a side's whole round, alone on the machine."""

    seconds: float = 0.0
    """wall time"""
    core_seconds: float = 0.0
    """processor time of all threads"""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.core_seconds + other.core_seconds)

    def times(self, count: float) -> "Cost":
        """Of so many executions."""
        return Cost(count * self.seconds, count * self.core_seconds)

    @property
    def parallelism(self) -> float:
        """Cores that it keeps busy, on average."""
        return self.core_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Part:
    """A piece of work whose cost depends on ``settings`` and smoothly on ``size``."""

    side: Side
    kind: str
    size: int
    """environments or rows"""
    settings: Mapping[str, Any]
    """all that its cost depends on besides, by dotted names"""
    count: float = 1.0
    """executions in one round"""
    background: bool = False
    """goes on in a thread of its own, beside its side"""

    @property
    def group(self) -> str:
        """Equal for parts that differ in size and count only."""
        return json.dumps([self.kind, self.settings], sort_keys=True)


@dataclass(frozen=True)
class Workload:
    """One round of a configuration."""

    parts: tuple[Part, ...]
    course: Course
    env_steps: int
    """that the collector makes in one round, and the learner learns from"""
    updates: int
    samples: int
    """transitions that go through updates, counted once for each update"""
    yields: bool = False
    """the sides share cores, and the collector gives way to the learner"""

    @property
    def rows(self) -> float:
        """Samples of one update."""
        return self.samples / self.updates


@dataclass(frozen=True)
class Remedy:
    """A change of a setting that moves a limit."""

    setting: str
    change: str
    """as "fewer {}" or "{}=bfloat16", with the setting's name in place of the braces; the first word may say in which
    direction a number moves (``DIRECTIONS``), otherwise any other value is meant"""
    unless: tuple[Any, ...] = ()
    """values of the setting with which there is nothing left to change"""
    threads: bool = False
    """the setting is a number of threads: nothing is to be gained beyond the cores there are"""
    device: bool = False
    """the setting is a device: another one is proposed only where the suite found one on this machine"""

    def moves(self, old: Any, new: Any) -> bool:
        """Whether this is the change that is meant. It may be where a value is None: then another one is found."""
        direction = DIRECTIONS.get(self.change.split()[0])
        if direction is None or not all(isinstance(value, int | float) for value in (old, new)):
            return bool(new != old)
        return direction * (new - old) > 0


@runtime_checkable
class Describes(Protocol):
    """What a trainer adds to ``harness.trainers.Trainer`` so that its throughput can be predicted and explained."""

    def workload(self, settings: Mapping[str, Any], cores: int) -> Workload:
        """One round of a configuration on so many cores; starts and allocates nothing."""
        ...

    def measure_alone(self, part: Part) -> Cost:
        """Execute a part of ``workload``, with the components that training uses, and nothing beside it."""
        ...

    def remedies(self, limit: Limit) -> Sequence[Remedy]:
        """Settings that move a limit, the most promising first."""
        ...

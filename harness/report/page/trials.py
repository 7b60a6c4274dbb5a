"""Trials as a report shows them: the repeats that count, their medians and how far they spread."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.measure.record import Record, typical
from harness.measure.window import FRACTIONS
from harness.report.finding import NAMES
from harness.stats.inference import Interval, median_interval
from harness.study.folder import judged_by, timed_by
from harness.suite.text import settings_text

LABELS = NAMES | {
    "episode_return": "episode return",
    "collector_busy_fraction": "collector busy",
    "learner_busy_fraction": "learner busy",
    "policy_lag_mean": "policy lag",
    "peak_host_bytes": "peak host memory, MiB",
    "peak_shm_bytes": "peak shared memory, MiB",
    "peak_device_bytes": "peak device memory, MiB",
    "async_efficiency": "asynchronous efficiency",
}


def label(metric: str) -> str:
    """A metric in words, with its unit."""
    return LABELS.get(metric, metric.replace("_", " "))


def scale(metric: str) -> float:
    """What values are multiplied by to be in the unit of ``label``."""
    return 2.0**-20 if metric.endswith("_bytes") else 1.0


@dataclass(frozen=True)
class Trial:
    """One configuration and all that was measured of it."""

    number: int
    records: tuple[Record, ...]

    @cached_property
    def counted(self) -> list[Record]:
        """The repeats that count: those of the confirmation where it has them."""
        return judged_by(self.records)

    @cached_property
    def complete(self) -> list[Record]:
        return [record for record in self.counted if record.state == "complete"]

    @cached_property
    def timed(self) -> list[Record]:
        """The repeats that say how the time was used."""
        return timed_by(self.records)

    @property
    def baseline(self) -> bool:
        return self.records[0].baseline

    @property
    def name(self) -> str:
        """Its number, and of trainers side by side which one it is."""
        which = f" {self.params['trainer']}" if "trainer" in self.params else ""
        return f"{self.number}{which}{' (baseline)' if self.baseline else ''}"

    @property
    def params(self) -> dict[str, Any]:
        return self.records[-1].params

    @property
    def settings(self) -> str:
        return settings_text(self.params)

    @property
    def state(self) -> str:
        return "complete" if self.complete else (self.counted or self.records)[-1].state

    @property
    def confirmed(self) -> bool:
        return any(record.phase == "confirm" for record in self.complete)

    @property
    def kind(self) -> str:
        """Of the numbers that count; see ``Record.kind``."""
        return (self.counted or self.records)[-1].kind

    @property
    def measured(self) -> str:
        """What its values are from."""
        return f"{'confirmation' if self.confirmed else 'search'}, {self.kind}"

    @property
    def error(self) -> str:
        return next((record.error for record in reversed(self.records) if record.error), "")

    @property
    def verdict(self) -> str:
        return next((record.verdict for record in reversed(self.timed) if record.verdict), "")

    def value(self, metric: str) -> float:
        """``typical`` of a numeric field over the repeats that count, in the unit of ``label``; NaN without any."""
        return typical(self.timed if metric in FRACTIONS else self.counted, metric) * scale(metric)

    def values(self, metric: str) -> list[float]:
        """Of each repeat that counts and has the metric."""
        values = [record.metric(metric) * scale(metric) for record in self.complete]
        return [value for value in values if math.isfinite(value)]

    def interval(self, metric: str) -> Interval | None:
        """95 % interval of the median; None with fewer than six repeats, which show too little."""
        values = self.values(metric)
        return median_interval(values) if values else None


def trials_of(records: Sequence[Record]) -> list[Trial]:
    """Records grouped by their trial, by number."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(record.trial, []).append(record)
    return [Trial(number, tuple(groups[number])) for number in sorted(groups)]

"""The memory that past runs on this machine took, against what was predicted for them, by trainer.

The itemised prediction stays what it is. The median says what is to be expected (``plan`` shows it). The check of what
fits asks for as much as would have been enough for nearly all past runs. It never passes a configuration that the
prediction alone would refuse.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.files.locks import locked
from harness.measure.host import fingerprint
from harness.measure.record import Record, write_atomic

LEAST = 3
"""runs before there is a factor other than 1, and runs of this code before those of other code no longer count"""
KEPT = 100
"""newest runs that it is learned from"""
UPPER = 0.95
"""part of the past runs whose memory the check of what fits would have been enough for"""
BOUNDS = (0.8, 1.25)
"""of what is expected: beyond them the prediction is wrong, and no factor makes it right"""
SAFE_BOUNDS = (1.0, 2.0)
"""of the check"""


class Ratio(NamedTuple):
    """Measured over predicted host memory of one run, and the digest of its code."""

    value: float
    code: str


class Factor(NamedTuple):
    """What a predicted memory is to be multiplied by."""

    expected: float = 1.0
    """half of the past runs took more"""
    safe: float = 1.0
    """few past runs took more"""


AS_PREDICTED = Factor()


@dataclass
class Calibration:
    """The past runs of each trainer, the newest last."""

    ratios: dict[str, list[Ratio]] = field(default_factory=dict)

    def factor(self, trainer: str, code: str = "") -> Factor:
        """The factor from the runs of this code once there are enough of them; 1 while too little is known.

        New code may change what a run takes, or the prediction itself. Runs of other code therefore count only until
        this code has enough of its own.
        """
        known = self.ratios.get(trainer, [])
        own = [ratio for ratio in known if code and ratio.code == code]
        counted = sorted(ratio.value for ratio in (own if len(own) >= LEAST else known))
        if len(counted) < LEAST:
            return AS_PREDICTED
        upper = counted[math.ceil(UPPER * len(counted)) - 1]
        return Factor(
            min(max(statistics.median(counted), BOUNDS[0]), BOUNDS[1]), min(max(upper, SAFE_BOUNDS[0]), SAFE_BOUNDS[1])
        )

    def factors(self, code: str = "") -> dict[str, Factor]:
        """The factors of all trainers that have past runs."""
        return {trainer: self.factor(trainer, code) for trainer in self.ratios}

    def learn(self, trainer: str, records: Sequence[Record], code: str = "") -> None:
        """Add records measured with this code, without those that lack a prediction or a true measurement."""
        known = self.ratios.setdefault(trainer, [])
        known += [Ratio(r.peak_host_bytes / r.budget_host_bytes, code) for r in records if usable(r)]
        del known[:-KEPT]


def usable(record: Record) -> bool:
    """Whether a record's peak is a measurement of all that the run took."""
    whole = record.state == "complete" and record.memory_accounting == "pss"
    return whole and record.budget_host_bytes > 0 and record.peak_host_bytes > 0


def path_of(results: Path) -> Path:
    """Where the calibration of this machine is kept."""
    return results / "ceilings" / f"{fingerprint()}-memory.json"


def load(results: Path) -> Calibration:
    """The calibration kept for this machine; an empty one when there is none, or none that can be read."""
    try:
        content = json.loads(path_of(results).read_text(encoding="utf-8"))
        return Calibration(
            {
                name: [Ratio(float(value), str(code)) for value, code in ratios]
                for name, ratios in content["ratios"].items()
            }
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # absent, cut short: learned anew
        return Calibration()


def add(results: Path, trainer: str, record: Record, code: str) -> None:
    """Keep what a record tells, beside what other studies on this machine add at the same time.

    Raises:
        RecordError: it cannot be written.
    """
    if not usable(record):
        return
    with locked(path_of(results).parent):
        learned = load(results)
        learned.learn(trainer, [record], code)
        save(learned, results)


def save(calibration: Calibration, results: Path) -> None:
    """Keep it for the next plan.

    Raises:
        RecordError: it cannot be written.
    """
    content = {"machine": fingerprint(), "ratios": calibration.ratios}
    write_atomic(path_of(results), json.dumps(content, indent=1) + "\n")

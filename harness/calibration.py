"""What past runs on this machine took of memory, against what was predicted: one factor a trainer.

The itemised prediction stays what it is. The factor says what is to be expected (``plan`` shows it), and where past
runs took more than predicted it makes the check stricter; it never lets a configuration pass that the prediction alone
would refuse.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.machine import fingerprint
from harness.record import Record, write_atomic

LEAST = 3
"""runs before there is a factor other than 1, and runs of a commit before those of others no longer count"""
KEPT = 100
"""newest runs that it is learned from"""
BOUNDS = (0.8, 1.25)
"""of the factor: beyond them the prediction is wrong, and no factor makes it right"""


class Ratio(NamedTuple):
    """Measured over predicted host memory of one run, and the code that it holds for."""

    value: float
    commit: str
    """empty where no commit is that code"""


@dataclass
class Calibration:
    """What past runs tell, by trainer, the newest last."""

    ratios: dict[str, list[Ratio]] = field(default_factory=dict)

    def factor(self, trainer: str, commit: str = "") -> float:
        """The median ratio within ``BOUNDS``, of this commit's runs once there are enough; 1 while too little is known.

        A commit may change what a run takes, or the prediction itself: what was learned before outlives it no longer
        than it takes to know better.
        """
        known = self.ratios.get(trainer, [])
        own = [ratio for ratio in known if commit and ratio.commit == commit]
        counted = own if len(own) >= LEAST else known
        if len(counted) < LEAST:
            return 1.0
        return min(max(statistics.median(ratio.value for ratio in counted), BOUNDS[0]), BOUNDS[1])

    def factors(self, commit: str = "") -> dict[str, float]:
        """The factor of every trainer that something is known of."""
        return {trainer: self.factor(trainer, commit) for trainer in self.ratios}

    def learn(self, trainer: str, records: Sequence[Record]) -> None:
        """Take records in; those without a prediction or a true measurement are left out."""
        known = self.ratios.setdefault(trainer, [])
        known += [
            Ratio(r.peak_host_bytes / r.budget_host_bytes, "" if r.dirty else r.commit) for r in records if usable(r)
        ]
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
                name: [Ratio(float(value), str(commit)) for value, commit in ratios]
                for name, ratios in content["ratios"].items()
            }
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # absent, cut short: learned anew
        return Calibration()


def save(calibration: Calibration, results: Path) -> None:
    """Keep it for the next plan.

    Raises:
        RecordError: it cannot be written.
    """
    content: Mapping[str, object] = {"machine": fingerprint(), "ratios": calibration.ratios}
    write_atomic(path_of(results), json.dumps(content, indent=1) + "\n")

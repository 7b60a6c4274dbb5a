"""The memory that past runs on this machine took, against what was predicted for them, by trainer.

The itemised prediction stays what it is. The median says what is to be expected (``plan`` shows it). The check of what
fits asks for as much as would have been enough for nearly all past runs. It never passes a configuration that the
prediction alone would refuse.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
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


def factor(known: Sequence[Ratio], code: str = "") -> Factor:
    """The factor from the runs of this code once there are enough of them; 1 while too little is known.

    New code may change what a run takes, or the prediction itself. Runs of other code therefore count only until this
    code has enough of its own.
    """
    own = [ratio for ratio in known if code and ratio.code == code]
    counted = sorted(ratio.value for ratio in (own if len(own) >= LEAST else known))
    if len(counted) < LEAST:
        return AS_PREDICTED
    upper = counted[math.ceil(UPPER * len(counted)) - 1]
    return Factor(
        min(max(statistics.median(counted), BOUNDS[0]), BOUNDS[1]), min(max(upper, SAFE_BOUNDS[0]), SAFE_BOUNDS[1])
    )


def path_of(results: Path) -> Path:
    """Where the past runs of this machine are kept."""
    return results / "ceilings" / f"{fingerprint()}-memory.json"


def load(results: Path) -> dict[str, list[Ratio]]:
    """The past runs of each trainer on this machine, the newest last; none where none can be read."""
    try:
        content = json.loads(path_of(results).read_text(encoding="utf-8"))
        return {
            name: [Ratio(float(value), str(code)) for value, code in ratios]
            for name, ratios in content["ratios"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # absent, cut short: learned anew
        return {}


def add(results: Path, trainer: str, record: Record, code: str) -> None:
    """Keep what a record of this code tells, beside what other studies on this machine add at the same time.

    It tells nothing where its peak is no measurement of all that the run took, or where nothing was predicted.

    Raises:
        RecordError: it cannot be written.
    """
    whole = record.state == "complete" and record.memory_accounting == "pss"
    if not (whole and record.budget_host_bytes > 0 and record.peak_host_bytes > 0):
        return
    with locked(path_of(results).parent):
        ratios = load(results)
        known = [*ratios.get(trainer, []), Ratio(record.peak_host_bytes / record.budget_host_bytes, code)]
        save(ratios | {trainer: known[-KEPT:]}, results)


def save(ratios: Mapping[str, Sequence[Ratio]], results: Path) -> None:
    """Keep the past runs of each trainer for the next plan.

    Raises:
        RecordError: it cannot be written.
    """
    write_atomic(path_of(results), json.dumps({"machine": fingerprint(), "ratios": ratios}, indent=1) + "\n")

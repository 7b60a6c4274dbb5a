"""Learning curves over wall time side by side: who is ahead, and from when on."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK_SECONDS = 60
TOLERANCE = 15.0
"""seconds that a run may end before a mark and still count there"""


@dataclass(frozen=True)
class Curve:
    """Returns of one run over wall time."""

    seconds: list[float]
    """since training began, ascending"""
    returns: list[float]

    def at(self, mark: float) -> float:
        """The newest return at ``mark`` seconds; NaN before the first one, and after the end of the run."""
        known = [r for s, r in zip(self.seconds, self.returns, strict=True) if s <= mark and not math.isnan(r)]
        reached = bool(self.seconds) and self.seconds[-1] >= mark - TOLERANCE
        return known[-1] if known and reached else math.nan


def marks(seconds: float) -> list[float]:
    """Every full minute up to ``seconds``, and ``seconds`` itself."""
    full = [float(mark) for mark in range(MARK_SECONDS, math.floor(seconds) + 1, MARK_SECONDS)]
    return full if full and full[-1] == seconds else [*full, seconds]


def read_curve(path: Path, column: str = "episode_return") -> Curve:
    """A curve that a driver wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return _curve(list(csv.DictReader(file)), column)


def read_study(folder: Path) -> dict[str, list[Curve]]:
    """The curves of a study of ours, a list over the repeats for each trial.

    Raises:
        FileNotFoundError: the folder has no ``curves.csv``.
    """
    runs: dict[int, dict[int, list[dict[str, str]]]] = {}
    with (folder / "curves.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            runs.setdefault(int(row["trial"]), {}).setdefault(int(row["repeat"]), []).append(row)
    return {
        f"ours, trial {trial}, {len(repeats)} repeats": [_curve(rows, "episode_return") for rows in repeats.values()]
        for trial, repeats in sorted(runs.items())
    }


def _curve(rows: Sequence[Mapping[str, str]], column: str) -> Curve:
    rows = [row for row in rows if row["wall_seconds"]]
    return Curve(
        [float(row["wall_seconds"]) for row in rows], [float(row[column]) if row[column] else math.nan for row in rows]
    )


def compare_curves(
    ours: Mapping[str, Sequence[Curve]], others: Mapping[str, Sequence[Curve]], seconds: float
) -> dict[str, Any]:
    """Returns at every minute, medians and ranges over the runs of each name, and from when on ours are ahead.

    Pairs without a mark at which both have a return are left out of the latter.
    """
    times = marks(seconds)
    told = {name: [_spread([curve.at(mark) for curve in runs]) for mark in times] for name, runs in ours.items()}
    beside = {name: [_spread([curve.at(mark) for curve in runs]) for mark in times] for name, runs in others.items()}
    ahead = {
        f"{ours_name} / {name}": ahead_from(times, _medians(told[ours_name]), _medians(beside[name]))
        for ours_name in ours
        for name in others
        if any(mine and its for mine, its in zip(told[ours_name], beside[name], strict=True))
    }
    return {"seconds": times, "returns": told | beside, "ahead_from": ahead}


def ahead_from(times: Sequence[float], ours: Sequence[float | None], other: Sequence[float | None]) -> float | None:
    """The first mark from which on ours is higher at every mark where both have a return; None: not at the last."""
    since: float | None = None
    for time, mine, its in zip(times, ours, other, strict=True):
        if mine is None or its is None:
            continue
        if mine <= its:
            since = None
        elif since is None:
            since = time
    return since


def _spread(values: Sequence[float]) -> list[float] | None:
    """Median, lowest, highest; None where no run has a return."""
    known = [value for value in values if not math.isnan(value)]
    return [statistics.median(known), min(known), max(known)] if known else None


def _medians(spreads: Sequence[list[float] | None]) -> list[float | None]:
    return [None if spread is None else spread[0] for spread in spreads]


def print_curves(title: str, comparison: Mapping[str, Any]) -> None:
    """One line a mark, one column a name, then from when on ours are ahead."""
    names = list(comparison["returns"])
    print(f"\n{title}, mean return of the last 100 finished episodes; median (range) over runs")
    for number, name in enumerate(names, start=1):
        print(f"  [{number}] {name}")
    print("  seconds" + "".join(f"{f'[{number}]':>26}" for number in range(1, len(names) + 1)))
    for index, mark in enumerate(comparison["seconds"]):
        print(f"  {mark:>7.0f}" + "".join(f"{_cell(comparison['returns'][name][index]):>26}" for name in names))
    for pair, since in comparison["ahead_from"].items():
        print(f"  {pair}: " + ("not ahead at the end" if since is None else f"ahead from {since:.0f} s on"))


def _cell(spread: list[float] | None) -> str:
    if spread is None:
        return "-"
    median, low, high = spread
    return f"{median:,.0f}" if low == high else f"{median:,.0f} ({low:,.0f} to {high:,.0f})"

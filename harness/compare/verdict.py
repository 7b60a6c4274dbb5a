"""What pairs of measurements show, metric by metric; for people in 80 columns, and as JSON.

``harness.stats.inference.verdict`` decides, as it does in ``run``. A metric that it calls the same may still have
changed by less than the smallest effect that the test can see; the metric is undecided where that effect is larger than
what was asked for. A pair is one repeat of each side, measured side by side. Studies were measured at different times:
their pair is one session of each side with all its repeats, since a machine may differ more from one session to the
next than from one repeat to the next.
"""

import dataclasses
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import binomtest

from harness.compare.sides import Side
from harness.measure.record import Record, typical
from harness.stats.inference import (
    LEVEL,
    POWER,
    Interval,
    Verdict,
    change_text,
    evidence_text,
    needed_pairs,
    paired_change,
    verdict,
)
from harness.suite.metrics import METRICS, TIMES
from harness.suite.text import count_text, value_text

DETECT = 0.5
"""change that must at least have been visible, unless ``--detect`` says otherwise"""
EXIT_CODES = {"no regression": 0, "regression": 1, "undecided": 3}
Pair = list[tuple[Record, Record]]
"""(base, new): one repeat of each, or all that a session of each has in common"""
WIDTH = 80
STYLES = {"better": "green", "worse": "bold red", "same": "", "undecided": "yellow"}
DOUBTS = {
    "unsteady": "unsteady: the halves of their window differ by more than 5 %, or it was too short to tell",
    "disturbed": "disturbed: something else used the machine",
    "dirty": "measured in a working tree with uncommitted changes",
}
"""marks of records that make them doubtful"""


UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Pairs:
    """Records of both sides that belong together."""

    across: list[Pair] = field(default_factory=list)
    sessions: bool = False
    """each pair is a session of base and one of new, measured at different times"""
    notes: list[str] = field(default_factory=list)
    """what a reader has to know about them"""
    lost: int = 0
    """repeats that NEW did not complete, less those of BASE"""

    @property
    def records(self) -> list[Record]:
        """Each once."""
        return list({id(record): record for pair in self.across for both in pair for record in both}.values())

    @property
    def doubts(self) -> dict[str, int]:
        """How many of the records carry each of the marks that make them doubtful."""
        return {mark: sum(bool(getattr(record, mark)) for record in self.records) for mark in DOUBTS}


@dataclass(frozen=True)
class MetricChange:
    """One metric. Fractions: -0.08 is a loss of 8 % of the value, whichever direction is better."""

    metric: str
    better: Literal["up", "down"]
    decides: bool
    """the exit code follows from it"""
    pairs: int = 0
    base: float = math.nan
    new: float = math.nan
    """medians over the repeats"""
    change: float = math.nan
    """geometric mean of new over base, less 1; for a metric that is not always above 0 the mean difference in units of
    the mean size of its values"""
    interval: Interval = UNKNOWN
    """of the change, 95 %: what the test does not reject"""
    p: float = math.nan
    smallest_effect: float = math.nan
    """change that would have been found with a probability of 80 %"""
    verdict: Verdict = "undecided"
    reason: str = "it was not measured on both sides"
    """why it is undecided, or the verdict when it does not follow from the change"""


@dataclass(frozen=True)
class Comparison:
    """The comparison of two sides."""

    metrics: list[MetricChange]
    pairs: Pairs

    @property
    def outcome(self) -> str:
        """The outcome by the metrics that decide. Sessions that differ for any reason are no regression of the code."""
        verdicts = {one.verdict for one in self.metrics if one.decides}
        if "worse" in verdicts and not self.pairs.sessions:
            return "regression"
        return "no regression" if verdicts and not verdicts & {"worse", "undecided"} else "undecided"

    @property
    def exit_code(self) -> int:
        """The exit code of ``compare``."""
        return EXIT_CODES[self.outcome]


def compare(
    pairs: Pairs, deciding: Sequence[str], detect: float = DETECT, directions: Mapping[str, str] = METRICS
) -> Comparison:
    """Compare all metrics, those that decide first; others that a side does not have, or that were 0, are left out.

    Args:
        pairs: what was measured.
        deciding: metrics that the exit code follows from.
        detect: a change of this size, as a fraction, must be one that could have been seen.
        directions: of metrics, as a suite's objectives state them; others have their own.
    """
    better = {**METRICS, **directions}
    names = [*deciding, *(name for name in METRICS if name not in deciding)]
    found = [compare_metric(name, pairs, name in deciding, detect, better[name]) for name in names]
    shown = [one for one in found if one.decides or (one.pairs and (one.base or one.new))]
    return Comparison(shown if pairs.across else [], pairs)


def compare_metric(
    metric: str, pairs: Pairs, decides: bool = True, detect: float = DETECT, direction: str | None = None
) -> MetricChange:
    """One metric: what the values of the pairs show, unless one side missed a target more often or lost repeats."""
    direction = direction or METRICS[metric]
    found = MetricChange(metric, "up" if direction == "maximize" else "down", decides)
    sides = [
        np.array([[one.metric(metric) for one in both] for both in pair], dtype=np.float64).reshape(-1, 2)
        for pair in pairs.across
    ]  # of each pair [repeats, 2]
    values = [own for pair in sides if len(own := pair[np.isfinite(pair).all(axis=1)])]
    if values:
        both = np.concatenate(values)
        ratio = bool((both > 0).all())  # as for returns, which may be below it, else differences
        seen = paired_change(values, ratio=ratio, unit=1.0 if ratio else float(np.abs(both).mean()) or 1.0)
        decided, reason = verdict(seen.value, seen.p, seen.least_p, direction), ""
        missing = needed_pairs() - seen.pairs
        if decided == "undecided":
            reason = f"{count_text(seen.pairs, 'pair')}, {missing} more needed for p < {LEVEL:g}"
            if pairs.sessions:
                have = f"{count_text(seen.pairs, 'session')} a side"
                reason = f"{have}, and one session differs from the next by itself: {missing} more needed, or --measure"
        elif decided == "same" and seen.smallest_effect > detect:
            what = "sessions" if pairs.sessions else "pairs"
            decided, reason = "undecided", (
                f"a change of {100 * detect:.3g}% could have gone unseen: more {what} than {seen.pairs}, longer "
                "windows or a quiet machine needed"
            )  # fmt: skip
        found = dataclasses.replace(
            found, pairs=seen.pairs, base=statistics.median(both[:, 0]), new=statistics.median(both[:, 1]),
            change=seen.value, interval=seen.interval, p=seen.p, smallest_effect=seen.smallest_effect,
            verdict=decided, reason=reason,
        )  # fmt: skip

    # A repeat that missed its target counts as later than any other: leaving it out would favour the side that seldom
    # reaches the target. The sign test looks at the pairs in which one side missed it more often.
    missed = [np.isnan(pair).sum(axis=0) for pair in sides]
    base, new = sum(missed, np.zeros(2, dtype=int)).tolist()
    repeats = sum(map(len, sides))
    if metric in TIMES and base != new and base + new < 2 * repeats:
        more = [n - b for b, n in missed if n != b]
        p = float(binomtest(sum(count > 0 for count in more), len(more)).pvalue)
        told = (("BASE", base), ("NEW", new))
        reason = ", ".join(f"{name} did not reach the target in {n} of {repeats}" for name, n in told if n)
        late: Verdict = "worse" if (np.sign(more).sum(), new - base) > (0, 0) else "better"
        if p < LEVEL or found.verdict != late:  # otherwise what the others show is the same
            typically = [typical([both[side] for pair in pairs.across for both in pair], metric) for side in (0, 1)]
            found = dataclasses.replace(
                MetricChange(metric, found.better, decides), pairs=len(sides), base=typically[0], new=typically[1],
                p=p, verdict=late if p < LEVEL else "undecided", reason=reason,
            )  # fmt: skip

    if pairs.lost > 0 and found.verdict in ("same", "better"):
        reason = f"NEW did not complete {count_text(pairs.lost, 'repeat')} that BASE did"
        found = dataclasses.replace(found, verdict="undecided", reason=reason)
    return found


def as_dict(comparison: Comparison, base: Side, new: Side) -> dict[str, Any]:
    """For a program; fractions where the table has percent."""
    metrics = [dataclasses.asdict(one) for one in comparison.metrics]
    return {
        "outcome": comparison.outcome, "exit_code": comparison.exit_code, "base": base.as_dict(), "new": new.as_dict(),
        "metrics": metrics, "notes": comparison.pairs.notes, **comparison.pairs.doubts,
    }  # fmt: skip


def show(comparison: Comparison, base: Side, new: Side, console: Console) -> None:
    """The table, what the decision rests on, and the decision."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(textwrap.fill(text, WIDTH, subsequent_indent="  "), style=style))

    def percent(fraction: float, sign: str = "") -> str:
        if not math.isfinite(fraction):
            return "-"
        return change_text(fraction, fraction=True, sign=sign) if abs(fraction) < 10 else ">1000%"

    say(f"BASE {base.text}")
    say(f"NEW  {new.text}")
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, width=WIDTH)
    table.add_column("metric", overflow="fold")  # where the numbers are long it has two lines, and nothing is cut off
    for name in ("good", "base", "new", "change", "seen\nfrom", "p", ""):
        table.add_column(name, justify="left" if name in ("good", "") else "right", no_wrap=True)
    for one in comparison.metrics:
        table.add_row(
            one.metric + ("*" if one.decides else ""), one.better, value_text(one.metric, one.base),
            value_text(one.metric, one.new), percent(one.change, "+"), percent(one.smallest_effect),
            f"{one.p:.3f}" if math.isfinite(one.p) else "-", Text(one.verdict, style=STYLES[one.verdict]),
        )  # fmt: skip
    if comparison.metrics:
        console.print(table)

    pairs, deciding = comparison.pairs, [one for one in comparison.metrics if one.decides]
    for one in deciding:
        change = change_text(one.change, fraction=True) if math.isfinite(one.change) else "change unknown"
        evidence = evidence_text(one.interval, one.pairs, fraction=True) + " of sessions" * pairs.sessions
        text = f"* {one.metric}, {one.better} is good: {change} ({evidence}); {one.verdict}"
        text += f", p = {one.p:.3f}" if one.verdict != "undecided" else ""
        text += f": {one.reason}" if one.reason else ""
        if one.verdict == "same":
            seen = change_text(one.smallest_effect, fraction=True, sign="")
            text += f"; a change of {seen} would have been seen with a probability of {POWER:.0%}"
        say(text)
    notes = [f"{count} of {len(pairs.records)} repeats {DOUBTS[mark]}" for mark, count in pairs.doubts.items() if count]
    if comparison.metrics and not any(one.pairs for one in deciding):
        notes.append("none of the deciding metrics was measured on both sides; --metric NAME chooses others")
    for note in [*notes, *pairs.notes]:
        say(f"note: {note}")
    style = {"regression": "bold red", "no regression": "bold green"}.get(comparison.outcome, "bold yellow")
    say(f"{comparison.outcome[0].upper()}{comparison.outcome[1:]} (exit code {comparison.exit_code})", style)

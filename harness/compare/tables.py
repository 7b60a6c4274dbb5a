"""A comparison in 80 columns, and as JSON."""

import dataclasses
import math
import textwrap
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.compare.judge import Comparison, Judgement
from harness.compare.recorded import counted
from harness.compare.sides import Side
from harness.stats.inference import POWER
from harness.suite.text import number_text

WIDTH = 80
STYLES = {"better": "green", "worse": "bold red", "same": "", "undecided": "yellow"}


def as_dict(comparison: Comparison, base: Side, new: Side) -> dict[str, Any]:
    """For a program; fractions where the table has percent."""
    metrics = []
    for judgement in comparison.judgements:
        content = {name: _finite(value) for name, value in dataclasses.asdict(judgement).items()}
        metrics.append(content | {"interval": list(map(_finite, judgement.interval))})
    return {
        "outcome": comparison.outcome, "exit_code": comparison.exit_code, "base": _side(base), "new": _side(new),
        "metrics": metrics, "notes": comparison.pairs.notes, **counted(comparison.pairs.records),
    }  # fmt: skip


def _side(side: Side) -> dict[str, Any]:
    kinds = ("study", "commit", "configuration")
    given = {kind: getattr(side, kind) for kind in kinds if getattr(side, kind) is not None}
    pooled = {"pooled": [str(study) for study in side.pooled]} if side.pooled else {}
    return {"name": side.name} | {kind: str(value) for kind, value in given.items()} | pooled


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(comparison: Comparison, base: Side, new: Side, console: Console) -> None:
    """The table, what the decision rests on, and the decision."""
    _print(console, f"BASE {base.text}")
    _print(console, f"NEW  {new.text}")
    if comparison.judgements:
        console.print(_table(comparison))
    for judgement in comparison.judgements:
        if judgement.decides:
            _print(console, _sentence(judgement, comparison.pairs.sessions))
    for note in [*_doubts(comparison), *comparison.pairs.notes]:
        _print(console, f"note: {note}")
    style = {"regression": "bold red", "no regression": "bold green"}.get(comparison.outcome, "bold yellow")
    _print(
        console, f"{comparison.outcome[0].upper()}{comparison.outcome[1:]} (exit code {comparison.exit_code})", style
    )


def _table(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, width=WIDTH)
    table.add_column("metric", overflow="fold")  # where the numbers are long it has two lines, and nothing is cut off
    for name in ("good", "base", "new", "change", "seen\nfrom", "p", ""):
        table.add_column(name, justify="left" if name in ("good", "") else "right", no_wrap=True)
    for one in comparison.judgements:
        table.add_row(
            one.metric + ("*" if one.decides else ""), one.better, _value(one.metric, one.base),
            _value(one.metric, one.new), _percent(one.change, "+"), _percent(one.smallest_effect), _p(one.p),
            Text(one.verdict, style=STYLES[one.verdict]),
        )  # fmt: skip
    return table


def _sentence(one: Judgement, sessions: bool) -> str:
    """One deciding metric, with its interval and why it is judged so."""
    low, high = (_percent(end, "+") for end in one.interval)
    interval = f" (95 % interval {low} to {high})" if math.isfinite(one.smallest_effect) else ""
    pairs = f"{one.pairs} pair{'s' * (one.pairs != 1)}{' of sessions' if sessions else ''}"
    text = f"* {one.metric}, {one.better} is good: {_percent(one.change, '+')}{interval} over {pairs}; {one.verdict}"
    if one.verdict == "undecided":
        return f"{text}: {one.reason}"
    text = f"{text}, p = {one.p:.3f}" + (f": {one.reason}" if one.reason else "")
    if one.verdict == "same":
        seen = _percent(one.smallest_effect)
        return f"{text}; a change of {seen} would have been seen with a probability of {POWER:.0%}"
    return text


def _doubts(comparison: Comparison) -> list[str]:
    """What makes the numbers less certain than they look."""
    records = comparison.pairs.records
    words = {
        "unsteady": "unsteady: the halves of their window differ by more than 5 %, or it was too short to tell",
        "disturbed": "disturbed: something else used the machine",
        "dirty": "of a working tree with changes that its commit does not have",
    }
    doubts = [f"{count} of {len(records)} repeats {words[kind]}" for kind, count in counted(records).items() if count]
    if not any(one.decides for one in comparison.judgements) and comparison.judgements:
        doubts.append("none of the deciding metrics was measured on both sides; --metric NAME chooses others")
    return doubts


def _value(metric: str, value: float) -> str:
    return f"{value / 2**20:,.0f} MiB" if metric.endswith("_bytes") else number_text(value)


def _percent(fraction: float, sign: str = "") -> str:
    if not math.isfinite(fraction):
        return "-"
    return f"{fraction:{sign}.1%}" if abs(fraction) < 10 else ">1000%"


def _p(p: float) -> str:
    return f"{p:.3f}" if math.isfinite(p) else "-"


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(textwrap.fill(text, WIDTH, subsequent_indent="  "), style=style))

"""Memory predicted before launch against the peak that was measured, trial by trial and item by item."""

import math
import statistics
from typing import Any

import altair as alt

from harness.report.page import vega
from harness.report.page.model import Cell, Section, Table, finite, mebibytes, percent, share
from harness.report.studies import StudyFiles, Trial

SHOWN = 20
"""trials in the chart"""
KINDS = ("host", "shm", "device")
NAMES = {"host": "host", "shm": "of it shared", "device": "device"}


def predicted(trial: Trial, kind: str = "host") -> float:
    """Bytes; NaN when nothing was predicted. Calibrated for this machine where it is."""
    own = [getattr(record, f"budget_{kind}_bytes") for record in trial.records]
    if kind == "host":
        own = [record.calibrated_host_bytes or size for record, size in zip(trial.records, own, strict=True)]
    return float(own[-1]) if own[-1] else math.nan


def measured(trial: Trial, kind: str = "host") -> float:
    """Peak in bytes over the complete repeats that count; NaN when none was measured."""
    sizes = [getattr(record, f"peak_{kind}_bytes") for record in trial.complete]
    return float(max(sizes)) if any(sizes) else math.nan


def memory(study: StudyFiles) -> Section:
    """The chart's trials are the best; the table has all."""
    title = "Memory predicted and measured"
    both = [t for t in study.searched if math.isfinite(predicted(t)) and math.isfinite(measured(t))]
    if not both:
        missing = "No trial has both a predicted and a measured peak."
        return Section("memory", title, (missing,), (), _items(study))
    ratios = [measured(trial) / predicted(trial) for trial in both]
    text = (
        f"Measured over predicted: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f} "
        f"over {len(both)} trials; {percent(sum(abs(r - 1) <= 0.08 for r in ratios) / len(ratios))} are within 8 %.",
        _accounting(study),
    )
    known = {trial.number: trial for trial in both}
    shown = [known[trial.number] for trial in study.leaders(SHOWN) if trial.number in known] or both[:SHOWN]
    rows = []
    for trial in shown:
        ends = {"predicted": predicted(trial) / 2**20, "measured": measured(trial) / 2**20}
        rows += [{"trial": trial.name, "kind": kind, "mib": finite(size), "low": finite(min(ends.values())),
                  "high": finite(max(ends.values()))} for kind, size in ends.items()]  # fmt: skip
    described = "; ".join(
        f"trial {t.name}: predicted {mebibytes(predicted(t)).text}, measured {mebibytes(measured(t)).text}"
        for t in shown
    )
    name, height = "Host memory of the best trials", 24 * len(shown) + 10
    chart = vega.made("memory-chart", name, described, _chart(shown), {"memory": rows}, height)
    return Section("memory", title, text, (chart,), (_table(both), *_items(study)))


def _accounting(study: StudyFiles) -> str:
    ways = sorted({record.memory_accounting for record in study.records if record.state == "complete"})
    meaning = {
        "pss": "proportional set size, shared pages counted once",
        "uss": "unique set size: too low, shared pages are missing",
        "rss": "resident set size: too high, shared pages are counted by every process",
    }
    return "The peak is over all processes of a repeat, by " + " and ".join(meaning.get(way, way) for way in ways) + "."


def _chart(trials: list[Trial]) -> Any:
    base = vega.data("memory")
    y = vega.trial_axis([trial.name for trial in trials])
    x = vega.x("mib", "MiB", padding=16)
    kinds, tips = ("predicted", "measured"), {"trial:N": "trial", "kind:N": "what", "mib:Q": "MiB"}
    rule = base.transform_filter("datum.kind == 'measured'").mark_rule(strokeWidth=1.2)
    marks = vega.points(base, x, y, kinds, tips, of="kind", known=kinds, shapes=("square", "diamond"))
    return alt.layer(rule.encode(x=alt.X("low:Q"), x2="high:Q", y=y), marks)


def _table(trials: list[Trial]) -> Table:
    kinds = [kind for kind in KINDS if any(measured(t, kind) == measured(t, kind) for t in trials)]
    columns = ["trial"]
    for kind in kinds:
        columns += [f"{NAMES[kind]} predicted", f"{NAMES[kind]} measured", f"{NAMES[kind]} difference"]
    rows = []
    for trial in trials:
        row: list[Any] = [trial.name]
        for kind in kinds:
            before, after = predicted(trial, kind), measured(trial, kind)
            row += [mebibytes(before), mebibytes(after), share(after / before - 1, sign=True, digits=1)]
        rows.append((*row, trial.settings))
    return Table.of("memory-table", "Peak memory by trial", (*columns, "settings"), rows)


def _items(study: StudyFiles) -> tuple[Table, ...]:
    """The prediction item by item, of the best trial and the baseline."""
    chosen = [trial for trial in study.leaders(2) if trial.records[-1].budget_items]
    if not chosen:
        return ()
    names = list(dict.fromkeys(name for trial in chosen for name in trial.records[-1].budget_items))
    sizes = {name: [trial.records[-1].budget_items.get(name, 0) for trial in chosen] for name in names}
    rows: list[list[Any]] = [[name, *map(mebibytes, sizes[name])] for name in sorted(names, key=lambda n: -sizes[n][0])]
    totals = [mebibytes(sum(column)) for column in zip(*sizes.values(), strict=True)]
    rows.append(["all items", *(Cell(total.text, total.sort) for total in totals)])
    columns = ("item", *(f"trial {trial.name}" for trial in chosen))
    return (Table.of("items-table", "What the prediction consists of", columns, rows),)

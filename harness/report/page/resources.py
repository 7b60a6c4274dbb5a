"""Time and memory: who waited for whom, and what was predicted of throughput and memory against what was measured."""

import math
import statistics

import altair as alt

from harness.report.page import charts
from harness.report.page.model import Cell, Chart, Row, Rows, Section, Table
from harness.report.page.search import scatter
from harness.report.studies import ReportedStudy, ReportedTrial, finite, scale
from harness.stats.inference import spearman
from harness.suite.text import percent_text, settings_text

BUSY = 12
"""trials with bars"""
MEMORY = 20
"""trials in the chart of memory"""
SIDES = ("collector", "learner")
KINDS = {"host": "host", "shm": "of it shared", "device": "device"}
ACCOUNTING = {
    "pss": "proportional set size, shared pages counted once",
    "uss": "unique set size: too low, shared pages are missing",
    "rss": "resident set size: too high, shared pages are counted by every process",
}


def busy(study: ReportedStudy) -> Section:
    """Bars of each side's time, and the verdicts."""

    def part(trial: ReportedTrial, side: str, what: str) -> float:
        return trial.value(f"{side}_{what}_fraction")

    trials = [t for t in study.leaders(BUSY) if any(math.isfinite(part(t, side, "busy")) for side in SIDES)]
    title = "Busy and waiting"
    if not trials:
        return Section("busy", title, ["No trial that was measured says how busy its two sides were."])
    drawn: list[Chart] = []
    for side in SIDES:
        rows: Rows = []
        for trial in trials:
            start = 0.0
            for name, what in zip(charts.PARTS, ("busy", "wait"), strict=True):
                length = part(trial, side, what)
                if math.isfinite(length):
                    end = min(start + length, max(1.0, start))
                    rows.append({"row": f"trial {trial.name}", "part": name, "start": finite(start),
                                 "end": finite(end), "text": percent_text(end - start)})  # fmt: skip
                    start = end
        across = f"share of the {side}'s time"
        drawn.append(charts.bars(f"busy_{side}", side.capitalize(), rows, across, wide=False))
    parts = dict(zip(charts.PARTS, ("busy", "wait"), strict=True))
    cells = [
        {"trial": trial.name}
        | {f"{side} {name}": Cell.share(part(trial, side, what)) for side in SIDES for name, what in parts.items()}
        | {"limited by": study.limited_by(trial)}
        for trial in trials
    ]  # fmt: skip
    table = Table.of("busy-table", "Where the time of the steady window went", cells)
    shown = f"{len(trials)} trials: the best and the baseline. " if len(study.trials) > len(trials) else ""
    text = (
        f"{shown}Filled: busy. Outlined: waiting for the other side. The rest is neither: bookkeeping, or time "
        "that the trainer does not report."
    )
    return Section("busy", title, [text], drawn, [table])


def prediction(study: ReportedStudy) -> Section:
    """The machine's ceilings, and the throughput predicted from them against the measured one."""
    title, text, tables, ceilings = "Ceilings and prediction", [], [], study.ceilings
    if ceilings is None:
        text.append(
            "This study has no ceilings.json that can be read: what collector and learner reach alone is not known."
        )
    else:
        together = f", and short runs of both together ({len(ceilings.rehearsals)})" if ceilings.rehearsals else ""
        text.append(
            f"Ceilings: {len(ceilings.measured)} parts of a round of collector and learner, each measured alone on "
            f"{ceilings.machine or 'this machine'} ({ceilings.cores} cores) in {ceilings.seconds:.0f} s{together}."
            + (f" Disturbed: {ceilings.disturbed}." if ceilings.disturbed else "")
        )
        seen: dict[str, set[str]] = {}
        for one in ceilings.measured:
            for name, value in one.part.settings.items():
                seen.setdefault(name, set()).add(str(value))
        rows = []
        for part, cost in sorted(((one.part, one.cost) for one in ceilings.measured), key=lambda one: one[0].kind):
            side = f"{part.side}, in the background" if part.background else part.side
            settings = settings_text({name: v for name, v in part.settings.items() if len(seen[name]) > 1})
            cores = cost.core_seconds / cost.seconds if cost.seconds else None
            rows.append({
                "part": part.kind.replace("_", " "), "side": side, "size": part.size,
                "milliseconds": cost.seconds * 1e3, "cores busy": cores, "settings": settings,
            })  # fmt: skip
        tables.append(Table.of("ceilings-table", "Parts of a round, each measured alone", rows))
    first, second = "predicted_env_steps_per_second", "env_steps_per_second"
    pairs = [(t, t.value(first), t.value(second)) for t in study.searched]
    pairs = [pair for pair in pairs if math.isfinite(pair[1]) and math.isfinite(pair[2])]
    if not pairs:
        return Section("prediction", title, [*text, "No trial has a predicted throughput."], (), tables)
    rank = spearman([p for _, p, _ in pairs], [m for _, _, m in pairs]) if len(pairs) > 1 else math.nan
    if math.isfinite(rank):
        text.append(f"Rank correlation of prediction and measurement over {len(pairs)} trials: {rank:.2f}.")
    cells = [
        {"trial": t.name, "predicted": p, "measured": m,
         "measured against predicted": Cell.share(m / p - 1 if p else math.nan, "+"),
         "asynchronous efficiency": Cell.share(t.value("async_efficiency")), "settings": t.settings}
        for t, p, m in pairs
    ]  # fmt: skip
    tables.append(Table.of("prediction-table", "Env steps per second, predicted and measured", cells))
    ends = [value for _, *both in pairs for value in both]
    x, y = (
        charts.quantity(channel, metric).scale(domain=[0.95 * min(ends), 1.05 * max(ends)], nice=False)
        for channel, metric in ((alt.X, first), (alt.Y, second))
    )
    equal = alt.Chart(alt.InlineData(values=[{first: end, second: end} for end in (min(ends), max(ends))]))
    layers = [
        equal.mark_line(strokeDash=[5, 4], strokeWidth=1).encode(x=x, y=y),
        scatter(study.rows, x, y, first, second),
    ]
    title_of_chart = "Predicted and measured; on the dashed line both are equal"
    chart = charts.made("prediction_chart", title_of_chart, layers, {"trials": study.rows}, 320)
    return Section("prediction", title, text, [chart], tables)


def predicted_bytes(trial: ReportedTrial, kind: str = "host") -> float:
    """Bytes; NaN when nothing was predicted. Calibrated for this machine where it is."""
    record = trial.records[-1]
    calibrated = record.calibrated_host_bytes if kind == "host" else 0
    return float(calibrated or getattr(record, f"budget_{kind}_bytes") or math.nan)


def peak_bytes(trial: ReportedTrial, kind: str = "host") -> float:
    """Peak in bytes over the complete repeats that count; NaN when none was measured."""
    return float(max((getattr(r, f"peak_{kind}_bytes") for r in trial.complete), default=0) or math.nan)


def memory(study: ReportedStudy) -> Section:
    """Predicted before launch against the measured peak; the chart's trials are the best, the tables have all."""
    title, tables = "Memory predicted and measured", []
    both = {t.number: t for t in study.searched if math.isfinite(predicted_bytes(t) * peak_bytes(t))}
    kinds = [kind for kind in KINDS if any(math.isfinite(peak_bytes(t, kind)) for t in both.values())]
    rows = list[Row]()
    for trial in both.values():
        rows.append({"trial": trial.name})
        for kind in kinds:
            expected, peak = predicted_bytes(trial, kind), peak_bytes(trial, kind)
            rows[-1][f"{KINDS[kind]} predicted"] = Cell.size(expected)
            rows[-1][f"{KINDS[kind]} measured"] = Cell.size(peak)
            rows[-1][f"{KINDS[kind]} difference"] = Cell.share(peak / expected - 1, "+", 1)
        rows[-1]["settings"] = trial.settings
    tables.append(Table.of("memory-table", "Peak memory by trial", rows))
    chosen = {f"trial {t.name}": t.records[-1].budget_items for t in study.leaders(2) if t.records[-1].budget_items}
    names = dict.fromkeys(name for items in chosen.values() for name in items)
    parts = [(name, [items.get(name, 0) for items in chosen.values()]) for name in names]
    parts.sort(key=lambda row: row[1], reverse=True)
    parts.append(("all items", [sum(items.values()) for items in chosen.values()]))
    lines = [{"item": name} | dict(zip(chosen, map(Cell.size, own), strict=True)) for name, own in parts if chosen]
    tables.append(Table.of("items-table", "What the prediction consists of", lines))
    if not both:
        return Section("memory", title, ["No trial has both a predicted and a measured peak."], (), tables)
    ratios = [peak_bytes(trial) / predicted_bytes(trial) for trial in both.values()]
    ways = sorted({record.memory_accounting for record in study.records if record.state == "complete"})
    within = percent_text(statistics.fmean(abs(ratio - 1) <= 0.08 for ratio in ratios))
    text = (
        f"Measured over predicted: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f} "
        f"over {len(both)} trials; {within} are within 8%.",
        f"The peak is over all processes of a repeat, by {' and by '.join(ACCOUNTING.get(way, way) for way in ways)}.",
    )
    shown = [both[t.number] for t in study.leaders(MEMORY) if t.number in both] or list(both.values())[:MEMORY]
    data: Rows = []
    for trial in shown:
        ends = [finite(end * scale("host_bytes")) for end in (predicted_bytes(trial), peak_bytes(trial))]
        both_kinds = zip(("predicted", "measured"), ends, strict=True)
        data += [{"trial": trial.name, "kind": kind, "host_bytes": end} for kind, end in both_kinds]
        data[-1] |= {"low": ends[0], "high": ends[1]}
    chart = charts.dots("memory_chart", "Host memory of the best trials", data, "host_bytes", of="kind",
                        known=("predicted", "measured"))  # fmt: skip
    return Section("memory", title, text, [chart], tables)

"""Where the time went: busy and waiting, and the throughput against what the machine's ceilings allow."""

import math
from typing import Any

import altair as alt

from harness.predict.ceilings import Ceilings
from harness.report.page import vega
from harness.report.page.model import Chart, Section, Table, finite, percent, share
from harness.report.studies import StudyFiles, Trial, label
from harness.stats.inference import spearman
from harness.suite.text import settings_text

SHOWN = 12
"""trials with bars"""
PARTS = ("busy", "waits", "neither")
SIDES = ("collector", "learner")


def busy(study: StudyFiles) -> Section:
    """Bars of each side's time, and the verdicts."""
    trials = [t for t in study.leaders(SHOWN) if any(math.isfinite(_share(t, side, "busy")) for side in SIDES)]
    title = "Busy and waiting"
    if not trials:
        return Section("busy", title, ("No trial that was measured says how busy its two sides were.",))
    rows = [row for trial in trials for row in _parts(trial)]
    charts = tuple(_bars(side, trials, rows) for side in SIDES)
    cells = []
    for trial in trials:
        shares = [share(_share(trial, side, part)) for side in SIDES for part in ("busy", "wait")]
        cells.append((trial.name, *shares, study.limited_by(trial)))
    columns = ("trial", "collector busy", "collector waits", "learner busy", "learner waits", "limited by")
    table = Table.of("busy-table", "Where the time of the steady window went", columns, cells)
    shown = f"{len(trials)} trials: the best and the baseline. " if len(study.trials) > len(trials) else ""
    text = (
        f"{shown}Filled: busy. Outlined: waiting for the other side. The rest is neither: bookkeeping, or time "
        "that the trainer does not report.",
    )
    return Section("busy", title, text, charts, (table,))


def _share(trial: Trial, side: str, part: str) -> float:
    return trial.value(f"{side}_{part}_fraction")


def _parts(trial: Trial) -> list[dict[str, Any]]:
    rows = []
    for side in SIDES:
        working, waiting = _share(trial, side, "busy"), _share(trial, side, "wait")
        if math.isnan(working):
            continue
        waiting = min(0.0 if math.isnan(waiting) else waiting, max(0.0, 1 - working))
        ends = (0.0, working, working + waiting, 1.0)
        for part, start, end in zip(PARTS, ends[:-1], ends[1:], strict=True):
            rows.append(
                {"trial": trial.name, "side": side, "part": part, "start": finite(start),
                 "end": finite(max(start, end)),
                 "text": percent(end - start) if end - start > 0.09 else ""}
            )  # fmt: skip
    return rows


def _bars(side: str, trials: list[Trial], rows: vega.Rows) -> Chart:
    base = vega.data("busy").transform_filter(f"datum.side == '{side}'")
    y = vega.trial_axis([trial.name for trial in trials])
    x = vega.x("start", f"share of the {side}'s time", format="%").scale(domain=[0, 1])
    layers = []
    for part, look in (("busy", {"fillOpacity": 0.9}), ("waits", {"fillOpacity": 0.12, "strokeDash": [3, 2]})):
        own = base.transform_filter(f"datum.part == '{part}' && datum.end > datum.start")
        tips = vega.tooltip({"trial:N": "trial", "part:N": side, "text:N": "share"})
        layers.append(own.mark_bar(strokeWidth=1.2, height={"band": 0.62}, **look).encode(
            x=x, x2="end:Q", y=y, tooltip=tips,
            fill=alt.Fill("part:N", scale=alt.Scale(domain=list(PARTS[:2])), legend=None),
            stroke=alt.Stroke("part:N", scale=alt.Scale(domain=list(PARTS[:2])), legend=None),
        ))  # fmt: skip
        centre = own.transform_calculate(middle="(datum.start + datum.end) / 2")
        style = "busy-label" if part == "busy" else "label"
        text = centre.mark_text(fontSize=11, style=style).encode(x=alt.X("middle:Q"), y=y, text="text:N")
        layers.append(text)
    described = "; ".join(f"trial {t.name} {percent(v)} busy" for t in trials if (v := _share(t, side, "busy")) == v)
    height, drawn = vega.ROW * len(trials) + 8, alt.layer(*layers)
    described = f"{side}: {described}"
    return vega.made(f"busy-{side}", side.capitalize(), described, drawn, {"busy": rows}, height, wide=False)


def prediction(study: StudyFiles) -> Section:
    """The machine's ceilings, and the throughput predicted from them against the measured one."""
    tables = [_ceilings(study.ceilings)] if study.ceilings else []
    pairs = [
        (trial, trial.value("predicted_env_steps_per_second"), trial.value("env_steps_per_second"))
        for trial in study.searched
    ]
    pairs = [pair for pair in pairs if math.isfinite(pair[1]) and math.isfinite(pair[2])]
    title = "Ceilings and prediction"
    text = []
    if study.ceilings:
        text.append(_measured_on(study.ceilings))
    else:
        text.append(
            "This study has no ceilings.json that can be read: what collector and learner reach alone is not known."
        )
    if not pairs:
        text.append("No trial has a predicted throughput.")
        return Section("prediction", title, tuple(text), (), tuple(tables))
    if len(pairs) > 1:
        rank = spearman([p for _, p, _ in pairs], [m for _, _, m in pairs])
        if math.isfinite(rank):
            text.append(f"Rank correlation of prediction and measurement over {len(pairs)} trials: {rank:.2f}.")
    rows = [
        (t.name, p, m, share(m / p - 1 if p else math.nan, sign=True), share(t.value("async_efficiency")), t.settings)
        for t, p, m in pairs
    ]
    columns = ("trial", "predicted", "measured", "measured against predicted", "asynchronous efficiency", "settings")
    tables.append(Table.of("prediction-table", "Env steps per second, predicted and measured", columns, rows))
    return Section("prediction", title, tuple(text), (_identity(study, pairs),), tuple(tables))


def _identity(study: StudyFiles, pairs: list[tuple[Trial, float, float]]) -> Chart:
    ends = [value for _, predicted, measured in pairs for value in (predicted, measured)]
    domain = [min(ends) * 0.95, max(ends) * 1.05]
    x = vega.x("predicted", "predicted env steps per second").scale(domain=domain, nice=False)
    y = vega.y("measured", "measured").scale(domain=domain, nice=False)
    corners = alt.Chart(alt.InlineData(values=[{"predicted": end, "measured": end} for end in domain]))
    line = corners.mark_line(strokeDash=[5, 4], strokeWidth=1).encode(x=x, y=y)
    kinds = study.roles([trial for trial, _, _ in pairs])
    tips = {"name:N": "trial", "predicted:Q": "predicted", "measured:Q": "measured", "settings:N": "settings"}
    rows = [
        {"name": t.name, "role": study.role(t), "predicted": finite(p), "measured": finite(m), "settings": t.settings}
        for t, p, m in pairs
    ]
    described = f"{label('env_steps_per_second')} of {len(pairs)} trials; on the dashed line both are equal"
    layers = alt.layer(line, vega.points(vega.data("prediction"), x, y, kinds, tips))
    return vega.made("prediction-chart", "Predicted and measured", described, layers, {"prediction": rows}, 320)


def _ceilings(ceilings: Ceilings) -> Table:
    """What each part of a round costs alone, with the settings that are not the same everywhere."""
    rows: list[tuple[Any, ...]] = []
    seen: dict[str, set[str]] = {}
    for one in ceilings.measured:
        for name, value in one.part.settings.items():
            seen.setdefault(name, set()).add(str(value))
    for one in ceilings.measured:
        part, cost = one.part, one.cost
        side = f"{part.side}, in the background" if part.background else part.side
        cores = cost.core_seconds / cost.seconds if cost.seconds else math.nan
        settings = settings_text({name: v for name, v in part.settings.items() if len(seen[name]) > 1})
        rows.append((part.kind.replace("_", " "), side, part.size, cost.seconds * 1e3, cores, settings))
    columns = ("part", "side", "size", "milliseconds", "cores busy", "settings")
    rows.sort(key=lambda row: row[:3])
    return Table.of("ceilings-table", "Parts of a round, each measured alone", columns, rows)


def _measured_on(ceilings: Ceilings) -> str:
    text = f"Ceilings: {len(ceilings.measured)} parts of a round of collector and learner, each measured alone on "
    text += f"{ceilings.machine or 'this machine'} ({ceilings.cores} cores) in {ceilings.seconds:.0f} s"
    text += f", and short runs of both together ({len(ceilings.rehearsals)})." if ceilings.rehearsals else "."
    return text + (f" Disturbed: {ceilings.disturbed}." if ceilings.disturbed else "")

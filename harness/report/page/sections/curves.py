"""Learning curves: many readings of several repeats brought onto one grid, with how far the repeats spread."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.measure.record import Record
from harness.report.finding import SEEDS
from harness.report.page import vega
from harness.report.page.model import Chart, Section, Table, finite
from harness.report.studies import StudyFiles, Trial
from harness.stats.inference import median_rank
from harness.suite.text import number_text

POINTS = 150
"""of a curve at most"""
SHOWN = 5
"""trials"""
AXES = {"wall_seconds": "wall time, seconds", "env_steps": "env steps"}
Floats = NDArray[np.float64]


def learning_curves(study: StudyFiles) -> Section:
    """Return over wall time and over env steps of the best trials and the baseline."""
    title = "Learning curves"
    own = [(t, [curve for r in t.complete if len(curve := readings(study, r))]) for t in _shown(study)]
    own = [(trial, curves) for trial, curves in own if curves]
    if not own:
        text = "No episode finished in the repeats that count, or they left no curve: there is nothing to draw."
        return Section("curves", title, (text,))
    rows, ends = [], []
    for trial, curves in own:
        last = [float(curve["episode_return"].iloc[-1]) for curve in curves]
        rows.append((trial.name, len(curves), float(np.median(last)), summary_kind(len(curves)), trial.settings))
        spread = f", from {number_text(min(last))} to {number_text(max(last))}" if len(last) > 1 else ""
        ends.append(f"trial {trial.name} ends at {number_text(float(np.median(last)))}{spread}")
    charts = tuple(
        line_chart(f"curve_{axis}", axis, "return", [f"trial {trial.name}" for trial, _ in own], ": " + "; ".join(ends),
                   [row for trial, curves in own for row in _rows(trial, curves, axis)], band=True)
        for axis in AXES
    )  # fmt: skip
    most = max(len(curve) for _, curves in own for curve in curves)
    thinned = f"Curves have up to {most:,} readings; each point is the mean of about {most / POINTS:.1f}."
    text = "Mean return of the last finished episodes, while training. "
    text += "Every reading is drawn." if most <= POINTS else thinned
    columns = ("trial", "repeats", "last return", "line and band", "settings")
    return Section("curves", title, (text,), charts, (Table.of("curves-table", "What the curves show", columns, rows),))


def line_chart(
    name: str, axis: str, what: str, names: Sequence[str], described: str, rows: vega.Rows, *, band: bool = False
) -> Chart:
    """Lines over wall time or env steps by their names, with bands around them or their points marked.

    Args:
        name: of the data; the chart's id is made of it.
        axis: one of ``AXES``.
        what: is drawn.
    """
    dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 5]][: len(names)]
    look: dict[str, Any] = {"symbolType": "stroke", "symbolSize": 400, "symbolOpacity": 1, "symbolStrokeWidth": 2,
                            "columns": 2}  # fmt: skip
    legend = alt.Legend(title=None, orient="top", **look) if len(names) > 1 or band else None
    colour = alt.Color("name:N", scale=alt.Scale(domain=list(names)), legend=legend)
    dash = alt.StrokeDash("name:N", scale=alt.Scale(domain=list(names), range=dashes), legend=legend)
    x = vega.x("x", AXES[axis], format="~s" if axis == "env_steps" else ",d")
    up: dict[str, Any] = {"title": f"episode {what}" if band else what, "scale": alt.Scale(zero=False)}
    base = vega.data(name)
    tips = {"name:N": "trial" if band else "of", "x:Q": AXES[axis], "y:Q": what}
    tips |= {"low:Q": "from", "high:Q": "to"} if band else {}
    points: Any = alt.Undefined if band else alt.OverlayMarkDef(size=14)
    y = alt.Y("y:Q") if band else alt.Y("y:Q", **up)
    lines = base.mark_line(strokeWidth=2, point=points).encode(
        x=x, y=y, color=colour, strokeDash=dash, tooltip=vega.tooltip(tips)
    )
    layers = [lines]
    if band:
        layers.insert(0, base.mark_area(opacity=0.18).encode(x=x, y=alt.Y("low:Q", **up), y2="high:Q", color=colour))
    title = f"{what.capitalize()} over {AXES[axis].partition(',')[0]}"
    id = name.replace("curve_", "curve-") if band else name.replace("_", "-")
    return vega.made(id, title, f"{title}{described}", alt.layer(*layers), {name: rows}, 260, wide=False)


def _shown(study: StudyFiles) -> list[Trial]:
    """The best ones and the baseline; where some were confirmed those alone, as numbers of one kind go together."""
    confirmed = any(trial.confirmed for trial in study.trials)
    alike = [trial for trial in study.trials if trial.confirmed == confirmed]
    first = [trial for trial in study.order if trial in alike][: SHOWN - 1]
    first = first or [trial for trial in alike if trial.complete][: SHOWN - 1]
    return first + [trial for trial in alike if trial.baseline and trial not in first]


def summary_kind(repeats: int) -> str:
    """What line and band are for so many repeats."""
    if repeats == 1:
        return "the one repeat, no band"
    if repeats < SEEDS:
        return f"median and range of {repeats} repeats; too few for an interval"
    return f"interquartile mean of {repeats} repeats, 95 % interval of the median"


def readings(study: StudyFiles, record: Record) -> pd.DataFrame:
    """The part of a repeat's curve that has a return, in order of time."""
    curve = study.curve(record).replace([np.inf, -np.inf], np.nan).dropna()
    return curve.sort_values("wall_seconds")


def thin(x: Floats, y: Floats, points: int = POINTS) -> tuple[Floats, Floats]:
    """Means of neighbours, so that at most ``points`` are left."""
    if len(x) <= points:
        return x, y
    cuts = np.linspace(0, len(x), points + 1).astype(int)
    sizes = np.diff(cuts)
    return np.add.reduceat(x, cuts[:-1]) / sizes, np.add.reduceat(y, cuts[:-1]) / sizes


def aggregate(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats, Floats, Floats]:
    """Grid, line, low and high of the band, each ``[points]``, over the part of x that all curves have.

    One curve is its own line. Fewer than ``SEEDS``: median and range. Otherwise interquartile mean and pointwise
    the 95 % interval of the median.
    """
    thinned = [thin(x, y) for x, y in curves]
    if len(thinned) == 1:
        x, y = thinned[0]
        return x, y, y, y
    begin, end = max(x[0] for x, _ in thinned), min(x[-1] for x, _ in thinned)
    grid = np.linspace(begin, max(begin, end), min(POINTS, max(len(x) for x, _ in thinned)))
    values = np.stack([np.interp(grid, x, y) for x, y in thinned])  # [repeats, points]
    if len(thinned) < SEEDS:
        return grid, np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
    rank = median_rank(len(values))
    ordered = np.sort(values, axis=0)
    return grid, stats.trim_mean(values, 0.25, axis=0), ordered[rank - 1], ordered[-rank]


def _rows(trial: Trial, curves: Sequence[pd.DataFrame], axis: str) -> vega.Rows:
    pairs = [(c[axis].to_numpy(dtype=float), c["episode_return"].to_numpy(dtype=float)) for c in curves]
    return [
        {"name": f"trial {trial.name}", "x": finite(x), "y": finite(y), "low": finite(low), "high": finite(high)}
        for x, y, low, high in zip(*aggregate(pairs), strict=True)
    ]

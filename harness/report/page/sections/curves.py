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
from harness.report.page.trials import Trial
from harness.report.studies import StudyFiles
from harness.stats.inference import median_rank
from harness.suite.text import number_text

POINTS = 150
"""of a curve at most"""
SHOWN = 5
"""trials"""
AXES = (("wall_seconds", "wall time, seconds"), ("env_steps", "env steps"))
Floats = NDArray[np.float64]


def learning_curves(study: StudyFiles) -> tuple[Section, dict[str, list[dict[str, Any]]]]:
    """Return over wall time and over env steps of the best trials and the baseline, with the charts' data."""
    title = "Learning curves"
    shown = _shown(study)
    own = {trial.number: [curve for r in trial.complete if len(curve := readings(study, r))] for trial in shown}
    shown = [trial for trial in shown if own[trial.number]]
    if not shown:
        text = "No episode finished in the repeats that count, or they left no curve: there is nothing to draw."
        return Section("curves", title, (text,)), {}
    data = {f"curve_{axis}": [row for t in shown for row in _rows(study, t, own[t.number], axis)] for axis, _ in AXES}
    names = [f"trial {trial.name}" for trial in shown]
    charts = tuple(_chart(axis, name, names, _ends(shown, own)) for axis, name in AXES)
    most = max(len(curve) for curves in own.values() for curve in curves)
    rows = [
        (
            t.name,
            len(own[t.number]),
            float(np.median(_last(own[t.number]))),
            summary_kind(len(own[t.number])),
            t.settings,
        )
        for t in shown
    ]
    columns = ("trial", "repeats", "last return", "line and band", "settings")
    table = Table.of("curves-table", "What the curves show", columns, rows)
    return Section("curves", title, (_thinned(most),), charts, (table,)), data


def _shown(study: StudyFiles) -> list[Trial]:
    """The best ones and the baseline; where some were confirmed those alone, as numbers of one kind go together."""
    confirmed = any(trial.confirmed for trial in study.trials)
    alike = [trial for trial in study.trials if trial.confirmed == confirmed]
    first = [trial for trial in study.order if trial in alike][: SHOWN - 1]
    first = first or [trial for trial in alike if trial.complete][: SHOWN - 1]
    return first + [trial for trial in alike if trial.baseline and trial not in first]


def _thinned(most: int) -> str:
    text = "Mean return of the last finished episodes, while training. "
    if most <= POINTS:
        return f"{text}Every reading is drawn."
    return f"{text}Curves have up to {most:,} readings; each point is the mean of about {most / POINTS:.1f}."


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


def _rows(study: StudyFiles, trial: Trial, curves: Sequence[pd.DataFrame], axis: str) -> list[dict[str, Any]]:
    pairs = [(c[axis].to_numpy(dtype=float), c["episode_return"].to_numpy(dtype=float)) for c in curves]
    grid, line, low, high = aggregate(pairs)
    name = f"trial {trial.name}"
    return [
        {"name": name, "x": finite(x), "y": finite(y), "low": finite(a), "high": finite(b)}
        for x, y, a, b in zip(grid, line, low, high, strict=True)
    ]


def _last(curves: Sequence[pd.DataFrame]) -> list[float]:
    """The last return of each curve."""
    return [float(curve["episode_return"].iloc[-1]) for curve in curves]


def _ends(shown: Sequence[Trial], own: dict[int, list[pd.DataFrame]]) -> str:
    ends = []
    for trial in shown:
        last = _last(own[trial.number])
        spread = f", from {number_text(min(last))} to {number_text(max(last))}" if len(last) > 1 else ""
        ends.append(f"trial {trial.name} ends at {number_text(float(np.median(last)))}{spread}")
    return "; ".join(ends)


def _chart(axis: str, axis_title: str, names: Sequence[str], described: str) -> Chart:
    dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 5]][: len(names)]
    legend = alt.Legend(
        title=None, orient="top", symbolType="stroke", symbolSize=400, symbolOpacity=1, symbolStrokeWidth=2, columns=2
    )
    colour = alt.Color("name:N", scale=alt.Scale(domain=list(names)), legend=legend)
    dash = alt.StrokeDash("name:N", scale=alt.Scale(domain=list(names), range=dashes), legend=legend)
    x = alt.X("x:Q", title=axis_title, axis=alt.Axis(tickCount=5, format="~s" if axis == "env_steps" else ",d"))
    base = alt.Chart(vega.data(f"curve_{axis}"))
    band = base.mark_area(opacity=0.18).encode(
        x=x, y=alt.Y("low:Q", title="episode return", scale=alt.Scale(zero=False)), y2="high:Q",
        color=colour,
    )  # fmt: skip
    line = base.mark_line(strokeWidth=2).encode(
        x=x, y="y:Q", color=colour, strokeDash=dash,
        tooltip=vega.tooltip(("name:N", "trial"), ("x:Q", axis_title), ("y:Q", "return"), ("low:Q", "from"),
                             ("high:Q", "to")),
    )  # fmt: skip
    title = f"Return over {axis_title.partition(',')[0]}"
    return vega.made(f"curve-{axis}", title, f"{title}: {described}", alt.layer(band, line), 260, wide=False)

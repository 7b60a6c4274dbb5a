"""The kinds of charts of a page, as Vega-Lite made with Altair; colours come from the page's theme."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from harness.report.page.model import Chart, Row, Rows
from harness.report.studies import ROLES, ReportedTrial, finite, scale
from harness.stats.inference import Interval
from harness.suite.text import metric_text

MARKS = (*ROLES, "not reached")
"""what a mark of a chart by role may be: a target that was not reached stands where the training ended"""
SHAPES = ("diamond", "square", "circle", "triangle-right")
"""of the marks, so that they are told apart without colour"""
ROW = 26
"""pixels of a row of bars or marks"""
PARTS = ("busy", "waits")
"""of bars: filled, and outlined"""
AXES = {"wall_seconds": "wall time, seconds", "env_steps": "env steps"}
"""of lines"""


def made(
    name: str, title: str, layers: Sequence[Any], rows: Mapping[str, Rows], height: int, *, wide: bool = True
) -> Chart:
    """A chart as wide as its place, without Altair's own theme: the page's says how it looks.

    Checking it against the schema of Vega-Lite takes half of a report's time, so the tests do that.

    Args:
        name: the chart's id is made of it.
        rows: by the names of ``data`` that the layers draw.
    """
    chart = alt.layer(*layers).properties(width="container", height=height, description=title)
    spec = chart.to_dict(validate=False)
    del spec["config"]
    return Chart(name.replace("_", "-", 1), title, spec, rows, height + 90, wide)


def data(name: str) -> alt.Chart:
    """A chart of data that the page holds."""
    return alt.Chart(alt.NamedData(name=name))


def quantity(channel: Any, field: str, title: str | None = None, *, padding: int | None = None, **axis: Any) -> Any:
    """A quantitative axis; with ``padding`` from about the smallest value to the largest, and not from 0."""
    title = title or metric_text(field) + ", MiB" * field.endswith("_bytes")
    scale = {} if padding is None else {"scale": alt.Scale(zero=False, padding=padding)}
    return channel(f"{field}:Q", title=title, axis=alt.Axis(**{"tickCount": 5, **axis}), **scale)


def tooltip(fields: Mapping[str, str]) -> list[alt.Tooltip]:
    """Fields with their types and titles; numbers short."""
    return [
        alt.Tooltip(name, title=title, format=",.4~r" if name.endswith(":Q") else alt.Undefined)
        for name, title in fields.items()
    ]


def points(
    base: alt.Chart, rows: Rows, tips: Mapping[str, str], of: str = "role", known: Sequence[str] = MARKS, **more: Any
) -> alt.Chart:
    """A mark for each row, whose colour and shape say what it is ``of``; the legend has those of ``known`` that occur.

    Args:
        tips: fields of the tooltip, as ``tooltip`` takes them.
    """
    there = {row[of] for row in rows}
    legend = alt.Legend(title=None, orient="top", values=[kind for kind in known if kind in there])
    return base.mark_point(size=70, strokeWidth=1.6).encode(
        tooltip=tooltip(tips), color=alt.Color(f"{of}:N", scale=alt.Scale(domain=list(known)), legend=legend),
        shape=alt.Shape(f"{of}:N", scale=alt.Scale(domain=list(known), range=SHAPES[: len(known)]), legend=legend),
        **more,
    )  # fmt: skip


def row_axis(field: str, rows: Rows, **axis: Any) -> alt.Y:
    """A row for each value of a field, in the order of the data."""
    names = list(dict.fromkeys(row[field] for row in rows))
    return alt.Y(f"{field}:N", sort=names, title=None, axis=alt.Axis(**{"ticks": False, "domain": False} | axis))


def dots(
    name: str,
    title: str,
    rows: Rows,
    metric: str,
    *,
    row: str = "trial",
    of: str = "role",
    known: Sequence[str] = MARKS,
    named_above: bool = False,
) -> Chart:
    """Values side by side, a row for each ``row``, with what ``low`` to ``high`` and ``middle`` are where given.

    Args:
        name: of the chart and of its data.
        metric: field of the values.
        named_above: long names stand above their rows, in which each of ``known`` has its own height.
    """
    base, more = data(name), {}
    label = {"labelExpr": "'trial ' + datum.label"} if row == "trial" else {}
    y = row_axis(row, rows, labelLimit=170, **label)
    if named_above:
        y = row_axis(row, rows, labels=False)
        more["yOffset"] = alt.YOffset(f"{of}:N", sort=list(known), scale=alt.Scale(paddingOuter=1))
    tips = {f"{row}:N": row, f"{of}:N": "what", f"{metric}:Q": metric_text(metric)}
    layers = [points(base, rows, tips, of, known, x=quantity(alt.X, metric, padding=14), y=y, **more)]
    if any("middle" in one for one in rows):
        tick = base.transform_filter("isValid(datum.middle)").mark_tick(thickness=2.5, size=20)
        layers.insert(0, tick.encode(x="middle:Q", y=y))
    if any(one.get("low") is not None for one in rows):
        spread = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=4, opacity=0.3, strokeCap="round")
        layers.insert(0, spread.encode(x="low:Q", x2="high:Q", y=y, **more))
    if named_above:
        names = base.transform_aggregate(groupby=[row]).mark_text(align="left", dy=-24, fontSize=12)
        layers.append(names.encode(x=alt.value(2), y=y, text=f"{row}:N"))
    height = (68 if named_above else ROW) * len({one[row] for one in rows}) + 8
    return made(name, title, layers, {name: rows}, height)


def spread(common: dict[str, Any], metric: str, trial: ReportedTrial, interval: Interval | None) -> Rows:
    """The rows of ``dots`` for the repeats of a trial, with their middle and, where there is one, its interval."""
    unit, rows = scale(metric), list[Row]()
    for record in trial.having(metric):
        missed = {} if math.isfinite(record.metric(metric)) else {"role": MARKS[-1]}
        rows.append(common | {metric: finite(trial.of(record, metric) * unit)} | missed)
    ends = {"middle": trial.value(metric)}
    ends |= {} if interval is None else dict(zip(("low", "high"), interval, strict=True))
    rows[0] |= {name: finite(end * unit) for name, end in ends.items()}
    return rows


def bars(name: str, title: str, rows: Rows, across: str, *, wide: bool = True) -> Chart:
    """Parts of a whole, a row for each ``row``: each part has ``start``, ``end``, ``text`` and is one of ``PARTS``."""
    y, layers = row_axis("row", rows, labelLimit=180), list[Any]()
    x = quantity(alt.X, "start", across, format="%").scale(domain=[0, 1])
    looks: list[dict[str, Any]] = [{"fillOpacity": 0.9}, {"fillOpacity": 0.12, "strokeDash": [3, 2]}]
    for part, look in zip(PARTS, looks, strict=True):
        own = data(name).transform_filter(f"datum.part == '{part}' && datum.end > datum.start")
        own = own.transform_calculate(middle="(datum.start + datum.end) / 2")
        layers.append(own.mark_bar(strokeWidth=1.2, height={"band": 0.62}, **look).encode(
            x=x, x2="end:Q", y=y, tooltip=tooltip({"row:N": "of", "text:N": across}),
            fill=alt.Fill("part:N", scale=alt.Scale(domain=list(PARTS)), legend=None),
            stroke=alt.Stroke("part:N", scale=alt.Scale(domain=list(PARTS)), legend=None),
        ))  # fmt: skip
        text = own.transform_filter("datum.end - datum.start > 0.09")
        style = "busy-label" if part == "busy" else "label"
        layers.append(text.mark_text(fontSize=11, style=style).encode(x="middle:Q", y=y, text="text:N"))
    return made(name, title, layers, {name: rows}, ROW * len({row["row"] for row in rows}) + 8, wide=wide)


def lines(name: str, axis: str, what: str, rows: Rows, *, band: bool = False, title: str | None = None) -> Chart:
    """Lines over wall time or env steps by their names, with bands around them or their points marked.

    Args:
        name: of the chart and of its data.
        axis: one of ``AXES``.
        what: is drawn.
        title: default: what is drawn, and over which axis.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 5]][: len(names)]
    legend = None
    if len(names) > 1 or band:
        legend = alt.Legend(title=None, orient="top", columns=2, symbolType="stroke", symbolSize=400, symbolOpacity=1,
                            symbolStrokeWidth=2)  # fmt: skip
    colour = alt.Color("name:N", scale=alt.Scale(domain=names), legend=legend)
    up: dict[str, Any] = {"title": what, "scale": alt.Scale(zero=False)}
    tips = {"name:N": "of", "x:Q": AXES[axis], "y:Q": what} | ({"low:Q": "from", "high:Q": "to"} if band else {})
    layers = [
        data(name).mark_line(strokeWidth=2, point=alt.Undefined if band else alt.OverlayMarkDef(size=14)).encode(
            x=quantity(alt.X, "x", AXES[axis], format="~s" if axis == "env_steps" else ",d"), y=alt.Y("y:Q", **up),
            strokeDash=alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
            color=colour, tooltip=tooltip(tips),
        )
    ]  # fmt: skip
    if band:
        area = data(name).mark_area(opacity=0.18)
        layers.insert(0, area.encode(x="x:Q", y=alt.Y("low:Q", **up), y2="high:Q", color=colour))
    title = title or f"{what[0].upper()}{what[1:]} over {AXES[axis].partition(',')[0]}"
    return made(name, title, layers, {name: rows}, 260, wide=False)

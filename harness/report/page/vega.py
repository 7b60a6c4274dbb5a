"""Pieces that the charts share. Charts are Vega-Lite made with Altair; colours come from the page's theme."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from harness.report.page.model import Chart
from harness.report.studies import ROLES

Rows = list[dict[str, Any]]
SHAPES = ("diamond", "square", "circle")
"""of the roles, which are therefore told apart without colour as well"""
ROW = 26
"""pixels of a row of bars or intervals"""


def x(field: str, title: str, *, padding: int | None = None, **axis: Any) -> alt.X:
    """A quantitative axis; with ``padding`` from about the smallest value to the largest, and not from 0."""
    return _quantity(alt.X, field, title, padding, axis)


def y(field: str, title: str, *, padding: int | None = None, **axis: Any) -> alt.Y:
    """As ``x``."""
    return _quantity(alt.Y, field, title, padding, axis)


def _quantity(channel: Any, field: str, title: str, padding: int | None, axis: Mapping[str, Any]) -> Any:
    scale = {} if padding is None else {"scale": alt.Scale(zero=False, padding=padding)}
    return channel(f"{field}:Q", title=title, axis=alt.Axis(**{"tickCount": 5, **axis}), **scale)


def points(
    base: alt.Chart,
    across: alt.X,
    up: alt.Y,
    kinds: Sequence[str],
    tips: Mapping[str, str],
    size: int = 80,
    of: str = "role",
    known: Sequence[str] = ROLES,
    shapes: Sequence[str] = SHAPES,
    **more: Any,
) -> alt.Chart:
    """A mark for each row, whose colour and shape say what it is ``of``; the legend has the ``kinds`` that occur.

    Args:
        tips: fields of the tooltip, with their types, and their titles.
    """
    legend = alt.Legend(title=None, orient="top", values=list(kinds))
    return base.mark_point(size=size, strokeWidth=1.6).encode(
        x=across, y=up, tooltip=tooltip(tips),
        color=alt.Color(f"{of}:N", scale=alt.Scale(domain=list(known)), legend=legend),
        shape=alt.Shape(f"{of}:N", scale=alt.Scale(domain=list(known), range=list(shapes)), legend=legend), **more,
    )  # fmt: skip


def trial_axis(names: Sequence[str]) -> alt.Y:
    """A row for each trial, in this order; the data's field is ``trial``."""
    axis = alt.Axis(labelExpr="'trial ' + datum.label", ticks=False, domain=False, labelLimit=170)
    return alt.Y("trial:N", sort=list(names), title=None, axis=axis)


def tooltip(fields: Mapping[str, str]) -> list[alt.Tooltip]:
    """Fields with their titles; numbers short."""
    made = []
    for name, title in fields.items():
        short = ",.4~r" if name.endswith(":Q") else alt.Undefined
        made.append(alt.Tooltip(name, title=title, format=short))
    return made


def data(name: str) -> alt.Chart:
    """A chart of data that the page holds."""
    return alt.Chart(alt.NamedData(name=name))


def made(
    id: str, title: str, description: str, chart: Any, rows: Mapping[str, Rows], height: int, *, wide: bool = True
) -> Chart:
    """Give a chart the width of its place and take Altair's own theme away: the page's says how it looks.

    Checking it against the schema of Vega-Lite takes half of a report's time, so the tests do that.

    Args:
        rows: by the names of ``data`` that the chart draws.
    """
    spec = chart.properties(width="container", height=height, description=description).to_dict(validate=False)
    del spec["config"]
    return Chart(id, title, description, spec, rows, height + 90, wide)

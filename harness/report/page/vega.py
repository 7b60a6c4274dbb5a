"""Pieces that the charts share. Charts are Vega-Lite made with Altair; colours come from the page's theme."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from harness.report.page.model import Chart

ROLES = ("best", "baseline", "others")
SHAPES = ("diamond", "square", "circle")
"""of the roles, which are therefore told apart without colour as well"""
ROW = 26
"""pixels of a row of bars or intervals"""


def role_colour(present: Sequence[str]) -> alt.Color:
    """The theme's first colours, always the same for a role; the legend has the roles that occur."""
    return alt.Color("role:N", scale=alt.Scale(domain=list(ROLES)), legend=_roles_legend(present))


def role_shape(present: Sequence[str]) -> alt.Shape:
    """As ``role_colour``, with which it shares the legend."""
    scale = alt.Scale(domain=list(ROLES), range=list(SHAPES))
    return alt.Shape("role:N", scale=scale, legend=_roles_legend(present))


def _roles_legend(present: Sequence[str]) -> alt.Legend:
    return alt.Legend(title=None, orient="top", values=list(present))


def trial_axis(names: Sequence[str]) -> alt.Y:
    """A row for each trial, in this order; the data's field is ``trial``."""
    axis = alt.Axis(labelExpr="'trial ' + datum.label", ticks=False, domain=False, labelLimit=170)
    return alt.Y("trial:N", sort=list(names), title=None, axis=axis)


def tooltip(*fields: tuple[str, str]) -> list[alt.Tooltip]:
    """Fields with their titles; numbers short."""
    made = []
    for name, title in fields:
        quantity = name.endswith(":Q")
        made.append(alt.Tooltip(name, title=title, format=",.4~r") if quantity else alt.Tooltip(name, title=title))
    return made


def made(
    id: str,
    title: str,
    description: str,
    chart: Any,
    height: int,
    *,
    wide: bool = True,
) -> Chart:
    """Give a chart the width of its place and take Altair's own theme away: the page's says how it looks.

    Checking it against the schema of Vega-Lite takes half of a report's time, so the tests do that.
    """
    spec = chart.properties(width="container", height=height, description=description).to_dict(validate=False)
    del spec["config"]
    return Chart(id, title, description, spec, height + 90, wide)


def data(name: str) -> alt.NamedData:
    """Data that the page holds."""
    return alt.NamedData(name=name)


def log_or_linear(values: Sequence[float], log: bool) -> alt.Scale:
    """A scale for values of a setting, from the first to the last of them."""
    if log and min(values) > 0:
        return alt.Scale(type="log", nice=False, padding=12)
    return alt.Scale(zero=False, padding=12)

"""The search: which settings made the difference, as charts over all trials."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
from optuna.distributions import CategoricalDistribution

from harness.report.page import vega
from harness.report.page.model import MISSING, Chart, Section, Table, finite, percent, share
from harness.report.studies import ROLES, StudyFiles, Trial, label
from harness.study.importances import BEST_PART, importances, missing
from harness.suite.metrics import METRICS
from harness.suite.space import ends
from harness.suite.text import number_text, setting_text

LONG = 12
"""characters of a value that are written aslant below an axis"""
AXES = 24
"""settings that are shown at most"""
TOP = 10
"""trials whose lines stand out"""


def trial_rows(study: StudyFiles) -> list[dict[str, Any]]:
    """The data of all charts with one mark a trial; settings are ``p0``, ``p1``... in the order of the suite."""
    metrics = [objective.metric for objective in study.suite.objectives]
    metrics += ["env_steps_per_second", "episode_return", "policy_lag_mean", "peak_host_bytes"]
    rows = []
    for trial in study.searched:
        row: dict[str, Any] = {"trial": trial.number, "name": trial.name, "role": study.role(trial)}
        row |= {metric: finite(trial.value(metric)) for metric in metrics}
        row |= {f"p{i}": plain(trial.params.get(name)) for i, name in enumerate(study.suite.search)}
        row["settings"] = trial.settings
        rows.append(row)
    return sorted(rows, key=lambda row: -ROLES.index(row["role"]))  # the best is drawn last, above the others


def plain(value: Any) -> Any:
    """A setting's value as a chart can hold it: a number, or text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING if value is None else setting_text(value)
    return value if isinstance(value, int) else finite(value)


def searched(study: StudyFiles) -> list[tuple[int, str]]:
    """Settings that took more than one value, with their number."""
    names = enumerate(study.suite.search)
    return [(i, name) for i, name in names if len({str(t.params.get(name)) for t in study.searched}) > 1][:AXES]


def by_setting(study: StudyFiles) -> Section:
    """The objective, and throughput where it is another metric, over each setting."""
    metrics = list(dict.fromkeys([study.suite.objectives[0].metric, "env_steps_per_second"]))
    charts, rows = [], []
    measured = [trial for trial in study.searched if trial.complete]
    settings = searched(study) if len(measured) > 1 else []
    for metric in metrics:
        own = [trial for trial in measured if math.isfinite(trial.value(metric))]
        charts += [_setting_chart(study, own, i, name, metric) for i, name in settings if len(own) > 1]
    for _, name in settings:
        for value, trials in _groups(measured, name):
            values = [trial.value(metrics[0]) for trial in trials]
            values = [value for value in values if math.isfinite(value)]
            best = study.suite.objectives[0].direction == "maximize"
            values = values or [math.nan]
            rows.append([name, value, len(trials), (max if best else min)(values), statistics.median(values)])
    text = (
        "Each mark is a trial: the median of its repeats in the search. Other settings vary as well, so a column shows "
        "what went together with a value, and not what the value causes.",
    )
    if not charts:
        text = ("There is nothing to compare: fewer than two trials with different settings were measured.",)
    name = label(metrics[0])
    columns = ("setting", "value", "trials", f"best {name}", f"median {name}")
    table = Table.of("by-setting-table", f"{name[0].upper()}{name[1:]} by value of each setting", columns, rows)
    return Section("settings", "By each setting", text, tuple(charts), (table,) if rows else ())


def _groups(trials: Sequence[Trial], name: str) -> list[tuple[str, list[Trial]]]:
    """Trials by the value of a setting, at most a dozen values; a range is cut into its quarters."""
    numbers = [trial.params.get(name) for trial in trials]
    distinct = {str(number): number for number in numbers}
    if len(distinct) <= 12:
        groups = [(text, [t for t in trials if str(t.params.get(name)) == text]) for text in distinct]
        try:
            return sorted(groups, key=lambda group: (float(group[0]), ""))
        except ValueError:
            return sorted(groups)
    ordered = sorted((t for t in trials if isinstance(t.params.get(name), int | float)), key=lambda t: t.params[name])
    cuts = [round(len(ordered) * quarter / 4) for quarter in range(5)]
    parts = [ordered[a:b] for a, b in pairwise(cuts) if b > a]
    return [(f"{number_text(p[0].params[name])} to {number_text(p[-1].params[name])}", p) for p in parts]


def _setting_chart(study: StudyFiles, trials: Sequence[Trial], index: int, name: str, metric: str) -> Chart:
    dimension = study.suite.search[name]
    listed = isinstance(dimension, CategoricalDistribution)
    values = [plain(trial.params.get(name)) for trial in trials]
    quantitative = not listed and all(isinstance(v, int | float) for v in values)
    if quantitative:
        x = vega.x(f"p{index}", name, padding=12)
        if getattr(dimension, "log", False) and min(values) > 0:
            x = x.scale(type="log", nice=False, padding=12)
    else:
        choices = [plain(v) for v in ends(dimension)] if listed else sorted(set(values), key=str)
        extra = [value for value in dict.fromkeys(values) if value not in choices]
        longest = max(len(str(choice)) for choice in [*choices, *extra])
        axis = alt.Axis(labelAngle=-30 if longest > LONG else 0)  # on a phone they would overlap
        x = alt.X(f"p{index}:N", title=name, sort=[*choices, *extra], axis=axis)
    base = vega.data("trials").transform_filter(f"isValid(datum['{metric}'])")
    tips = {"name:N": "trial", f"{metric}:Q": label(metric), "settings:N": "settings"}
    marks = vega.points(base, x, vega.y(metric, label(metric), padding=8), study.roles(trials), tips, 70)
    layers = [marks]
    if not quantitative:
        middle = base.mark_tick(thickness=2, width=36, opacity=0.6).encode(x=x, y=f"median({metric}):Q")
        layers = [middle, marks]
    groups = _groups(trials, name)
    parts = [f"{value}: {number_text(statistics.median(t.value(metric) for t in group))}" for value, group in groups]
    title, described = f"{label(metric)} by {name}", f"Median {label(metric)} by {name}. {'; '.join(parts)}"
    drawn, data = alt.layer(*layers), {"trials": trial_rows(study)}
    return vega.made(f"setting-{index}-{metric}", title, described, drawn, data, 190, wide=False)


def importance(study: StudyFiles) -> Section:
    """Which settings mattered, or why that is not known."""
    title = "Importance of each setting"
    why_not = missing(study.records, study.suite)
    if why_not is not None:
        return Section("importances", title, (f"{why_not[0].upper()}{why_not[1:]}.",))
    found = importances(study.records, study.suite)
    rows = [{"setting": name, "importance": finite(part), "text": percent(part)} for name, part in found.items()]
    y = alt.Y("setting:N", sort=list(found), title=None, axis=alt.Axis(labelLimit=180))
    base = vega.data("importances").encode(x=vega.x("importance", "share of the importance", format="%"), y=y)
    bars = base.mark_bar(height={"band": 0.6})
    labels = base.mark_text(align="left", dx=4).encode(text="text:N")
    described = "; ".join(f"{name} {percent(part)}" for name, part in found.items())
    chart = vega.made(
        "importance-chart", f"Importance for {label(study.suite.objectives[0].metric)}", described,
        alt.layer(bars, labels), {"importances": rows}, vega.ROW * len(rows) + 10,
    )  # fmt: skip
    text = (
        f"How much each setting sets the best {percent(BEST_PART)} of the trials apart from all of them (PED-ANOVA). "
        "It does not show which values are better; the charts by setting do.",
    )
    cells = [(name, share(part)) for name, part in found.items()]
    table = Table.of("importance-table", "Importances", ("setting", "share"), cells)
    return Section("importances", title, text, (chart,), (table,))


def parallel(study: StudyFiles) -> Section:
    """All settings of all trials as lines from axis to axis."""
    objective = study.suite.objectives[0]
    trials = [trial for trial in study.searched if math.isfinite(trial.value(objective.metric))]
    settings = searched(study) if len(trials) > 1 else []
    title = "Parallel coordinates"
    if not settings:
        return Section("parallel", title, ("Fewer than two different configurations were measured.",))
    places = {trial.number: place for place, trial in enumerate(study.order)}
    lines: list[dict[str, Any]] = []
    ticks: list[dict[str, Any]] = []
    names = [name for _, name in settings] + [label(objective.metric)]
    values = [trial.value(objective.metric) for trial in trials]
    for row, name in enumerate(names):
        own = values if row == len(settings) else [plain(trial.params.get(name)) for trial in trials]
        positions, labels = _axis(own, study.suite.search.get(name) if row < len(settings) else None)
        ticks += [{"axis": name, "x": x, "label": text, "align": align} for x, text, align in labels]
        for trial, x, value in zip(trials, positions, own, strict=True):
            lines.append(
                {"axis": name, "row": row, "x": finite(x), "value": str(value) if isinstance(value, str)
                 else number_text(value), "trial": trial.number, "name": trial.name, "role": study.role(trial),
                 "objective": finite(trial.value(objective.metric)), "place": places.get(trial.number, len(trials))}
            )  # fmt: skip
    description = f"Settings of {len(trials)} trials; the bottom axis is {label(objective.metric)}. " + (
        f"The best, trial {study.order[0].name}: {study.order[0].settings}." if study.order else ""
    )
    chart = _parallel_chart(names, objective.metric)
    data = {"lines": lines, "ticks": ticks}
    made = vega.made("parallel-chart", "Settings of every trial", description, chart, data, 62 * len(names))
    text = (
        "A line is a trial; it crosses each axis at the value of that setting and ends at the objective in the search. "
        f"The best trial is the thick line; the lines of the next {TOP} are stronger than the rest. The table of "
        "trials has the values.",
    )
    return Section("parallel", title, text, (made,))


def _axis(values: Sequence[Any], dimension: Any) -> tuple[list[float], list[tuple[float, str, str]]]:
    """Places from 0 to 1 on an axis, and its labels with their place and alignment."""
    if all(isinstance(value, int | float) for value in values) and not isinstance(dimension, CategoricalDistribution):
        log = getattr(dimension, "log", False) and min(values) > 0
        scaled = [math.log(value) if log else value for value in values]
        low, high = min(scaled), max(scaled)
        span = high - low or 1.0
        labels = [(0.0, number_text(min(values)), "left"), (1.0, number_text(max(values)), "right")]
        return [(value - low) / span for value in scaled], labels
    listed = [plain(value) for value in ends(dimension)] if isinstance(dimension, CategoricalDistribution) else []
    there = [value for value in listed if value in values]
    choices = list(dict.fromkeys([*there, *sorted(values, key=str)]))
    last = max(len(choices) - 1, 1)
    places = {str(choice): index / last for index, choice in enumerate(choices)}
    every = math.ceil(len(choices) / 6)
    shown = [choice for index, choice in enumerate(choices) if index % every == 0]
    align = {0.0: "left", 1.0: "right"}
    labels = [(places[str(c)], str(c)[:18], align.get(places[str(c)], "center")) for c in shown]
    return [places[str(value)] for value in values], labels


def _parallel_chart(names: Sequence[str], metric: str) -> Any:
    hover = alt.selection_point(on="pointerover", fields=["trial"], nearest=True, empty=False, clear="pointerout")
    axis = alt.Axis(title=None, labels=False, ticks=False, domain=False, grid=True)
    y = alt.Y("axis:N", sort=list(names), axis=axis)
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False, padding=8))
    colour = alt.Color(
        "objective:Q", title=label(metric), legend=alt.Legend(orient="top"),
        scale=alt.Scale(reverse=METRICS[metric] == "minimize"),
    )  # fmt: skip
    base = vega.data("lines")
    top = alt.datum.place <= TOP
    lines = base.mark_line().encode(
        x=x, y=y, detail=["trial:N"], order="row:Q", color=colour,
        opacity=alt.when(hover).then(alt.value(1)).when(top).then(alt.value(0.8)).otherwise(alt.value(0.2)),
        strokeWidth=alt.when(hover).then(alt.value(4)).when(top).then(alt.value(1.8)).otherwise(alt.value(1.1)),
    )  # fmt: skip
    best = base.transform_filter("datum.role == 'best'").mark_line(strokeWidth=4)
    best = best.encode(x=x, y=y, detail="trial:N", order="row:Q", color=colour)
    points = base.mark_point(size=22, filled=True).encode(
        x=x, y=y, color=colour,
        tooltip=vega.tooltip({"name:N": "trial", "axis:N": "setting", "value:N": "value", "objective:Q": metric}),
    )  # fmt: skip
    points = points.add_params(hover)
    ticks = vega.data("ticks")
    labels = [
        ticks.transform_filter(f"datum.align == '{align}'")
        .mark_text(align=align, dy=-9, fontSize=11, style=style).encode(x=x, y=y, text="label:N")
        for align in ("left", "center", "right") for style in ("halo", "label")
    ]  # fmt: skip
    titles = [
        ticks.transform_aggregate(groupby=["axis"])
        .mark_text(align="left", dy=-24, fontSize=12, fontWeight="bold", style=style)
        .encode(x=alt.value(8), y=y, text="axis:N")
        for style in ("halo", "label")
    ]  # fmt: skip
    return alt.layer(lines, best, points, *labels, *titles)

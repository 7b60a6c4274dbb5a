"""The search: which settings made the difference, over all trials, and what has to be given up for more of a metric."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import pandas as pd
from optuna.distributions import CategoricalDistribution

from harness.report.page import charts
from harness.report.page.model import Cell, Chart, Rows, Section, Table
from harness.report.studies import DRAWN, ReportedStudy, ReportedTrial, finite, plain, scale
from harness.stats.pareto import pareto_front
from harness.study.importances import BEST_PART, importances, missing
from harness.suite.metrics import METRICS, RETURNS
from harness.suite.space import ends
from harness.suite.text import metric_text, number_text, percent_text, setting_text

LONG = 12
"""characters of a value that are written aslant below an axis"""
AXES = 24
"""settings that are shown at most"""
VALUES = 12
"""of a setting that are shown one by one; more of them are shown by quarters"""
TOP = 10
"""trials whose lines stand out"""
LABELLED = 6
"""trials on the front that have their number beside them; more would cover each other on a phone"""


def scatter(rows: Rows, x: Any, y: Any, *metrics: str, name: str = "trials") -> alt.Chart:
    """A mark for each trial that has the metrics; ``name`` is that of the data."""
    known = " && ".join(f"isValid(datum['{metric}'])" for metric in metrics)
    tips = {"name:N": "trial"} | {f"{m}:Q": metric_text(m) for m in metrics} | {"settings:N": "settings"}
    return charts.points(charts.data(name).transform_filter(known), rows, tips, x=x, y=y)


def settings_of(study: ReportedStudy) -> dict[str, str]:
    """Settings that took more than one value in the search, and their columns."""
    frame = pd.DataFrame(study.rows)
    columns = {name: f"p{index}" for index, name in enumerate(study.suite.search)}
    return dict([item for item in columns.items() if len(frame) and frame[item[1]].nunique() > 1][:AXES])


def by_setting(study: ReportedStudy) -> Section:
    """The objective, and throughput where it is another metric, over each setting."""
    objective = study.suite.objectives[0]
    frame = pd.DataFrame([row for row in study.rows if row["complete"]])
    settings = settings_of(study) if len(frame) > 1 else {}
    drawn = [
        _setting_chart(study, frame.dropna(subset=metric), column, name, metric)
        for metric in dict.fromkeys([objective.metric, "env_steps_per_second"])
        for name, column in settings.items() if frame[metric].count() > 1
    ]  # fmt: skip
    if not drawn:
        text = "There is nothing to compare: fewer than two trials with different settings were measured."
        return Section("settings", "By each setting", [text])
    rows, of = [], metric_text(objective.metric)
    for name, column in settings.items():
        for value, own in _groups(frame, column):
            values = own[objective.metric].astype(float)
            best = values.max() if objective.direction == "maximize" else values.min()
            sizes = (float(one) / scale(objective.metric) for one in (best, values.median()))
            cells = (Cell.metric(objective.metric, size) for size in sizes)
            rows.append({"setting": name, "value": value, "trials": len(own)})
            rows[-1] |= dict(zip((f"best {of}", f"median {of}"), cells, strict=True))
    text = (
        "Each mark is a trial: the median of its repeats in the search. Other settings vary as well, so a column shows "
        "what went together with a value, and not what the value causes."
    )
    table = Table.of("by-setting-table", f"{of[0].upper()}{of[1:]} by value of each setting", rows)
    return Section("settings", "By each setting", [text], drawn, [table])


def _groups(frame: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Trials by the value of a setting; of a range with many values by its quarters."""
    numbers = pd.to_numeric(frame[column], errors="coerce")
    if numbers.nunique() <= VALUES:
        for value, own in frame.groupby(column):
            yield setting_text(value), own
        return
    for value, own in frame[numbers.isna()].groupby(column):
        yield setting_text(value), own
    for _, quarter in numbers.groupby(pd.qcut(numbers.rank(method="first"), 4, labels=False)):
        yield f"{number_text(quarter.min())} to {number_text(quarter.max())}", frame.loc[quarter.index]


def _setting_chart(study: ReportedStudy, frame: pd.DataFrame, column: str, name: str, metric: str) -> Chart:
    dimension, values = study.suite.search[name], frame[column].tolist()
    title = f"{metric_text(metric)} by {name}"
    y, layers = charts.quantity(alt.Y, metric, padding=8), []
    if all(isinstance(v, int | float) for v in values) and not isinstance(dimension, CategoricalDistribution):
        x = charts.quantity(alt.X, column, name, padding=12)
        if getattr(dimension, "log", False) and min(values) > 0:
            x = x.scale(type="log", nice=False, padding=12)
    else:
        choices = list(dict.fromkeys([*_choices(dimension), *sorted(values, key=_numbers_first)]))
        longest = max(len(str(choice)) for choice in choices)
        axis = alt.Axis(labelAngle=-30 if longest > LONG else 0)  # on a phone they would overlap
        x = alt.X(f"{column}:N", title=name, sort=choices, axis=axis)
        known = charts.data("trials").transform_filter(f"isValid(datum['{metric}'])")
        middle = known.mark_tick(thickness=2, width=36, opacity=0.6)
        layers.append(middle.encode(x=x, y=f"median({metric}):Q"))
    layers.append(scatter(study.rows, x, y, metric))
    name = f"setting_{column[1:]}-{metric}"
    return charts.made(name, title, layers, {"trials": study.rows}, 190, wide=False)


def _numbers_first(value: Any) -> tuple[bool, Any]:
    """The order of values on an axis; a setting that has no effect in a trial is "not set" there."""
    return isinstance(value, str), value


def _choices(dimension: Any) -> list[Any]:
    """The values of a list, as charts have them."""
    return [plain(value) for value in ends(dimension)] if isinstance(dimension, CategoricalDistribution) else []


def importance(study: ReportedStudy) -> Section:
    """Which settings mattered, or why that is not known."""
    title = "Importance of each setting"
    why_not = missing(study.records, study.suite)
    if why_not is not None:
        return Section("importances", title, [f"{why_not[0].upper()}{why_not[1:]}."])
    found = importances(study.records, study.suite)
    rows = [
        {"row": name, "part": "busy", "start": 0, "end": finite(part), "text": percent_text(part)}
        for name, part in found.items()
    ]
    of = f"Importance for {metric_text(study.suite.objectives[0].metric)}"
    text = (
        f"How much each setting sets the best {percent_text(BEST_PART)} of the trials apart from all of them "
        "(PED-ANOVA). It does not show which values are better; the charts by setting do."
    )
    cells = [{"setting": name, "share": Cell.share(part)} for name, part in found.items()]
    table = Table.of("importance-table", "Importances", cells)
    chart = charts.bars("importance_chart", of, rows, "share of the importance")
    return Section("importances", title, [text], [chart], [table])


def parallel(study: ReportedStudy) -> Section:
    """All settings of all trials as lines from axis to axis."""
    objective, title = study.suite.objectives[0], "Parallel coordinates"
    metric, name_of_metric = objective.metric, metric_text(objective.metric)
    frame = pd.DataFrame([row for row in study.rows if row[objective.metric] is not None])
    settings = settings_of(study) if len(frame) > 1 else {}
    if not settings:
        return Section("parallel", title, ["Fewer than two different configurations were measured."])
    order = {trial.number: rank for rank, trial in enumerate(study.order)}
    frame["objective"], frame["rank"] = frame[metric], [order.get(one, len(frame)) for one in frame["trial"]]
    lines: Rows = []
    ticks: Rows = []
    for row, (name, column) in enumerate({**settings, name_of_metric: metric}.items()):
        places, labels = _axis(frame[column].tolist(), study.suite.search.get(name))
        values = frame[column].map(lambda value: value if isinstance(value, str) else number_text(value))
        own = frame[["trial", "name", "role", "objective", "rank"]].assign(axis=name, row=row, x=places, value=values)
        lines += [{str(key): one for key, one in line.items()} for line in own.to_dict("records")]
        ticks += [{"axis": name, "x": x, "label": text, "align": align} for x, text, align in labels]
    names = [*settings, name_of_metric]
    hover = alt.selection_point(on="pointerover", fields=["trial"], nearest=True, empty=False, clear="pointerout")
    across: dict[str, Any] = {
        "x": alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False, padding=8)),
        "y": alt.Y("axis:N", sort=names, axis=alt.Axis(title=None, labels=False, ticks=False, domain=False, grid=True)),
    }
    legend, scale = alt.Legend(orient="top"), alt.Scale(reverse=objective.direction == "minimize")
    line = across | {"detail": "trial:N", "order": "row:Q"}
    line["color"] = alt.Color("objective:Q", title=name_of_metric, legend=legend, scale=scale)
    top, base = alt.datum.rank <= TOP, charts.data("lines")
    tips = {"name:N": "trial", "axis:N": "setting", "value:N": "value", "objective:Q": name_of_metric}
    layers: list[Any] = [
        base.mark_line().encode(
            opacity=alt.when(hover).then(alt.value(1)).when(top).then(alt.value(0.8)).otherwise(alt.value(0.2)),
            strokeWidth=alt.when(hover).then(alt.value(4)).when(top).then(alt.value(1.8)).otherwise(alt.value(1.1)),
            **line,
        ),
        base.transform_filter("datum.role == 'best'").mark_line(strokeWidth=4).encode(**line),
        base.mark_point(size=22, filled=True).encode(color=line["color"], tooltip=charts.tooltip(tips), **across)
        .add_params(hover),
    ]  # fmt: skip
    for style in ("halo", "label"):
        for align in ("left", "center", "right"):
            aligned = charts.data("ticks").transform_filter(f"datum.align == '{align}'")
            text = aligned.mark_text(align=align, dy=-9, fontSize=11, style=style)
            layers.append(text.encode(text="label:N", **across))
        once = charts.data("ticks").transform_aggregate(groupby=["axis"])
        text = once.mark_text(align="left", dy=-24, fontSize=12, fontWeight="bold", style=style)
        layers.append(text.encode(x=alt.value(8), y=across["y"], text="axis:N"))
    data = {"lines": lines, "ticks": ticks}
    chart = charts.made("parallel_chart", "Settings of every trial", layers, data, 62 * len(names))
    said = (
        "A line is a trial; it crosses each axis at the value of that setting and ends at the objective in the search. "
        f"The best trial is the thick line; the lines of the next {TOP} are stronger than the rest. The table of "
        "trials has the values."
    )
    return Section("parallel", title, [said], [chart])


def _axis(values: Sequence[Any], dimension: Any) -> tuple[list[float], list[tuple[float, str, str]]]:
    """Places from 0 to 1 on an axis, and its labels with their place and alignment."""
    choices = _choices(dimension)
    if not choices and all(isinstance(value, int | float) for value in values):
        log = getattr(dimension, "log", False) and min(values) > 0
        scaled = [math.log(value) if log else value for value in values]
        low, span = min(scaled), max(scaled) - min(scaled) or 1.0
        labels = [(0.0, number_text(min(values)), "left"), (1.0, number_text(max(values)), "right")]
        return [finite((value - low) / span) or 0.0 for value in scaled], labels
    there = [choice for choice in choices if choice in values]
    all_ = list(dict.fromkeys([*there, *sorted(values, key=_numbers_first)]))
    places = {choice: index / max(len(all_) - 1, 1) for index, choice in enumerate(all_)}
    shown = list(places.items())[:: math.ceil(len(all_) / 6)]
    align = {0.0: "left", 1.0: "right"}
    return [places[v] for v in values], [(x, str(choice)[:18], align.get(x, "center")) for choice, x in shown]


def front(trials: Sequence[ReportedTrial], metrics: Sequence[tuple[str, str]]) -> list[ReportedTrial]:
    """Trials that no other one beats in every metric (name, direction), by the first metric."""
    scores = {
        trial.number: [trial.value(name) * (1 if direction == "maximize" else -1) for name, direction in metrics]
        for trial in trials
    }
    best = pareto_front({number: own for number, own in scores.items() if all(map(math.isfinite, own))})
    return sorted((trial for trial in trials if trial.number in best), key=lambda trial: scores[trial.number][0])


def pareto(study: ReportedStudy) -> Section:
    """The front of the first two objectives; of a single one, of it and what it usually costs.

    Several objectives are shown as the confirmation measured them where it did, because that decided about the front.
    """
    objectives = [(one.metric, str(one.direction)) for one in study.suite.objectives]
    several = len(objectives) > 1
    confirmed = [trial for trial in study.trials if trial.confirmed and several]
    every = confirmed or study.searched
    data, rows = ("confirmed", study.rows_of(confirmed)) if confirmed else ("trials", study.rows)
    title, frame = "Pareto front", pd.DataFrame(rows)
    others = objectives[1:] or [(name, METRICS[name]) for name in DRAWN]
    if objectives[0][0] in RETURNS and not several:  # one return against another says nothing
        others = [other for other in others if other[0] not in RETURNS]
    candidates = [o for o in others if o[0] != objectives[0][0] and len(frame) and frame[o[0]].nunique() > 1]
    if not candidates or not frame[objectives[0][0]].count():
        what = "second objective in which trials differ" if several else "second metric with values"
        return Section("pareto", title, [f"There is no {what} to set against the first objective."])
    pair = [objectives[0], candidates[0]]
    (first, _), (second, _) = pair
    ranked = {trial.number for trial in study.order}
    trials = [t for t in every if math.isfinite(t.value(first)) and math.isfinite(t.value(second))]
    best, beaten = [t for t in trials if t.number in ranked], False
    if several:  # their order is the front
        best.sort(key=lambda trial: trial.value(first), reverse=pair[0][1] == "minimize")
    else:
        best = front(best, pair)
        if study.order and study.order[0].number not in [trial.number for trial in best]:
            best, beaten = [], True
    single = "The suite has one objective, which is shown here beside another metric."
    more = len(objectives) > len(pair)
    text = f"These are two of {len(objectives)} objectives." if more else "These are the objectives."
    text = text if several else single
    text += f" All values are those of the {confirmed[0].measured if confirmed else 'search'}. "
    text += "; ".join(f"{metric_text(m)}: {'more' if d == 'maximize' else 'less'} is better" for m, d in pair) + ". "
    if beaten:
        text += (
            "No front is drawn: others beat the best in both by these values, and the confirmation decided otherwise."
        )
    elif more:
        text += f"The table has the {len(best)} of {len(trials)} trials that no other trial beats in all objectives."
    else:
        text += f"The line joins the {len(best)} of {len(trials)} trials that no other trial beats in both."
    names = [metric_text(metric) for metric, _ in pair]
    cells = [
        {"trial": t.name} | {metric_text(m): Cell.metric(m, t.value(m)) for m, _ in pair} | {"settings": t.settings}
        for t in reversed(best)
    ]
    tables = [Table.of("pareto-table", "Trials on the front", cells)] if best else []
    x, y = (charts.quantity(c, m, padding=12) for c, m in ((alt.X, second), (alt.Y, first)))
    numbers = [trial.number for trial in best]
    on_front = charts.data(data).transform_filter(alt.FieldOneOfPredicate(field="trial", oneOf=numbers))
    line = on_front.mark_line(strokeWidth=1.5, strokeDash=[5, 4]).encode(x=x, y=y, order=f"{first}:Q")
    layers = [*([] if more else [line]), scatter(rows, x, y, first, second, name=data)]
    if len(numbers) <= LABELLED:
        layers.append(on_front.mark_text(dy=-12, fontSize=11).encode(x=x, y=y, text="trial:N"))
    chart = charts.made("pareto_chart", f"{names[0]} and {names[1]}", layers, {data: rows}, 320)
    return Section("pareto", title, [text], [chart], tables)

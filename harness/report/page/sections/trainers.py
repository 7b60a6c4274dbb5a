"""Several studies side by side: their best configurations, settings and machines."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from harness.report.finding import Finding, change_of, conclude
from harness.report.page import vega
from harness.report.page.model import MISSING, Chart, Code, Page, Section, Table, finite
from harness.report.page.sections import reproduce as provenance
from harness.report.studies import StudyFiles, label
from harness.report.terminal import train_command
from harness.suite.text import number_text


def comparison(studies: Sequence[StudyFiles]) -> Page:
    """The page of ``report STUDY STUDY...``; nothing is tested here, ``compare`` does that."""
    names = labels(studies)
    found = [conclude(study.suite, study.records) for study in studies]
    charts: list[Chart] = []
    for metric in dict.fromkeys(one.metric for one in found):
        rows = _rows(studies, names, found, metric)
        for index, how in enumerate(dict.fromkeys(row["measured"] for row in rows)):  # numbers of one kind to a chart
            name = f"{metric}_{index}" if index else metric
            charts.append(_chart(metric, name, how, [row for row in rows if row["measured"] == how]))
    machines = {str(study.manifest.get("machine_name", provenance.UNKNOWN)) for study in studies}
    text = [
        "The best configuration of each study and its baseline, each as its own study measured it. This page does not "
        "test whether two of them differ by more than chance; the verb compare does. Intervals are drawn from six "
        "repeats on: of the median, 95 %."
    ]
    if len(machines) > 1:
        text.append(f"These are {len(machines)} machines: what differs between them is not the code alone.")
    best = Section("best", "Best of each study", tuple(text), tuple(charts), (_overview(studies, names, found),))
    sections = (best, _settings(studies, names, found), _machines(studies, names), _commands(studies, names))
    subtitle = ", ".join(dict.fromkeys(study.suite.name for study in studies))
    return Page(f"{len(studies)} studies side by side", subtitle, None, sections)


def labels(studies: Sequence[StudyFiles]) -> list[str]:
    """Names of studies that tell them apart: with their machine, or their folder, where they have to."""
    names = [study.name for study in studies]
    machines = [f"{n} on {s.manifest.get('machine_name', '?')}" for n, s in zip(names, studies, strict=True)]
    for chosen in (names, machines):
        if len(set(chosen)) == len(studies):
            return chosen
    return [str(study.folder) for study in studies]


def _overview(studies: Sequence[StudyFiles], names: Sequence[str], found: Sequence[Finding]) -> Table:
    columns = ("study", "metric", "best", "low", "high", "baseline", "gain", "measured", "trials",
               "limited by", "machine", "commit", "run")  # fmt: skip
    rows = []
    for study, name, one in zip(studies, names, found, strict=True):
        best, baseline = study.trial(one.best), study.trial(one.baseline)
        interval = (best.interval(one.metric) if best else None) or (None, None)
        commit = str(study.manifest.get("commit") or provenance.UNKNOWN)[:12]
        rows.append(
            (name, label(one.metric), best.value(one.metric) if best else None, *interval,
             baseline.value(one.metric) if baseline else None, change_of(one),
             best.measured if best else MISSING, len(study.trials),
             (one.limited_by or study.limited_by(best)) if best else "nothing was measured to its end",
             str(study.manifest.get("machine_name", provenance.UNKNOWN)),
             commit + (" with changes" if study.manifest.get("dirty") else ""), study.last_run or MISSING)
        )  # fmt: skip
    return Table.of("overview-table", "Best of each study", columns, rows)


def _rows(
    studies: Sequence[StudyFiles], names: Sequence[str], found: Sequence[Finding], metric: str
) -> list[dict[str, Any]]:
    rows = []
    for study, name, one in zip(studies, names, found, strict=True):
        chosen = {"baseline": study.trial(one.baseline), "best": study.trial(one.best)}
        for role, trial in chosen.items():
            if one.metric == metric and trial is not None and math.isfinite(trial.value(metric)):
                interval = trial.interval(metric)
                rows.append({"study": name, "role": role, "value": finite(trial.value(metric)), "trial": trial.name,
                             "measured": trial.measured, "low": finite(interval.low) if interval else None,
                             "high": finite(interval.high) if interval else None})  # fmt: skip
    return rows


def _chart(metric: str, name: str, how: str, rows: Sequence[dict[str, Any]]) -> Chart:
    studies = list(dict.fromkeys(row["study"] for row in rows))
    base = vega.data(f"best_{name}")
    y = alt.Y("study:N", sort=studies, title=None, axis=alt.Axis(labels=False, ticks=False, domain=False))
    offset = alt.YOffset("role:N", sort=["best", "baseline"], scale=alt.Scale(paddingOuter=1))
    x = vega.x("value", label(metric), padding=14)
    tips = {"study:N": "study", "trial:N": "trial", "value:Q": label(metric)}
    spread = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=4, opacity=0.3, strokeCap="round")
    points = vega.points(base, x, y, ["best", "baseline"], tips, yOffset=offset)
    names = base.transform_filter("datum.role == 'best'").mark_text(align="left", dy=-24, fontSize=12)
    layers = [points, names.encode(x=alt.value(2), y=y, text="study:N")]
    if any(row["low"] is not None for row in rows):
        layers.insert(0, spread.encode(x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=offset))
    described = "; ".join(f"{row['study']} {row['role']} {number_text(row['value'])}" for row in rows)
    title = f"{label(metric)} of best and baseline ({how})"
    return vega.made(
        f"best-{name}", title, described, alt.layer(*layers), {f"best_{name}": list(rows)}, 68 * len(studies)
    )


def _settings(studies: Sequence[StudyFiles], names: Sequence[str], found: Sequence[Finding]) -> Section:
    best = [study.trial(one.best) for study, one in zip(studies, found, strict=True)]
    own = [s.suite.fixed | (trial.params if trial else {}) for s, trial in zip(studies, best, strict=True)]
    own = [{"trainer": s.suite.trainer, "env": s.suite.env} | one for s, one in zip(studies, own, strict=True)]
    keys = list(dict.fromkeys(key for one in own for key in one))
    rows = []
    for key in keys:
        texts = [str(one.get(key, MISSING)) for one in own]
        rows.append((key, *texts, "same" if len(set(texts)) == 1 else "differs"))
    text = ("Fixed and searched settings. A dash is a setting that a study does not name: the trainer's default.",)
    table = Table.of("settings-table", "Settings of the best configurations", ("setting", *names, "compared"), rows)
    return Section("settings", "Settings", text, (), (table,))


def _machines(studies: Sequence[StudyFiles], names: Sequence[str]) -> Section:
    described = [dict(provenance.rows(study.manifest.get("machine") or {})) for study in studies]
    rows = [(key, *(one[key] for one in described)) for key in described[0]]
    table = Table.of("machines-table", "What each study was measured on", ("what", *names), rows, sortable=False)
    return Section("machines", "Machines", (), (), (table,))


def _commands(studies: Sequence[StudyFiles], names: Sequence[str]) -> Section:
    code = tuple(
        Code(f"Train with the best of {name}", train_command(study.folder / "best.yaml"))
        for study, name in zip(studies, names, strict=True)
        if study.best
    )
    return Section("commands", "Train with them", (), (), (), code)

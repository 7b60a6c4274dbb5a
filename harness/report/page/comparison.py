"""Several studies side by side: their best configurations, settings and machines."""

import math
from collections.abc import Sequence
from typing import Any

from harness.report.finding import change_of, conclude
from harness.report.page import charts
from harness.report.page.first_screen import train_command
from harness.report.page.model import MISSING, Cell, Chart, Code, Page, Rows, Section, Table
from harness.report.page.provenance import UNKNOWN, described
from harness.report.studies import ReportedStudy, finite, scale
from harness.suite.text import metric_text


def comparison(studies: Sequence[ReportedStudy]) -> Page:
    """The page of ``report STUDY STUDY...``; nothing is tested here, ``compare`` does that."""
    studies = [view for study in studies for view in study.by_task]
    names = labels(studies)
    found = [conclude(study.suite, study.records) for study in studies]
    best = [study.trial(one.best) for study, one in zip(studies, found, strict=True)]
    every = list(zip(names, studies, found, best, strict=True))
    rows, drawn = [], dict[tuple[str, str], Rows]()
    for name, study, one, trial in every:
        metric = one.metric
        for role, shown in (("baseline", study.trial(one.baseline)), ("best", trial)):
            if shown is not None and math.isfinite(shown.value(metric)):  # numbers of one kind to a chart
                low, high = shown.interval(metric) or (math.nan, math.nan)
                ends = {metric: shown.value(metric), "low": low, "high": high}
                row: dict[str, Any] = {"study": name, "role": role, "trial": shown.name, "measured": shown.measured}
                row |= {field: finite(value * scale(metric)) for field, value in ends.items()}
                drawn.setdefault((metric, shown.measured), []).append(row)
        dirty = study.manifest.get("dirty")
        low, high = (trial and trial.interval(metric)) or (math.nan, math.nan)
        rows.append({
            "study": name, "metric": metric_text(metric), "best": Cell.metric(metric, one.value),
            "low": Cell.metric(metric, low), "high": Cell.metric(metric, high),
            "baseline": Cell.metric(metric, one.baseline_value), "gain": trial and change_of(one),
            "measured": trial.measured if trial else MISSING, "trials": len(study.trials),
            "limited by": study.limited_by(trial) if trial else "nothing was measured to its end",
            "machine": str(study.manifest.get("machine_name", UNKNOWN)),
            "commit": str(study.manifest.get("commit") or UNKNOWN)[:12] + " with changes" * bool(dirty),
            "run": study.last_run or MISSING,
        })  # fmt: skip
    overview = Table.of("overview-table", "Best of each study", rows)
    figures: list[Chart] = []
    for (metric, how), own in drawn.items():
        again = sum(figure.id.startswith(f"best-{metric}") for figure in figures)
        title = f"{metric_text(metric)} of best and baseline ({how})"
        name = f"best_{metric}_{again}" if again else f"best_{metric}"
        kinds = ("best", "baseline")
        figures.append(charts.dots(name, title, own, metric, row="study", known=kinds, named_above=True))
    text = [
        "The best configuration of each study and its baseline, each as its own study measured it. This page does not "
        "test whether two of them differ by more than chance; the verb compare does. Intervals are drawn from six "
        "repeats on: of the median, 95 %."
    ]
    if (count := len({study.manifest.get("machine_name") for study in studies})) > 1:
        text.append(f"These are {count} machines: what differs between them is not the code alone.")
    settings = [
        {"trainer": study.suite.trainer, "env": study.suite.env} | study.suite.fixed | (trial.params if trial else {})
        for _, study, _, trial in every
    ]
    machines = [described(study) for study in studies]
    sections = [
        Section("best", "Best of each study", text, figures, [overview]),
        Section("settings", "Settings", ["Fixed and searched settings. A dash is a setting that a study does not name: "
                "the trainer's default."], (), [_beside("settings", "Settings of the best", names, settings)]),
        Section("machines", "Machines", (), (), [_beside("machines", "Measured on", names, machines)]),
        Section("commands", "Train with them", (), (), (), [
            Code(f"Train with the best of {name}", train_command(study.folder / "best.yaml"))
            for name, study, *_ in every if study.best
        ]),
    ]  # fmt: skip
    subtitle = ", ".join(dict.fromkeys(study.suite.name for study in studies))
    return Page(f"{len(studies)} studies side by side", subtitle, None, sections)


def labels(studies: Sequence[ReportedStudy]) -> list[str]:
    """Names of studies that tell them apart: with their machine, or their folder, where they have to."""
    names = [study.name for study in studies]
    machines = [f"{n} on {s.manifest.get('machine_name', '?')}" for n, s in zip(names, studies, strict=True)]
    for chosen in (names, machines):
        if len(set(chosen)) == len(studies):
            return chosen
    return [f"{study.folder}{study.where}" for study in studies]


def _beside(id: str, caption: str, names: Sequence[str], contents: Sequence[dict]) -> Table:
    """What each study has under each key, and whether it is the same."""
    rows = []
    for key in dict.fromkeys(key for content in contents for key in content):
        texts = [str(content.get(key, MISSING)) for content in contents]
        compared = "same" if len(set(texts)) == 1 else "differs"
        rows.append([Cell.of(text) for text in (key, *texts, compared)])
    return Table(f"{id}-table", caption, ("what", *names, "compared"), rows)

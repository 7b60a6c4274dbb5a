"""A study's page: every section in its order, and the data of all charts."""

import math
from collections.abc import Sequence
from typing import Any

from harness.report.page.model import Cell, Page, Section, Table, mebibytes, share
from harness.report.page.sections import problems, search, time_use
from harness.report.page.sections import reproduce as provenance
from harness.report.page.sections.curves import learning_curves
from harness.report.page.sections.headline import difference_text, headline
from harness.report.page.sections.memory import measured, memory
from harness.report.page.sections.tradeoff import pareto
from harness.report.studies import StudyFiles, Trial, label
from harness.suite.metrics import RETURNS
from harness.suite.text import setting_text


def page(study: StudyFiles, *, watched: str | None = None) -> Page:
    """All that there is to say about a study; ``watched`` says how far it is while it runs."""
    sections = (
        search.by_setting(study), search.importance(study), search.parallel(study), pareto(study),
        learning_curves(study), time_use.busy(study), time_use.prediction(study), memory(study),
        problems.unsuccessful(study), problems.unsteady(study), all_trials(study), provenance.machine(study),
        provenance.reproduce(study),
    )  # fmt: skip
    suite, began = study.suite, study.last_run
    subtitle = f"{suite.trainer} on {suite.env}, study {study.folder.resolve().name}"
    subtitle += f", run {began.replace('T', ' ').removesuffix('+00:00')} UTC" if began else ""
    return Page(suite.name, subtitle, headline(study), sections, str(study.folder), watched)


def all_trials(study: StudyFiles) -> Section:
    """Every trial with its metrics and settings."""
    objectives = [objective.metric for objective in study.suite.objectives]
    metrics = [*objectives, "env_steps_per_second", "episode_return", "policy_lag_mean"]
    metrics = [m for m in dict.fromkeys(metrics) if m in objectives or any(t.values(m) for t in study.trials)]
    names = list(dict.fromkeys(name for trial in study.trials for name in [*study.suite.search, *trial.params]))
    searched = {trial.number: trial for trial in study.searched}
    confirmed = {trial.number: trial for trial in study.trials if trial.confirmed}
    places = {trial.number: place for place, trial in enumerate(study.order, 1)}
    ordered = [*study.order, *(trial for trial in study.trials if trial.number not in places)]
    views = (searched, confirmed) if confirmed else (searched,)
    rows = [_row(trial, views, metrics, names, places.get(trial.number)) for trial in ordered]
    first = label(metrics[0])
    again = (f"{first}, confirmed", "confirmed against baseline") if confirmed else ()
    columns = ("trial", "state", "place", first, "against baseline", *again, *(label(m) for m in metrics[1:]),
               "collector busy", "learner busy", "peak host memory", "repeats", *names)  # fmt: skip
    place = "Place is the order within the constraints" + (", on the Pareto front" if len(objectives) > 1 else "") + "."
    text = [f"Medians of the repeats of the search. {place}"]
    if confirmed:
        how = next(iter(confirmed.values())).kind
        text.append(
            f"Beside them are the medians of the confirmation, measured {how}. Compare those with each other only."
        )
    tables = (Table.of("trials-table", "All trials", columns, rows),) if rows else ()
    return Section("trials", "All trials", tuple(text) if rows else ("No trial has been recorded yet.",), (), tables)


def _row(
    trial: Trial, views: Sequence[dict[int, Trial]], metrics: Sequence[str], names: Sequence[str], place: int | None
) -> list[Any]:
    """``views``: the trials as the search measured them, and as the confirmation did."""
    values = [cell for view in views for cell in _against_baseline(view, trial, metrics[0])]
    once = views[0].get(trial.number, trial)
    state = trial.state + (", confirmed" if trial.confirmed else "")
    return [
        Cell(trial.name, trial.number), state, place, *values, *(once.value(m) for m in metrics[1:]),
        share(once.value("collector_busy_fraction")), share(once.value("learner_busy_fraction")),
        mebibytes(measured(once)), Cell(f"{len(trial.complete)}/{len(trial.counted)}", len(trial.complete)),
        *(_setting(trial.params[name]) if name in trial.params else None for name in names),
    ]  # fmt: skip


def _against_baseline(view: dict[int, Trial], trial: Trial, metric: str) -> tuple[Any, Cell]:
    """A value, and what it is over the baseline's that was measured in the same way."""
    if trial.number not in view:
        return None, share(math.nan)
    value = view[trial.number].value(metric)
    if trial.baseline:
        return value, Cell("baseline", 0.0)
    base = next((other.value(metric) for other in view.values() if other.baseline), math.nan)
    if metric in RETURNS or base <= 0:  # a ratio means nothing
        change = value - base
        return value, Cell(difference_text(change, ratio=False), change) if math.isfinite(change) else share(math.nan)
    return value, share(value / base - 1, sign=True)


def _setting(value: Any) -> Cell:
    """A setting, which sorts as the number or the text that it is."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(setting_text(value), value if number else setting_text(value).lower())

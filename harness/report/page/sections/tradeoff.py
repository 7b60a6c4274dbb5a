"""The Pareto front: what has to be given up of one metric for more of another."""

import math
from collections.abc import Sequence

import altair as alt

from harness.report.page import vega
from harness.report.page.model import Chart, Section, Table, percent
from harness.report.page.sections.search import trial_rows
from harness.report.studies import StudyFiles, Trial, label
from harness.stats.pareto import dominates
from harness.suite.metrics import METRICS, RETURNS

LABELLED = 6
"""trials on the front that have their number beside them; more would cover each other on a phone"""


def front(trials: Sequence[Trial], metrics: Sequence[tuple[str, str]]) -> list[Trial]:
    """Trials that no other one beats in every metric (name, direction), by the first metric."""

    def scores(trial: Trial) -> list[float]:
        return [trial.value(name) * (1 if direction == "maximize" else -1) for name, direction in metrics]

    valued = [(trial, scores(trial)) for trial in trials]
    valued = [(trial, own) for trial, own in valued if all(math.isfinite(value) for value in own)]
    best = [(trial, own) for trial, own in valued if not any(dominates(other, own) for _, other in valued)]
    return [trial for trial, _ in sorted(best, key=lambda pair: pair[1][0])]


def pareto(study: StudyFiles) -> Section:
    """The front of the first two objectives; of a single one, of it and what it usually costs."""
    pair = _pair(study)
    title = "Pareto front"
    if pair is None:
        return Section("pareto", title, ("There is no second metric with values to set against the objective.",))
    (first, up), (second, right) = pair
    feasible = {trial.number for trial in study.order} if len(study.suite.objectives) == 1 else None
    trials = [t for t in study.searched if math.isfinite(t.value(first)) and math.isfinite(t.value(second))]
    allowed = [t for t in trials if feasible is None or t.number in feasible]
    best = front(allowed, pair)
    chosen = len(study.suite.objectives) > 1
    single = "The suite has one objective, which is shown here beside another metric."
    why = "These are the objectives." if chosen else single
    text = (
        f"{why} All values are those of the search. {label(first)}: {_better(up)}; {label(second)}: {_better(right)}. "
        f"The line joins the {len(best)} of {len(trials)} trials that no other trial beats in both.",
    )
    rows = [(t.name, t.value(first), t.value(second), t.settings) for t in reversed(best)]
    table = Table.of("pareto-table", "Trials on the front", ("trial", label(first), label(second), "settings"), rows)
    return Section("pareto", title, text, (_chart(study, trials, best, pair),), (table,))


def _better(direction: str) -> str:
    return "more is better" if direction == "maximize" else "less is better"


def _pair(study: StudyFiles) -> tuple[tuple[str, str], tuple[str, str]] | None:
    objectives = [(objective.metric, str(objective.direction)) for objective in study.suite.objectives]
    others = [(name, METRICS[name]) for name in ("episode_return", "env_steps_per_second", "policy_lag_mean",
                                                "peak_host_bytes")]  # fmt: skip
    if objectives[0][0] in RETURNS:  # one return against another says nothing
        others = [other for other in others if other[0] not in RETURNS]
    for candidate in [*objectives[1:], *others]:
        values = {trial.value(candidate[0]) for trial in study.searched if math.isfinite(trial.value(candidate[0]))}
        if candidate[0] != objectives[0][0] and len(values) > 1:
            return objectives[0], (candidate[0], str(candidate[1]))
    return None


def _chart(study: StudyFiles, trials: Sequence[Trial], best: Sequence[Trial], pair: Sequence[tuple[str, str]]) -> Chart:
    (first, _), (second, _) = pair
    y, x = (
        vega.y(first, label(first), padding=12, tickCount=alt.Undefined),
        vega.x(second, label(second), padding=12, tickCount=6),
    )
    both = f"isValid(datum['{first}']) && isValid(datum['{second}'])"
    base = vega.data("trials").transform_filter(both)
    numbers = [trial.number for trial in best]
    on_front = base.transform_filter(alt.FieldOneOfPredicate(field="trial", oneOf=numbers))
    tips = {"name:N": "trial", f"{first}:Q": label(first), f"{second}:Q": label(second), "settings:N": "settings"}
    layers = [
        on_front.mark_line(strokeWidth=1.5, strokeDash=[5, 4]).encode(x=x, y=y, order=f"{first}:Q"),
        vega.points(base, x, y, study.roles(trials), tips),
    ]
    if len(numbers) <= LABELLED:
        layers.append(on_front.mark_text(dy=-12, fontSize=11).encode(x=x, y=y, text="trial:N"))
    share = percent(len(best) / max(len(trials), 1))
    described = f"{label(first)} over {label(second)} of {len(trials)} trials; {share} of them are on the front"
    title, data = f"{label(first)} and {label(second)}", {"trials": trial_rows(study)}
    return vega.made("pareto-chart", title, described, alt.layer(*layers), data, 320)

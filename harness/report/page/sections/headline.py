"""The first screen: the best configuration, what it gains, what limits it now, and the command that uses it."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from harness.report.finding import Answer as Found
from harness.report.finding import answer, confidence, doubts
from harness.report.page import vega
from harness.report.page.model import MINUS, MISSING, Answer, Chart, Table, finite, percent
from harness.report.page.sections.search import role, roles
from harness.report.page.sections.time_use import leaders, verdict
from harness.report.page.trials import Trial, label, scale
from harness.report.studies import StudyFiles
from harness.report.terminal import train_command
from harness.stats.inference import POWER, Interval
from harness.suite.metrics import RETURNS
from harness.suite.text import number_text

SHOWN = 6
"""trials whose repeats are drawn"""


def headline(study: StudyFiles) -> tuple[Answer, list[dict[str, Any]]]:
    """The answer, and the data of its chart."""
    found = answer(study.suite, study.records)
    by_number = {trial.number: trial for trial in study.trials}
    best = None if found.best is None else by_number[found.best]
    baseline = None if found.baseline is None else by_number.get(found.baseline)
    charts, rows = _evidence(study, found.metric)
    text, unit = _largest(found)
    facts = tuple(_facts(study, found, best))
    if best is None:
        return Answer(text, unit, found.claim, facts, None, None, charts), rows
    command = train_command(study.folder / "best.yaml") if study.best else None
    return Answer(text, unit, found.claim, facts, command, _settings(study, best, baseline), charts), rows


def _largest(found: Found) -> tuple[str, str]:
    """What stands largest, and what it counts: a gain only where the measurements show one."""
    name = label(found.metric)
    if found.best is None:
        return "No result", "no trial was measured to its end within the constraints"
    if found.shown:
        change = difference_text(found.difference) if found.gain is None else gain_text(found.gain)
        return change, f"{name} against the baseline"
    value = number_text(found.value * scale(found.metric))
    return value, f"{name}{', the baseline' if found.best == found.baseline else ''}"


def gain_text(value: float | None) -> str:
    return MISSING if value is None else percent(value, sign=True, digits=1)


def difference_text(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{'+' if value >= 0 else MINUS}{number_text(abs(value))}"


def change_text(found: Found) -> str:
    """What the best has over the baseline, with its interval or why there is none."""
    if found.best == found.baseline:
        return "none: the best is the baseline"
    if found.gain is None and found.difference is None:
        return "not known: the two were not both measured"
    if found.gain is not None:
        text, interval, write = gain_text(found.gain), found.gain_interval, gain_text
    else:
        text, interval, write = difference_text(found.difference), found.difference_interval, difference_text
    if interval is not None:
        return (
            f"{text}, {confidence(found)} interval {write(interval.low)} to {write(interval.high)}, {found.pairs} pairs"
        )
    pairs = f"only {found.pairs} pair{'s' if found.pairs != 1 else ''}" if found.confirmed else "not confirmed"
    return f"{text}, no interval: {pairs}"


def _facts(study: StudyFiles, found: Found, best: Trial | None) -> Iterator[tuple[str, str]]:
    name = label(found.metric)
    if best is not None:
        yield "Gain", change_text(found)
        yield "Limited now by", found.limited_by or verdict(study, best)
        number = f"trial {best.number}: "
        yield "Measured", f"{best.measured}; the search's numbers are below"
        yield "Best", number + _side(found.value, found.value_interval, found.points, found.metric) + f" {name}"
        if found.best != found.baseline and found.baseline is not None:
            sides = (found.baseline_value, found.baseline_interval, found.baseline_points)
            yield "Baseline", f"{_side(*sides, found.metric)} {name}"
        if found.smallest_effect is not None:
            seen = percent(found.smallest_effect, digits=1) if found.ratio else number_text(found.smallest_effect)
            yield "Could be seen", f"a change of {seen}, with a probability of {POWER:.0%}"
        if care := doubts(found):
            yield "With care", care
    unmeasured = sum(not trial.complete for trial in study.trials)
    searched = f"{len(study.trials)} trials, {len(study.records)} repeats"
    yield "Looked at", searched + (f"; {unmeasured} without a result" if unmeasured else "")


def _side(value: float, interval: Interval | None, points: Sequence[float], metric: str) -> str:
    """A value with what is known of its spread."""
    text = number_text(value * scale(metric))
    if interval is not None:
        low, high = (number_text(end * scale(metric)) for end in interval)
        return f"{text} ({low} to {high}, 95 % interval of {len(points)} repeats)"
    if len(points) > 1:
        low, high = (number_text(end * scale(metric)) for end in (min(points), max(points)))
        return f"{text} ({len(points)} repeats from {low} to {high})"
    return f"{text} (one repeat)"


def _settings(study: StudyFiles, best: Trial, baseline: Trial | None) -> Table:
    names = list(dict.fromkeys([*study.suite.search, *best.params]))
    rows = []
    for name in names:
        own = _text(best.params.get(name))
        before = _text(baseline.params.get(name)) if baseline is not None else MISSING
        rows.append((name, own, "same" if own == before else before))
    columns = ("setting", "best", "baseline")
    return Table.of("best-settings", "Settings of the best configuration", columns, rows, sortable=False)


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _evidence(study: StudyFiles, metric: str) -> tuple[tuple[Chart, ...], list[dict[str, Any]]]:
    """Every repeat of what was confirmed, or else of the best trials and the baseline, with medians and intervals."""
    trials = [trial for trial in leaders(study, SHOWN) if trial.values(metric)]
    confirmed = any(trial.confirmed for trial in trials)
    trials = [trial for trial in trials if trial.confirmed == confirmed]
    if len(trials) < 2 and not any(len(trial.values(metric)) > 1 for trial in trials):
        return (), []
    rows, parts = [], []
    for trial in trials:
        values, interval = trial.values(metric), trial.interval(metric)
        common = {"trial": trial.name, "role": role(study, trial), "middle": finite(trial.value(metric)),
                  "low": finite(interval.low) if interval else None,
                  "high": finite(interval.high) if interval else None}  # fmt: skip
        rows += [common | {"value": finite(value), "first": index == 0} for index, value in enumerate(values)]
        between = f" ({number_text(interval.low)} to {number_text(interval.high)})" if interval else ""
        parts.append(f"trial {trial.name} {number_text(trial.value(metric))}{between}")
    base = alt.Chart(vega.data("evidence"))
    y = vega.trial_axis([trial.name for trial in trials])
    x = alt.X("value:Q", title=label(metric), scale=alt.Scale(zero=False, padding=14), axis=alt.Axis(tickCount=5))
    once = base.transform_filter("datum.first")
    kinds = roles(study, trials)
    spread = once.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=5, opacity=0.25, strokeCap="round")
    enough = any(trial.interval(metric) for trial in trials)
    layers = [
        *([spread.encode(x=alt.X("low:Q"), x2="high:Q", y=y)] if enough else []),
        once.mark_tick(thickness=2.5, size=20).encode(x=alt.X("middle:Q"), y=y),
        base.mark_point(size=60, strokeWidth=1.6).encode(
            x=x, y=y, color=vega.role_colour(kinds), shape=vega.role_shape(kinds),
            tooltip=vega.tooltip(("trial:N", "trial"), ("value:Q", label(metric)), ("middle:Q", "median")),
        ),
    ]  # fmt: skip
    what = "each repeat, the median, and the 95 % interval of the median" if enough else "each repeat and the median"
    what = what.replace("median", "interquartile mean", 1) if metric in RETURNS else what
    what += f", of the {trials[0].measured}"
    described = f"{label(metric)}, {what}: " + "; ".join(parts)
    height = vega.ROW * len(trials) + 6
    return (vega.made("evidence", f"How sure is this: {what}", described, alt.layer(*layers), height),), rows

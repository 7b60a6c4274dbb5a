"""The first screen: the best configuration, what it gains, what limits it now, and the command that uses it."""

from collections.abc import Iterator, Sequence

import altair as alt

from harness.report.finding import Finding, change_of, conclude, doubts
from harness.report.page import vega
from harness.report.page.model import MINUS, MISSING, Chart, FirstScreen, Table, finite, percent
from harness.report.studies import StudyFiles, Trial, label, scale
from harness.report.terminal import train_command
from harness.stats.inference import POWER, Interval
from harness.suite.metrics import RETURNS
from harness.suite.text import number_text, setting_text

SHOWN = 6
"""trials whose repeats are drawn"""


def headline(study: StudyFiles) -> FirstScreen:
    """The answer that the study gives."""
    found = conclude(study.suite, study.records)
    best, baseline = study.trial(found.best), study.trial(found.baseline)
    name = label(found.metric)
    if best is None:
        text, unit = "No result", "no trial was measured to its end within the constraints"
    elif found.shown:  # a gain is named only where the measurements show one
        text, unit = difference_text(found.change or 0.0, ratio=found.gain is not None), f"{name} against the baseline"
    else:
        text = number_text(found.value * scale(found.metric))
        unit = f"{name}{', the baseline' if found.best == found.baseline else ''}"
    return FirstScreen(
        text, unit, found.claim, tuple(_facts(study, found, best)),
        train_command(study.folder / "best.yaml") if best and study.best else None,
        _settings(study, best, baseline) if best else None, _evidence(study, found.metric),
    )  # fmt: skip


def difference_text(change: float, *, ratio: bool) -> str:
    """A change for a cell or a headline: a ratio in percent."""
    if ratio:
        return percent(change, sign=True, digits=1)
    return f"{'+' if change >= 0 else MINUS}{number_text(abs(change))}"


def _facts(study: StudyFiles, found: Finding, best: Trial | None) -> Iterator[tuple[str, str]]:
    name = label(found.metric)
    if best is not None:
        yield "Gain", change_of(found)
        yield "Limited now by", found.limited_by or study.limited_by(best)
        yield "Measured", f"{best.measured}; the search's numbers are below"
        values = _side(found.value, found.value_interval, found.points, found.metric)
        yield "Best", f"trial {best.number}: {values} {name}"
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
    if interval is None and len(points) < 2:
        return f"{text} (one repeat)"
    low, high = (number_text(end * scale(metric)) for end in interval or (min(points), max(points)))
    if interval is None:
        return f"{text} ({len(points)} repeats from {low} to {high})"
    return f"{text} ({low} to {high}, 95 % interval of {len(points)} repeats)"


def _settings(study: StudyFiles, best: Trial, baseline: Trial | None) -> Table:
    rows = []
    for name in dict.fromkeys([*study.suite.search, *best.params]):
        own, before = (
            setting_text(trial.params[name]) if trial and name in trial.params else MISSING
            for trial in (best, baseline)
        )
        same = baseline is not None and best.params.get(name) == baseline.params.get(name)
        rows.append((name, own, "same" if same else before))
    columns = ("setting", "best", "baseline")
    return Table.of("best-settings", "Settings of the best configuration", columns, rows, sortable=False)


def _evidence(study: StudyFiles, metric: str) -> tuple[Chart, ...]:
    """Every repeat of what was confirmed, or else of the best trials and the baseline, with medians and intervals."""
    trials = [trial for trial in study.leaders(SHOWN) if trial.values(metric)]
    confirmed = any(trial.confirmed for trial in trials)
    trials = [trial for trial in trials if trial.confirmed == confirmed]
    if len(trials) < 2 and not any(len(trial.values(metric)) > 1 for trial in trials):
        return ()
    rows, parts, enough = [], [], any(trial.interval(metric) for trial in trials)
    for trial in trials:
        interval = trial.interval(metric)
        common = {"trial": trial.name, "role": study.role(trial), "middle": finite(trial.value(metric)),
                  "low": finite(interval.low) if interval else None,
                  "high": finite(interval.high) if interval else None}  # fmt: skip
        values = enumerate(trial.values(metric))
        rows += [common | {"value": finite(value), "first": index == 0} for index, value in values]
        between = f" ({number_text(interval.low)} to {number_text(interval.high)})" if interval else ""
        parts.append(f"trial {trial.name} {number_text(trial.value(metric))}{between}")
    base = vega.data("evidence")
    x, y = vega.x("value", label(metric), padding=14), vega.trial_axis([trial.name for trial in trials])
    tips = {"trial:N": "trial", "value:Q": label(metric), "middle:Q": "median"}
    once = base.transform_filter("datum.first")
    spread = once.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=5, opacity=0.25, strokeCap="round")
    layers = [
        *([spread.encode(x=alt.X("low:Q"), x2="high:Q", y=y)] if enough else []),
        once.mark_tick(thickness=2.5, size=20).encode(x=alt.X("middle:Q"), y=y),
        vega.points(base, x, y, study.roles(trials), tips, 60),
    ]
    what = "each repeat, the median, and the 95 % interval of the median" if enough else "each repeat and the median"
    what = what.replace("median", "interquartile mean", 1) if metric in RETURNS else what
    what += f", of the {trials[0].measured}"
    described, height = f"{label(metric)}, {what}: " + "; ".join(parts), vega.ROW * len(trials) + 6
    title = f"How sure is this: {what}"
    return (vega.made("evidence", title, described, alt.layer(*layers), {"evidence": rows}, height),)

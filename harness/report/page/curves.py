"""Learning curves: many readings of several repeats brought onto one grid, with how far the repeats spread."""

import itertools
import typing
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.measure.record import Phase
from harness.report.finding import standings
from harness.report.page import charts
from harness.report.page.model import Chart, Row, Rows, Section, Table
from harness.report.studies import ReportedStudy, finite
from harness.stats.inference import BOOTSTRAPPED, bootstrap_interval
from harness.study.best_trials import judged_by

POINTS = 150
"""of a curve at most"""
SHOWN = 5
"""trials"""
Floats = NDArray[np.float64]


def learning_curves(study: ReportedStudy, task: int | None = None) -> Section:
    """Return over wall time and over env steps of the best trials and the baseline.

    Where some were confirmed those alone: numbers of one kind go together. Seeds that were to learn stand for their
    trials, and then for them alone. Configurations side by side are all drawn.

    Args:
        study: or a view of it.
        task: number of the environment, where configurations stand side by side; None: they do not.
    """
    title, id, name = "Learning curves", "curves", "curve"
    if task is not None:
        title, id, name = f"{title}: {study.suite.env}", f"curves-{task}", f"curve_{task}"
    confirmed = any(trial.confirmed for trial in study.trials)
    shown = [trial for trial in study.leaders(len(study.trials)) if trial.confirmed == confirmed][:SHOWN]
    names = {trial.number: f"trial {trial.name}" for trial in shown}
    if task is not None:
        there = [one for standing in standings(study.suite, study.records).values() for one in standing]
        shown, names = [one.trial for one in there], {one.trial.number: one.name for one in there}
    learned = [[r for r in judged_by(trial.records, "learning") if r.state == "complete"] for trial in shown]
    own = []
    for trial, seeds in zip(shown, learned, strict=True):
        records = seeds if any(learned) else trial.complete
        curves = [curve.dropna() for r in records if _has_returns(curve := study.curve(r))]
        own += [(trial, curves)] if curves else []
    if not own:
        text = (
            "No repeat that counts was long enough for a curve of returns, or none was kept: there is nothing to draw."
        )
        return Section(id, title, [text])
    drawn = []
    for axis in charts.AXES:
        rows: Rows = []
        for trial, curves in own:
            rows += _line(names[trial.number], curves, axis, "episode_return")
        drawn.append(charts.lines(f"{name}_{axis}", axis, "episode return", rows, band=True))
    cells = list[Row]()
    for trial, curves in own:
        last = float(np.median([curve["episode_return"].iloc[-1] for curve in curves]))
        kind = summary_kind(len(curves))
        cells.append({"of": names[trial.number], "repeats": len(curves), "last return": last, "line and band": kind})
        if task is None:  # otherwise its name says them
            cells[-1]["settings"] = trial.settings
    most = max(len(curve) for _, curves in own for curve in curves)
    thinned = f"Curves have up to {most:,} readings; each point is the mean of about {most / POINTS:.1f}."
    text = "Mean return of the last finished episodes, while training. "
    text += "Every reading is drawn." if most <= POINTS else thinned
    return Section(id, title, [text], drawn, [Table.of(f"{id}-table", "What the curves show", cells)])


def over_time(study: ReportedStudy) -> list[Chart]:
    """The best and the baseline over wall time in one chart; none where nothing was better.

    Returns are drawn where all repeats of a phase are long enough for them; otherwise env steps since the first update.
    """
    best, baseline = next(iter(study.order), None), next((trial for trial in study.trials if trial.baseline), None)
    if best is None or baseline is None or best is baseline:
        return []
    sides = {f"best, trial {best.number}": best, f"baseline, trial {baseline.number}": baseline}
    known = dict[str, dict[str, list[pd.DataFrame]]]()
    for phase in reversed(typing.get_args(Phase)):
        counted = {name: judged_by(trial.records, phase) for name, trial in sides.items()}
        own = {
            name: [curve for r in records if r.state == "complete" and len(curve := study.curve(r)) > 1]
            for name, records in counted.items()
        }
        if all(own.values()):
            known[phase] = own
    long_enough = (phase for phase, own in known.items() if all(map(_has_returns, itertools.chain(*own.values()))))
    returned = next(long_enough, None)
    phase = returned or ("confirm" if "confirm" in known else "search")
    if phase not in known:
        return []
    what, y = "env steps since the first update", "env_steps"
    if returned:
        what, y = "episode return", "episode_return"
    rows: Rows = []
    for name, curves in known[phase].items():
        shown = [curve.dropna() if returned else curve - curve.iloc[0] for curve in curves]
        rows += _line(name, shown, "wall_seconds", y)
    seeds = "seeds that learned here"
    where = {"search": "search, unconfirmed", "confirm": best.measured, "learning": seeds}[phase]
    repeats = min(map(len, known[phase].values()))
    title = f"Best and baseline over wall time: {what}, {summary_kind(repeats)}; {where}"
    return [charts.lines("over_time", "wall_seconds", what, rows, band=True, title=title)]


def _line(name: str, curves: Sequence[pd.DataFrame], x: str, y: str) -> Rows:
    """The points of a line with its band, from columns of curves."""
    ends = zip(*aggregate([(curve[x].to_numpy(float), curve[y].to_numpy(float)) for curve in curves]), strict=True)
    return [{"name": name} | dict(zip(("x", "y", "low", "high"), map(finite, one), strict=True)) for one in ends]


def _has_returns(curve: pd.DataFrame) -> bool:
    """The first episodes ended in the first half of what a repeat lasted."""
    returns = curve.dropna()["wall_seconds"]
    return len(returns) > 1 and bool(returns.iloc[0] <= curve["wall_seconds"].iloc[-1] / 2)


def summary_kind(repeats: int) -> str:
    """What line and band are for so many repeats."""
    if repeats == 1:
        return "the one repeat, no band"
    if repeats < BOOTSTRAPPED:
        return f"median and range of {repeats} repeats; too few for an interval"
    return f"interquartile mean of {repeats} repeats, its 95 % bootstrap interval"


def thin(x: Floats, y: Floats, points: int = POINTS) -> tuple[Floats, Floats]:
    """Means of neighbours, so that at most ``points`` are left."""
    if len(x) <= points:
        return x, y
    cuts = np.linspace(0, len(x), points + 1).astype(int)
    sizes = np.diff(cuts)
    return np.add.reduceat(x, cuts[:-1]) / sizes, np.add.reduceat(y, cuts[:-1]) / sizes


def aggregate(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats, Floats, Floats]:
    """Grid, line, low and high of the band, each ``[points]``, over the part of x that all curves have.

    One curve is its own line. Fewer than ``BOOTSTRAPPED``: median and range. Otherwise interquartile mean and pointwise
    its 95 % bootstrap interval.
    """
    thinned = [thin(x, y) for x, y in curves]
    if len(thinned) == 1:
        x, y = thinned[0]
        return x, y, y, y
    begin, end = max(x[0] for x, _ in thinned), min(x[-1] for x, _ in thinned)
    grid = np.linspace(begin, max(begin, end), min(POINTS, max(len(x) for x, _ in thinned)))
    values = np.stack([np.interp(grid, x, y) for x, y in thinned])  # [repeats, points]
    if len(thinned) < BOOTSTRAPPED:
        return grid, np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
    return grid, stats.trim_mean(values, 0.25, axis=0), *bootstrap_interval(values)

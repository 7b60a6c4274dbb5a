"""A study's page: the first screen, every section in its order, and the table of all trials."""

import base64
import math
import shlex
from dataclasses import replace

from harness.report.finding import against, standings
from harness.report.page import charts, provenance, resources, search
from harness.report.page.curves import learning_curves, over_time
from harness.report.page.first_screen import final_policies, first_screen
from harness.report.page.model import MISSING, Cell, Chart, Code, Page, Row, Rows, Section, Table
from harness.report.studies import VIDEO, ReportedStudy, finite, plain
from harness.suite.metrics import RETURNS
from harness.suite.text import metric_text, setting_text
from unilab.envs.registry import is_robot
from unilab.envs.rendering.video import SECONDS

SHOWN = 6
"""trials whose repeats are drawn"""


def page(study: ReportedStudy, *, watched: str | None = None) -> Page:
    """The page of a study; ``watched`` says how far the study is while it runs."""
    suite, began = study.suite, study.last_run
    trainer = suite.trainer or ", ".join(suite.trainers)
    subtitle = f"{trainer} on {', '.join(suite.tasks)}, study {study.folder.resolve().name}"
    subtitle += f", run {began.replace('T', ' ').removesuffix('+00:00')} UTC" if began else ""
    if suite.only_compares:  # nothing was searched for
        drawn, sections = standing_charts(study), [final_policies(study)]
        sections += [learning_curves(view, number) for number, view in enumerate(study.by_task)]
        sections.append(resources.busy(study))
    else:
        drawn = [*over_time(study), *evidence(study)]
        sections = [
            search.by_setting(study), search.importance(study), search.parallel(study), search.pareto(study),
            learning_curves(study), resources.busy(study), resources.prediction(study),
        ]  # fmt: skip
    sections += [
        resources.memory(study), provenance.unsuccessful(study), provenance.unsteady(study), all_trials(study),
        provenance.machine(study), provenance.reproduce(study),
    ]  # fmt: skip
    filmed = is_robot(suite.tasks[0]) or (study.folder / VIDEO).is_file()
    if watched is None and filmed and study.order:
        sections.insert(0, to_be_seen(study))
    screen = replace(first_screen(study), charts=drawn)
    return Page(suite.name, subtitle, screen, sections, str(study.folder), watched)


def to_be_seen(study: ReportedStudy) -> Section:
    """The best policy of a robot as a video, and the command that makes it."""
    file, policy, url = study.folder / VIDEO, study.best_policy, None
    if policy is None:
        text = "There is no video of it: no checkpoint of this project's trainers lies where it was trained."
        return Section("video", "The best policy", [text])
    text = "There is no video of it. This command makes one, or says why not; the next report shows it."
    if file.is_file():
        url = f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}"
        text = f"The first {SECONDS:g} seconds of an episode without noise. A blue arrow is the commanded velocity, a "
        text += "green one the robot's own."
    command = f"python -m harness eval {shlex.quote(str(policy))} --video {shlex.quote(str(file))}"
    return Section("video", "The best policy", [text], code=[Code("Command that makes a video", command)], video=url)


def standing_charts(study: ReportedStudy) -> list[Chart]:
    """The repeats of every configuration, a chart for each environment."""
    metric, drawn = study.suite.objectives[0].metric, list[Chart]()
    for number, (env, own) in enumerate(standings(study.suite, study.records).items()):
        rows: Rows = []
        for one in [one for one in own if one.points]:
            common = {"trainer": one.name, "role": "baseline" if one.trial.baseline else "others"}
            rows += charts.spread(common, metric, one.trial, one.interval)
        if rows:
            middle = "interquartile mean" if metric in RETURNS else "median"
            title = f"{env}: {metric_text(metric)} of each repeat, {middle} and its interval"
            drawn.append(charts.dots(f"standing_{number}", title, rows, metric, row="trainer"))
    return drawn


def evidence(study: ReportedStudy) -> list[Chart]:
    """Every repeat of what was confirmed, or else of the best trials and the baseline, with medians and intervals."""
    metric = study.suite.objectives[0].metric
    trials = [trial for trial in study.leaders(SHOWN) if trial.values(metric)]
    confirmed = any(trial.confirmed for trial in trials)
    trials = [trial for trial in trials if trial.confirmed == confirmed]
    if len(trials) < 2 and not any(len(trial.values(metric)) > 1 for trial in trials):
        return []
    rows: Rows = []
    for trial in trials:
        common = {"trial": trial.name, "role": study.role(trial)}
        rows += charts.spread(common, metric, trial, trial.interval(metric))
    middle = "interquartile mean" if metric in RETURNS else "median"
    what = f"each repeat and the {middle}"
    if any("low" in row for row in rows):
        what = f"each repeat, the {middle}, and the 95 % interval of the median"
    title = f"How sure is this: {what}, of the {trials[0].measured}"
    return [charts.dots("evidence", title, rows, metric)]


def all_trials(study: ReportedStudy) -> Section:
    """Every trial with its metrics and settings: as the search measured it, and beside it what the confirmation did."""
    objectives = [objective.metric for objective in study.suite.objectives]
    metrics = dict.fromkeys([*objectives, "env_steps_per_second", "episode_return", "policy_lag_mean"])
    first, *others = [m for m in metrics if m in objectives or any(t.values(m) for t in study.trials)]
    names = list(dict.fromkeys(name for trial in study.trials for name in [*study.suite.search, *trial.params]))
    searched = {trial.number: trial for trial in study.searched}
    confirmed = {trial.number: trial for trial in study.trials if trial.confirmed}
    views = [(searched, metric_text(first), "against baseline")]
    if confirmed:
        views.append((confirmed, f"{metric_text(first)}, confirmed", "confirmed against baseline"))
    ranks = {trial.number: rank for rank, trial in enumerate(study.order, 1)}
    rows = []
    for trial in study.best_first:
        row: Row = {
            "trial": Cell(trial.name, trial.number), "state": trial.state + ", confirmed" * trial.confirmed,
            "rank": ranks.get(trial.number),
        }  # fmt: skip
        for view, value, beside in views:
            row |= {value: None, beside: Cell(MISSING)}
            if trial.number in view:
                own = view[trial.number]
                same_task = [other for other in view.values() if other.params.get("env") == trial.params.get("env")]
                base = next((other for other in same_task if other.baseline), None)
                change, text = (math.nan, MISSING) if base is None else against(first, own, base)
                row[value] = Cell.metric(first, own.value(first))
                row[beside] = Cell("baseline", 0.0) if trial.baseline else Cell(text, finite(change))
        once = searched.get(trial.number, trial)
        row |= {metric_text(metric): Cell.metric(metric, once.value(metric)) for metric in others}
        row |= {f"{side} busy": Cell.share(once.value(f"{side}_busy_fraction")) for side in resources.SIDES}
        row["peak host memory"] = Cell.size(resources.peak_bytes(once))
        row["repeats"] = Cell(f"{len(trial.complete)}/{len(trial.counted)}", len(trial.complete))
        taken, params = set(row), trial.params
        for name in names:  # a trainer may call a setting as a column is called here
            cell = Cell(setting_text(params[name]), plain(params[name])) if name in params else None
            row[f"{name} (setting)" if name in taken else name] = cell
        rows.append(row)
    if not rows:
        return Section("trials", "All trials", ["No trial has been recorded yet."])
    rank = "Rank is the order within the constraints" + ", on the Pareto front" * (len(objectives) > 1)
    said = [f"Values are those of the search. {rank}."]
    if confirmed:
        how = next(iter(confirmed.values())).measured
        said.append(f"Beside them are those of the {how}. Compare these with each other only.")
    return Section("trials", "All trials", said, (), [Table.of("trials-table", "All trials", rows)])

"""A study's page: the answer, every section in its order, and the table of all trials."""

import base64
import math
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path

from harness.report.finding import against, baseline_name, conclude, doubts, standing_claim, standings
from harness.report.page import charts, provenance, resources, search
from harness.report.page.curves import learning_curves, over_time
from harness.report.page.model import MISSING, Cell, Chart, Code, FirstScreen, Page, Row, Rows, Section, Table
from harness.report.studies import VIDEO, ReportedStudy, finite, plain
from harness.report.terminal import answer, train_command
from harness.stats.inference import BOOTSTRAPPED, POWER, change_text
from harness.suite.metrics import RETURNS, TIMES
from harness.suite.text import metric_text, number_text, setting_text, value_text
from unilab.envs.rendering.video import SECONDS

SHOWN = 6
"""trials whose repeats are drawn"""


def page(study: ReportedStudy, *, watched: str | None = None) -> Page:
    """The page of a study; ``watched`` says how far the study is while it runs."""
    suite, began = study.suite, study.last_run
    trainer = suite.trainer or ", ".join(suite.trainers)
    subtitle = f"{trainer} on {', '.join(suite.tasks)}, study {study.folder.resolve().name}"
    subtitle += f", run {began.replace('T', ' ').removesuffix('+00:00')} UTC" if began else ""
    parts: list[Callable[[ReportedStudy], Section]] = [resources.busy]
    if suite.side_by_side:  # nothing was searched for
        answer, sections = beside_the_baseline(study), [final_policies(study)]
        sections += [learning_curves(view, number) for number, view in enumerate(study.by_task)]
    else:
        answer, sections = headline(study), []
        parts = [search.by_setting, search.importance, search.parallel, search.pareto, learning_curves, resources.busy,
                 resources.prediction]  # fmt: skip
    parts += [resources.memory, provenance.unsuccessful, provenance.unsteady, all_trials, provenance.machine,
              provenance.reproduce]  # fmt: skip
    sections += [part(study) for part in parts]
    if watched is None and (policy := study.robots_policy):
        sections.insert(0, to_be_seen(study, policy))
    return Page(suite.name, subtitle, answer, sections, str(study.folder), watched)


def to_be_seen(study: ReportedStudy, policy: Path) -> Section:
    """The best policy of a robot as a video, and the command that makes it."""
    file, url = study.folder / VIDEO, None
    text = "There is no video of it. This command makes one, or says why not; the next report shows it."
    if file.is_file():
        url = f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}"
        text = f"The first {SECONDS:g} seconds of an episode without noise. A blue arrow is the commanded velocity, a "
        text += "green one the robot's own."
    command = f"python -m harness eval {shlex.quote(str(policy))} --video {shlex.quote(str(file))}"
    return Section("video", "The best policy", [text], code=[Code("Command that makes a video", command)], video=url)


def beside_the_baseline(study: ReportedStudy) -> FirstScreen:
    """The first screen where configurations stand side by side: in which environments the baseline is ahead."""
    metric, found = study.suite.objectives[0].metric, standings(study.suite, study.records)
    count, claim = standing_claim(study.suite, found)
    drawn = list[Chart]()
    for number, (env, own) in enumerate(found.items()):
        rows: Rows = []
        for one in [one for one in own if one.points]:
            common = {"trainer": one.name, "role": "baseline" if one.trial.baseline else "others"}
            rows += charts.spread(common, metric, one.points, one.value, one.interval)
        if rows:
            middle = "interquartile mean" if metric in RETURNS else "median"
            title = f"{env}: {metric_text(metric)} of each repeat, {middle} and its interval"
            drawn.append(charts.dots(f"standing_{number}", title, rows, metric, row="trainer"))
    facts = [
        (env, "; ".join(f"{one.name} {value_text(metric, one.value)}"
                        + f" ({own[0].name} {one.text})" * (one.verdict is not None) for one in own))
        for env, own in found.items()
    ]  # fmt: skip
    without = sum(not one.points for own in found.values() for one in own)
    text = f"{len(study.trials)} configurations, {len(study.records)} repeats"
    facts.append(("Looked at", text + f"; {without} configurations without a result" * bool(without)))
    unit = f"of {len(study.suite.tasks)} environments: there {baseline_name(found)} is ahead of all others"
    return FirstScreen(str(count), unit, claim, facts, charts=drawn)


def final_policies(study: ReportedStudy) -> Section:
    """Every configuration in each environment, by the first objective."""
    metric, found = study.suite.objectives[0].metric, standings(study.suite, study.records)
    episodes, baseline, name = study.suite.measure.evaluate, baseline_name(found), metric_text(metric)
    rows, judged = list[Row](), sorted({what for record in study.records for what in record.judged})
    for env, own in found.items():
        for one in own:
            low, high = one.interval or (math.nan, math.nan)
            rows.append({
                "environment": env, "of": one.name, name: Cell.metric(metric, one.value),
                "low": Cell.metric(metric, low), "high": Cell.metric(metric, high), f"{baseline} is": one.word,
                "by": one.ahead, "repeats": f"{one.reached} of {len(one.trial.counted)}",
                "env steps": one.trial.value("env_steps"),
            })  # fmt: skip
            for what in judged:
                last = [record.judged[what] for record in one.trial.complete if what in record.judged]
                rows[-1][metric_text(what)] = statistics.median(last or [math.nan])
    text = f"{name[0].upper()}{name[1:]}: median over the repeats, with its 95 % interval. "
    if metric in RETURNS:
        text = f"{name[0].upper()}{name[1:]}: interquartile mean over the repeats, which are seeds, with its 95 % "
        text += f"bootstrap interval from {BOOTSTRAPPED} seeds on. "
    if metric == "seconds_to_return":
        text += f"The target is a mean return of {number_text(study.suite.measure.target_return)}. "
    if study.suite.measure.judge is not None:
        text += f"The environment judged kept policies in {study.suite.measure.judge.episodes} episodes each; "
        text += "what it says of the last one is a median over the repeats. "
    if metric in TIMES:
        text += f"A repeat that did not reach {TIMES[metric]} counts as the longest training, so that differences are "
        text += "at least as large. "
    if episodes is not None:
        text += f"After its training each policy played {episodes} whole episodes without noise. "
    text += f"{baseline} is ahead or behind, by the difference of the means, where a permutation test shows it."
    title = "Results" if episodes is None else "Final policies"
    return Section("standings", title, [text], (), [Table.of("standings-table", title, rows)])


def headline(study: ReportedStudy) -> FirstScreen:
    """The first screen: the best configuration, what it gains, what limits it now, and the command that uses it."""
    found = conclude(study.suite, study.records)
    metric, best, baseline = found.metric, study.trial(found.best), study.trial(found.baseline)
    facts, settings, command, name = answer(study, found), None, None, metric_text(metric)
    if best is None:
        text, unit = "No result", "no trial was measured to its end within the constraints"
    else:
        said = ", the baseline" if best is baseline else "" if found.confirmed else ", unconfirmed"
        text, unit = value_text(metric, found.value), name + said
        if found.shown:  # a gain is named only where the measurements show one
            text, unit = change_text(found.change or 0.0, fraction=found.ratio), f"{name} against the baseline"
        if found.smallest_effect is not None and not found.shown:
            seen = change_text(found.smallest_effect, fraction=found.ratio, sign="")
            facts.append(("Could be seen", f"a change of {seen}, with a probability of {POWER:.0%}"))
        if care := doubts(found):
            facts.append(("With care", care))
        rows = []
        for setting in dict.fromkeys([*study.suite.search, *best.params]):
            own, before = (
                setting_text(trial.params[setting]) if trial and setting in trial.params else MISSING
                for trial in (best, baseline)
            )
            rows.append({"setting": setting, "best": own, "baseline": "same" if baseline and own == before else before})
        settings = Table.of("best-settings", "Settings of the best configuration", rows, sortable=False)
        command = train_command(study.folder / "best.yaml") if study.best else None
    unmeasured = sum(not trial.complete for trial in study.trials)
    without = f"; {unmeasured} without a result" if unmeasured else ""
    facts.append(("Looked at", f"{len(study.trials)} trials, {len(study.records)} repeats{without}"))
    return FirstScreen(
        text, unit, found.claim, facts, command, settings, [*over_time(study), *_evidence(study, metric)]
    )


def _evidence(study: ReportedStudy, metric: str) -> list[Chart]:
    """Every repeat of what was confirmed, or else of the best trials and the baseline, with medians and intervals."""
    trials = [trial for trial in study.leaders(SHOWN) if trial.values(metric)]
    confirmed = any(trial.confirmed for trial in trials)
    trials = [trial for trial in trials if trial.confirmed == confirmed]
    if len(trials) < 2 and not any(len(trial.values(metric)) > 1 for trial in trials):
        return []
    rows: Rows = []
    for trial in trials:
        common = {"trial": trial.name, "role": study.role(trial)}
        rows += charts.spread(common, metric, trial.values(metric), trial.value(metric), trial.interval(metric))
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
    places = {trial.number: place for place, trial in enumerate(study.order, 1)}
    rows = []
    for trial in study.best_first:
        row: Row = {
            "trial": Cell(trial.name, trial.number), "state": trial.state + ", confirmed" * trial.confirmed,
            "place": places.get(trial.number),
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
    place = "Place is the order within the constraints" + ", on the Pareto front" * (len(objectives) > 1)
    said = [f"Values are those of the search. {place}."]
    if confirmed:
        how = next(iter(confirmed.values())).measured
        said.append(f"Beside them are those of the {how}. Compare these with each other only.")
    return Section("trials", "All trials", said, (), [Table.of("trials-table", "All trials", rows)])

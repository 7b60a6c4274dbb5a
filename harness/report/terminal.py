"""The outcome of a study as text: the best configuration, its gain, what limited it, what did not fit."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.files.yaml_file import to_yaml
from harness.measure.record import Record, attempts_that_count, typical, write_atomic
from harness.predict.plan import Plan
from harness.report.finding import against, conclude, standings
from harness.report.page.first_screen import final_policies, first_screen, train_command
from harness.report.planned import UNITS, table
from harness.report.studies import ReportedStudy, ReportedTrial
from harness.runs.training import RunConfiguration
from harness.study.best_trials import judged_by, ranking
from harness.study.folder import Study
from harness.study.importances import importances
from harness.suite.schema import Suite
from harness.suite.text import number_text, percent_text, settings_text, value_text
from harness.trainers import trainer as trainers

ROWS = 12
"""trials in the final table"""
STANDINGS = ("environment", "of", "low", "high", "repeats")
"""columns beside the value that 80 characters have room for, where configurations stand side by side"""


def summary(study: ReportedStudy) -> dict[str, Any]:
    """The outcome as a program reads it: best trial, baseline, limits, failures, files."""
    suite, records = study.suite, study.records
    names = [objective.metric for objective in suite.objectives]
    names += ["env_steps_per_second", "episode_return", "policy_lag_mean", "peak_host_bytes"]

    def measured(records: Sequence[Record]) -> dict[str, Any]:
        """Numbers of one kind, which it names: those of several kinds do not compare."""
        return {
            "kind": records[-1].kind if records else None, "repeats": sum(r.state == "complete" for r in records),
            "of": len(records), "metrics": {name: typical(records, name) for name in dict.fromkeys(names)},
            "unsteady": sum(r.unsteady for r in records), "disturbed": [r.disturbed for r in records if r.disturbed],
        }  # fmt: skip

    trials = [
        {
            "trial": trial.number, "baseline": trial.baseline, "state": trial.state,
            "confirmed": trial.confirmed, "params": trial.params, **measured(trial.counted),
            "search": measured(judged_by(trial.records, "search")),
            "budget_host_bytes": trial.records[-1].budget_host_bytes,
            "limited_by": study.limited_by(trial),
            "error": trial.error,
        }
        for trial in study.trials
    ]  # fmt: skip
    order, found = [trial.number for trial in study.order], conclude(suite, records)
    beside = {
        env: [
            {"trial": one.trial.number, "name": one.name, "value": one.value, "interval": one.interval,
             "points": one.points, "failed": one.failed, "ahead": one.ahead, "ahead_interval": one.ahead_interval,
             "p": one.p, "level": one.level, "verdict": one.verdict}
            for one in own
        ]
        for env, own in standings(suite, records).items()
    } if suite.only_compares else {}  # fmt: skip
    return {
        "study": study.folder.resolve().name, "folder": str(study.folder), "order": order,
        "best": next((trial for trial in trials if trial["trial"] in order[:1]), None), "trials": trials,
        "gain_over_baseline": found.change if found.ratio else None,
        "answer": dataclasses.asdict(found),
        "best_config": str(study.folder / "best.yaml") if order else None,
        "importances": importances(records, suite), "environments": beside,
    }  # fmt: skip


def write_best(plan: Plan, study: Study) -> Path | None:
    """``best.yaml``: what ``train`` takes, every setting stated so that a later default cannot change it."""
    order = ranking(study.records.records, plan.suite)
    if not order or len(plan.suite.tasks) > 1:  # each environment has another best
        return None
    trainer, settings = plan.launch(study.params(order[0]))
    path = study.folder / "best.yaml"
    head = f"# trial {order[0]} of study {plan.suite.name}/{plan.study_id}; {train_command(path)}\n"
    if learning := conclude(plan.suite, study.records.records).learning:
        head += f"# {learning}\n"
    best = RunConfiguration(path.stem, trainer, trainers.get(trainer), settings)
    write_atomic(path, head + to_yaml(best.content()))
    return path


def show(study: ReportedStudy, console: Console) -> None:
    """All that is said at the end of a run."""
    show_measured(study, console)
    show_answer(study, console)


def show_measured(study: ReportedStudy, console: Console) -> None:
    """Tables of what was confirmed and, apart from it, of the search; what failed; where the files are."""
    if study.suite.only_compares:
        for one in final_policies(study).tables:
            narrow = [place for place, name in enumerate(one.columns) if name in STANDINGS or place == 2]
            rows = [[row[place].text for place in narrow] for row in one.rows]
            console.print(table(study.name, [one.columns[place] for place in narrow], rows))
        for record in [record for record in attempts_that_count(study.records) if record.error]:
            where = f"{record.state}: trial {record.trial}, repeat {record.repeat} ({settings_text(record.params)})"
            console.print(Text(f"{where}\n  {record.error}"))
    else:
        _show_trials(study, console)
    console.print(Text(f"Records: {study.folder}/trials.csv, curves.csv, manifest.json"), soft_wrap=True)


def _show_trials(study: ReportedStudy, console: Console) -> None:
    suite, name, order = study.suite, study.name, [trial.number for trial in study.order]
    confirmed = [trial for trial in study.best_first if trial.confirmed]
    places = {number: place for place, number in enumerate(ranking(study.records, suite, "search"))}
    searched = sorted(study.searched, key=lambda trial: places.get(trial.number, math.inf))
    if confirmed:
        console.print(_trials(suite, f"{name}: confirmation, {confirmed[0].kind}", confirmed))
        name = f"search, {searched[0].kind}"
    console.print(_trials(suite, name, searched, best=order[0] if order else None))
    if any(_marks(trial) for trial in [*confirmed, *searched]):
        console.print(Text("! disturbed by other work; ~ unsteady: the window's halves differ, or it was too short"))
    if len(suite.objectives) > 1 and order:
        front = ", ".join(map(str, order))
        console.print(Text(f"Pareto front: trials {front}; ordered by {suite.objectives[0].metric}"))
    if found := importances(study.records, suite):
        parts = [f"{name} {percent_text(part)}" for name, part in found.items()]
        console.print(Text(f"Importance for {suite.objectives[0].metric}: {', '.join(parts)}"))
    if pruned := sum(trial.state == "pruned" for trial in study.trials):
        console.print(Text(f"Pruned: {pruned} trials, ended early because their return stayed behind"))
    counted = attempts_that_count(study.records)
    for state, title in (("infeasible", "Did not fit"), ("timeout", "Timed out"), ("failed", "Failed")):
        ended = {record.trial: record for record in reversed(counted) if record.state == state}
        for trial in [trial for trial in study.trials if trial.number in ended][:3]:
            reason = (ended[trial.number].error or "").replace("\n", "\n  ")
            console.print(Text(f"{title}: trial {trial.number} ({trial.settings})\n  {reason}"))


def show_answer(study: ReportedStudy, console: Console) -> None:
    """The first screen of the report, and the command that uses it."""
    screen = first_screen(study)
    console.print(Text(screen.claim, style="bold" if study.order or study.suite.only_compares else "bold red"))
    facts = Table.grid(padding=(0, 2))
    for name, text in screen.facts:
        facts.add_row(Text(name, style="dim"), Text(text))
    console.print(facts)
    if screen.command:
        console.print(Text(f"Train with it: {screen.command}", style="bold"), soft_wrap=True)


def _trials(suite: Suite, title: str, trials: Sequence[ReportedTrial], best: int | None = None) -> Table:
    """Trials with the records of one way of measuring; ``best`` has a star."""
    metric, *others = [objective.metric for objective in suite.objectives]
    other = others[0] if others else "env_steps_per_second" if metric == "episode_return" else "episode_return"
    baseline = next((trial for trial in trials if trial.baseline), None)
    before = {} if baseline is None else baseline.params
    changed = {name for trial in trials for name, value in trial.params.items() if before.get(name, ...) != value}
    rows = []
    for trial in trials[:ROWS]:
        change, settings = "-", trial.params
        if trial is baseline:
            change = "base"
            settings = {name: settings[name] for name in settings if name in changed} or settings
        elif baseline is not None:
            change = against(metric, trial, baseline)[1]
            settings = {name: value for name, value in settings.items() if before.get(name, ...) != value}
        rows.append((
            f"{trial.number}{'*' * (trial.number == best)}",
            value_text(metric, trial.value(metric)) if trial.complete else trial.state, change,
            value_text(other, trial.value(other)), number_text(trial.value("policy_lag_mean")),
            f"{len(trial.complete)}/{len(trial.counted)}{_marks(trial)}", settings_text(settings),
        ))  # fmt: skip
    names = ("trial", UNITS.get(metric, metric), "vs base", UNITS.get(other, other), "lag", "repeats", "settings")
    return table(title, names, rows)


def _marks(trial: ReportedTrial) -> str:
    disturbed, unsteady = (any(getattr(record, mark) for record in trial.counted) for mark in ("disturbed", "unsteady"))
    return "!" * disturbed + "~" * unsteady

"""The outcome of a study as text: the best configuration, its gain, what limited it, what did not fit."""

import dataclasses
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.files.yaml_file import to_yaml
from harness.measure.record import Record, attempts_that_count, typical, write_atomic
from harness.predict.plan import Plan
from harness.report.finding import conclude, relative, side_text, standing_claim, standings
from harness.report.planned import UNITS, table
from harness.report.studies import trials_of
from harness.study.best_trials import judged_by, of_one_kind, ranking
from harness.study.folder import Study
from harness.study.importances import importances
from harness.suite.text import number_text, percent_text, settings_text, value_text
from harness.trainers import trainer as trainers

ROWS = 12
"""trials in the final table"""


def summary(plan: Plan, study: Study) -> dict[str, Any]:
    """The outcome as a program reads it: best trial, baseline, limits, failures, files."""
    records, names = of_one_kind(study.records.records), [objective.metric for objective in plan.suite.objectives]
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
            "confirmed": trial.counted[0].phase == "confirm", "params": trial.params, **measured(trial.counted),
            "search": measured(judged_by(trial.records, "search")),
            "budget_host_bytes": trial.records[-1].budget_host_bytes,
            "limited_by": trial.limited_by(plan.suite.fixed),
            "error": next((r.error for r in trial.records if r.error), None),
        }
        for trial in trials_of(records)
    ]  # fmt: skip
    order = ranking(records, plan.suite) if len(plan.suite.tasks) == 1 else []
    found = conclude(plan.suite, records)
    beside = {
        env: [
            {"trial": one.trial.number, "name": one.name, "value": one.value, "interval": one.interval,
             "points": one.points, "failed": one.failed, "ahead": one.ahead, "ahead_interval": one.ahead_interval,
             "p": one.p, "level": one.level, "verdict": one.verdict}
            for one in own
        ]
        for env, own in standings(plan.suite, records).items()
    } if plan.suite.side_by_side else {}  # fmt: skip
    return {
        "study": plan.study_id, "folder": str(study.folder), "order": order,
        "best": next((trial for trial in trials if trial["trial"] in order[:1]), None), "trials": trials,
        "gain_over_baseline": found.change if found.ratio else None,
        "answer": dataclasses.asdict(found) | {"shown": found.shown},
        "best_config": str(study.folder / "best.yaml") if order else None,
        "importances": importances(records, plan.suite), "environments": beside,
    }  # fmt: skip


def write_best(plan: Plan, study: Study) -> Path | None:
    """``best.yaml``: what ``train`` takes, every setting stated so that a later default cannot change it."""
    order = ranking(study.records.records, plan.suite)
    if not order or len(plan.suite.tasks) > 1:  # each environment has another best
        return None
    trainer, chosen = plan.launch(study.params(order[0]))
    settings = trainers.get(trainer).complete(chosen)
    env = settings.pop("env")
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    config = {"trainer": trainer, "env": env, "settings": plain}
    path = study.folder / "best.yaml"
    head = f"# trial {order[0]} of study {plan.suite.name}/{plan.study_id}; {train_command(path)}\n"
    if not_shown := conclude(plan.suite, study.records.records).not_shown:
        head += f"# {not_shown}\n"
    write_atomic(path, head + to_yaml(config))
    return path


def train_command(path: Path | str) -> str:
    """The command that trains a configuration, to be copied into a shell."""
    return f"python -m harness train {shlex.quote(str(path))}"


def show(plan: Plan, study: Study, console: Console) -> None:
    """The tables at the end of a run: what was confirmed, and apart from it what the search measured."""
    if plan.suite.side_by_side:
        _show_standings(plan, study, console)
        return
    result = summary(plan, study)
    order, by_search = result["order"], ranking(study.records.records, plan.suite, "search")

    def best_first(order: Sequence[int]) -> list[dict[str, Any]]:
        places = {number: place for place, number in enumerate(order)}
        return sorted(result["trials"], key=lambda trial: places.get(trial["trial"], math.inf))

    confirmed = [trial for trial in best_first(order) if trial["confirmed"]]
    searched = [(trial, trial["search"]) for trial in best_first(by_search)]
    name = f"{plan.suite.name}/{plan.study_id}"
    if confirmed:
        title = f"{name}: confirmation, {confirmed[0]['kind']}"
        console.print(_trials(plan, title, [(trial, trial) for trial in confirmed]))
        name = f"search, {searched[0][1]['kind']}"
    console.print(_trials(plan, name, searched, best=order[0] if order else None))
    if any(_marks(own) for own in [*confirmed, *(own for _, own in searched)]):
        console.print(Text("! disturbed by other work; ~ unsteady: the window's halves differ, or it was too short"))
    _show_best(plan, result, console)
    if pruned := sum(trial["state"] == "pruned" for trial in result["trials"]):
        console.print(Text(f"Pruned: {pruned} trials, ended early because their return stayed behind"))
    for state, title in (("infeasible", "Did not fit"), ("timeout", "Timed out"), ("failed", "Failed")):
        for trial in [trial for trial in result["trials"] if trial["state"] == state][:3]:
            reason = (trial["error"] or "").replace("\n", "\n  ")
            console.print(Text(f"{title}: trial {trial['trial']} ({settings_text(trial['params'])})\n  {reason}"))
    console.print(Text(f"Records: {study.folder}/trials.csv, curves.csv, manifest.json"))
    if result["best_config"]:
        text = Text(f"Train with it: {train_command(result['best_config'])}", style="bold")
        console.print(text, soft_wrap=True)


def _show_standings(plan: Plan, study: Study, console: Console) -> None:
    """A table for each environment: all that was measured there, beside the baseline."""
    metric, records = plan.suite.objectives[0].metric, of_one_kind(study.records.records)
    found = standings(plan.suite, records)
    for env, own in found.items():
        rows = [
            (one.name, value_text(metric, one.value),
             " to ".join(value_text(metric, end) for end in one.interval) if one.interval else "-",
             f"{len(one.points)}/{len(one.trial.counted)}", one.text)
            for one in own
        ]  # fmt: skip
        names = ("of", UNITS.get(metric, metric), "95 % interval", "repeats", "the baseline beside it")
        console.print(table(f"{plan.suite.name}/{plan.study_id}: {env}", names, rows))
    for record in attempts_that_count(records):
        if record.error:
            where = f"{record.state}: trial {record.trial}, repeat {record.repeat} ({settings_text(record.params)})"
            console.print(Text(f"{where}\n  {record.error}"))
    console.print(Text(standing_claim(plan.suite, found)[1], style="bold"))
    console.print(Text(f"Records: {study.folder}/trials.csv, curves.csv, manifest.json"))


def _trials(
    plan: Plan, title: str, trials: Sequence[tuple[dict[str, Any], dict[str, Any]]], best: int | None = None
) -> Table:
    """Trials and what was measured of each in one way; ``best`` has a star."""
    metric, *others = [objective.metric for objective in plan.suite.objectives]
    other = others[0] if others else "env_steps_per_second" if metric == "episode_return" else "episode_return"
    baseline = next((own["metrics"][metric] for trial, own in trials if trial["baseline"]), math.nan)
    rows = []
    for trial, own in trials[:ROWS]:
        values = own["metrics"]
        rows.append((
            f"{trial['trial']}{'*' * (trial['trial'] == best)}",
            value_text(metric, values[metric]) if own["repeats"] else trial["state"],
            "base" if trial["baseline"] else relative(metric, values[metric], baseline)[1],
            value_text(other, values[other]), number_text(values["policy_lag_mean"]),
            f"{own['repeats']}/{own['of']}{_marks(own)}", settings_text(trial["params"]),
        ))  # fmt: skip
    names = ("trial", UNITS.get(metric, metric), "vs base", UNITS.get(other, other), "lag", "repeats", "settings")
    return table(title, names, rows)


def _marks(measured: dict[str, Any]) -> str:
    return "!" * bool(measured["disturbed"]) + "~" * bool(measured["unsteady"])


def _show_best(plan: Plan, result: dict[str, Any], console: Console) -> None:
    best, objective = result["best"], plan.suite.objectives[0]
    if best is None:
        console.print(Text("No trial was measured to its end within the constraints.", style="bold red"))
        return
    found = result["answer"]
    value = side_text(objective.metric, found["value"], found["value_interval"], found["points"])
    text = f"Best ({objective.direction} {objective.metric}): trial {best['trial']} with {value}"
    console.print(Text(text + f", measured {best['kind']}" * (best["kind"] != "alone"), style="bold"))
    console.print(Text(found["claim"]))
    if found["not_shown"]:
        console.print(Text(found["not_shown"]))
    if len(plan.suite.objectives) > 1:
        front = ", ".join(map(str, result["order"]))
        console.print(Text(f"Pareto front: trials {front}; ordered by {objective.metric}"))
    console.print(Text(f"Limited by: {best['limited_by']}"))
    if result["importances"]:
        parts = [f"{name} {percent_text(part)}" for name, part in result["importances"].items()]
        console.print(Text(f"Importance for {objective.metric}: {', '.join(parts)}"))

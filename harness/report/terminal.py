"""What a study says to people: the best configuration, by how much, what limited it, what did not fit."""

import dataclasses
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.files.yaml_file import to_yaml
from harness.measure.record import Record, typical, write_atomic
from harness.predict.plan import Plan
from harness.predict.ranking import Prediction, distinct, objectives
from harness.report.finding import conclude, relative, side_text
from harness.report.studies import trials_of
from harness.study.best_trials import judged_by, of_one_kind, ranking
from harness.study.folder import Study
from harness.study.importances import importances
from harness.suite.text import (
    bytes_text,
    dimension_text,
    minutes_text,
    number_text,
    percent_text,
    settings_text,
    value_text,
)
from harness.trainers import trainer as trainers

ROWS = 12
"""trials in the final table"""
PREDICTED = 5
"""configurations of the ranking that ``plan`` shows"""
UNITS = {
    "env_steps_per_second": "steps/s",
    "samples_per_second": "samples/s",
    "updates_per_second": "updates/s",
    "episode_return": "return",
}


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
    order = ranking(records, plan.suite)
    found = conclude(plan.suite, records)
    return {
        "study": plan.study_id, "folder": str(study.folder), "order": order,
        "best": next((trial for trial in trials if trial["trial"] in order[:1]), None), "trials": trials,
        "gain_over_baseline": found.change if found.ratio else None,
        "answer": dataclasses.asdict(found) | {"shown": found.shown},
        "best_config": str(study.folder / "best.yaml") if order else None,
        "importances": importances(records, plan.suite),
    }  # fmt: skip


def write_best(plan: Plan, study: Study) -> Path | None:
    """``best.yaml``: what ``train`` takes, every setting stated so that a later default cannot change it."""
    order = ranking(study.records.records, plan.suite)
    if not order:
        return None
    trainer, chosen = plan.launch(study.params(order[0]))
    settings = trainers.get(trainer).defaults() | chosen
    env = settings.pop("env")
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    config = {"trainer": trainer, "env": env, "settings": plain}
    path = study.folder / "best.yaml"
    head = f"# trial {order[0]} of study {plan.suite.name}/{plan.study_id}; {train_command(path)}\n"
    write_atomic(path, head + to_yaml(config))
    return path


def train_command(path: Path | str) -> str:
    """The command that trains a configuration, to be copied into a shell."""
    return f"python -m harness train {shlex.quote(str(path))}"


def show(plan: Plan, study: Study, console: Console) -> None:
    """The tables at the end of a run: what was confirmed, and apart from it what the search measured."""
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
    return _table(title, names, rows)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == "settings" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


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
    if len(plan.suite.objectives) > 1:
        front = ", ".join(map(str, result["order"]))
        console.print(Text(f"Pareto front: trials {front}; ordered by {objective.metric}"))
    console.print(Text(f"Limited by: {best['limited_by']}"))
    if result["importances"]:
        parts = [f"{name} {percent_text(part)}" for name, part in result["importances"].items()]
        console.print(Text(f"Importance for {objective.metric}: {', '.join(parts)}"))


def show_plan(plan: Plan, folder: Path, console: Console, prediction: Prediction, missing: int) -> None:
    """What a run would do; ``missing`` costs it would measure before it can predict."""
    suite = plan.suite
    repeats = f" x {suite.measure.repeats} repeats" if suite.measure.repeats > 1 else ""
    trainer = f"trainer {suite.trainer}" if suite.trainer else f"trainers {', '.join(suite.trainers)}"
    console.print(Text(f"{suite.name}/{plan.study_id}: {trainer}, environment {suite.env}", style="bold"))
    size = f" of {plan.space.size:,.0f} configurations" if math.isfinite(plan.space.size) else " of a continuous space"
    size = size if plan.space.dimensions else ""
    trials = f"{plan.trials} trial{'s' if plan.trials > 1 else ''}{repeats}{size}"
    looks = f", {plan.look_repeats} repeats for a second look at the best" if plan.look_repeats else ""
    confirmation = f", then {plan.confirm_repeats} repeats to confirm" if plan.confirm_repeats else ""
    console.print(f"{trials}{looks}{confirmation}", soft_wrap=True)
    console.print(f"about {minutes_text(plan.seconds)}; results in {folder}", soft_wrap=True)
    console.print(Text(f"baseline: {settings_text(plan.baseline)}"))
    for name, params in plan.pinned.items():
        console.print(Text(f"pinned:   {name}: {settings_text(params)}"))
    for name, dimension in plan.space.dimensions.items():
        console.print(Text(f"search:   {name}: {dimension_text(dimension)}"))
    for dropped in plan.dropped:
        console.print(Text(f"left out: {dropped}", style="yellow"))
    verdicts = plan.memory()
    rows = [
        (name, *map(bytes_text, (v.host_bytes, v.expected_host_bytes, v.shm_bytes, v.device_bytes)), _yes(v.fits))
        for name, v in verdicts
    ]
    console.print(_table("memory", ("", "host", "expected", "of it shm", "device", "fits"), rows))
    for name, verdict in (verdicts[0], verdicts[-1]) if len(verdicts) > 1 else verdicts:
        if verdict.table and (name == "baseline" or not verdict.fits):
            console.print(Text(f"{name}:\n{verdict.table}"))
        if verdict.reason:
            console.print(Text(f"{name} does not fit: {verdict.reason}", style="yellow"))
    if missing:
        console.print(f"{missing} costs of this machine are not known yet; run measures them first, in under a minute")
    if not prediction.ranking:
        return
    # the best configurations, the first of those predicted alike, and where the baseline stands
    metric = objectives(plan)[0][0]
    ranks = {id(one): str(rank) for rank, one in enumerate(prediction.ranking, start=1)}
    baseline = next((one for one in prediction.ranking if one.params == plan.baseline), None)
    shown = distinct(plan, prediction.ranking)[:PREDICTED]
    shown += [baseline] if baseline and baseline not in shown else []
    varied = [name for name in plan.space.dimensions if len(plan.space.ends(name)) > 1]
    rows = [
        (ranks[id(one)] + " base" * (one is baseline), number_text(getattr(one.rates, metric)), _yes(one.fits),
         settings_text({key: one.params[key] for key in varied}))
        for one in shown
    ]  # fmt: skip
    title = f"predicted before anything is run ({len(prediction.ranking)} configurations)"
    console.print(_table(title, ("rank", UNITS[metric], "fits", "settings"), rows))
    if infeasible := [one for one in prediction.ranking if not one.fits]:
        reason = (infeasible[0].reason or "").splitlines()[0]
        console.print(Text(f"{len(infeasible)} do not fit and come last, such as: {reason}", style="yellow"))


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def plan_dict(plan: Plan, folder: Path, prediction: Prediction, missing: int) -> dict[str, Any]:
    """As ``show_plan``, for a program; with the whole ranking."""
    return {
        "suite": plan.suite.name, "study": plan.study_id, "folder": str(folder), "trials": plan.trials,
        "repeats": plan.suite.measure.repeats, "look_repeats": plan.look_repeats,
        "confirm_repeats": plan.confirm_repeats, "seconds": plan.seconds,
        "baseline": plan.baseline, "pinned": dict(plan.pinned), "dropped": list(plan.dropped),
        "memory": [
            {"what": name, "fits": v.fits, "host_bytes": v.host_bytes,
             "expected_host_bytes": v.expected_host_bytes, "shm_bytes": v.shm_bytes,
             "device_bytes": v.device_bytes, "reason": v.reason}
            for name, v in plan.memory()
        ],
        "costs_to_measure": missing,
        "ranked_by": [metric for metric, _ in objectives(plan)] if prediction.ranking else [],
        "ranking": [
            {"params": one.params, "fits": one.fits, "reason": one.reason} | dataclasses.asdict(one.rates)
            for one in prediction.ranking
        ],
    }  # fmt: skip


def warnings(record: Record) -> list[str]:
    """What makes a repeat less than trustworthy, in words."""
    unsteady = f"unsteady: the second half of the window ran at {record.half_ratio:.0%} of the first"
    if math.isnan(record.half_ratio):
        unsteady = "unsteady: the window was too short to compare its halves"
    return [f"disturbed: {record.disturbed}"] * bool(record.disturbed) + [unsteady] * record.unsteady

"""What a run would do, for people and for programs: nothing is measured yet, so little has to be loaded."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.predict.next_trial import TRIED
from harness.predict.plan import Plan
from harness.predict.ranking import Prediction, objectives
from harness.suite.space import ENUMERABLE
from harness.suite.text import bytes_text, count_text, dimension_text, minutes_text, number_text, settings_text

PREDICTED = 5
"""configurations of the ranking that ``plan`` shows"""
UNITS = {
    "env_steps_per_second": "steps/s",
    "samples_per_second": "samples/s",
    "updates_per_second": "updates/s",
    "episode_return": "return",
}
"""short ones, for tables"""


def show_plan(plan: Plan, folder: Path, console: Console, prediction: Prediction, missing: int) -> None:
    """What a run would do; ``missing`` costs it would measure before it can predict."""
    suite = plan.suite
    repeats = f" x {suite.measure.repeats} repeats" if suite.measure.repeats > 1 else ""
    trainer = f"trainer {suite.trainer}" if suite.trainer else f"trainers {', '.join(suite.trainers)}"
    where = f"environment{'s' * (len(suite.tasks) > 1)} {', '.join(suite.tasks)}"
    console.print(Text(f"{suite.name}/{plan.study_id}: {trainer}, {where}", style="bold"))
    different = len(plan.different) if plan.space.size <= ENUMERABLE else plan.space.size
    size = f" of {different:,.0f} configurations" if math.isfinite(different) else " of a continuous space"
    size = size if plan.space.dimensions else ""
    most = "at most " if suite.guided and plan.trials > TRIED else ""
    trials = f"{most}{count_text(plan.trials, 'trial')}{repeats}{size}"
    again = plan.again()
    looks = f", {again.second_look} repeats for a second look at the best" if again.second_look else ""
    confirmation = f", then {again.confirm} repeats to confirm" if again.confirm else ""
    if again.learning:
        confirmation += f" and {again.learning} that show whether the best learns as well"
    cores = suite.measure.cores
    beside = f"; {plan.concurrency} side by side, {count_text(cores, 'core')} each" if cores else ""
    lines = [("trials:", f"{trials}{looks}{confirmation}{beside}"), ("time:", f"about {minutes_text(plan.seconds)}")]
    lines += [("baseline:", settings_text(plan.baseline))]
    lines += [("pinned:", f"{name}: {settings_text(params)}") for name, params in plan.pinned.items()]
    lines += [("search:", f"{name}: {dimension_text(one)}") for name, one in plan.space.dimensions.items()]
    lines += [("left out:", dropped) for dropped in plan.dropped]
    grid = Table.grid(padding=(0, 1, 0, 0))
    for label, text in lines:
        grid.add_row(label, Text(text), style="yellow" if label == "left out:" else "")
    console.print(grid)
    console.print(f"results:  {folder}", soft_wrap=True)  # a path is copied, so it stays in one line
    console.print()
    fits = plan.memory()
    rows = [
        (name, *map(bytes_text, (v.host_bytes, v.expected_host_bytes, v.shm_bytes, v.device_bytes)), _yes(v.fits))
        for name, v in fits
    ]
    console.print(table("memory", ("", "host", "expected", "of it shm", "device", "fits"), rows))
    for name, fit in (fits[0], fits[-1]) if len(fits) > 1 else fits:
        if fit.table and (name == "baseline" or not fit.fits):
            console.print(Text(f"{name}:\n{fit.table}"))
        if fit.reason:
            console.print(Text(f"{name} does not fit: {fit.reason}", style="yellow"))
    if missing:
        console.print(f"{missing} costs of this machine are not known yet; run measures them first, in under a minute")
    if not prediction.ranking:
        return
    # the best configurations, the first of those predicted alike, and where the baseline stands
    metric = objectives(plan)[0][0]
    ranks = {id(one): str(rank) for rank, one in enumerate(prediction.ranking, start=1)}
    baseline = next((one for one in prediction.ranking if one.params == plan.effective(plan.baseline)), None)
    shown = prediction.distinct[:PREDICTED]
    shown += [baseline] if baseline and baseline not in shown else []
    varied = [name for name in plan.space.dimensions if len(plan.space.ends(name)) > 1]
    rows = [
        (ranks[id(one)] + " base" * (one is baseline), number_text(getattr(one.rates, metric)), _yes(one.fits),
         settings_text({key: one.params[key] for key in varied if key in one.params}))
        for one in shown
    ]  # fmt: skip
    title = f"predicted before anything is run ({len(prediction.ranking)} configurations)"
    console.print(table(title, ("rank", UNITS[metric], "fits", "settings"), rows))
    if infeasible := [one for one in prediction.ranking if not one.fits]:
        reason = (infeasible[0].reason or "").splitlines()[0]
        console.print(Text(f"{len(infeasible)} do not fit and come last, such as: {reason}", style="yellow"))


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def plan_dict(plan: Plan, folder: Path, prediction: Prediction, missing: int) -> dict[str, Any]:
    """As ``show_plan``, for a program; with the whole ranking."""
    again = plan.again()
    return {
        "suite": plan.suite.name, "study": plan.study_id, "folder": str(folder), "trials": plan.trials,
        "repeats": plan.suite.measure.repeats, "look_repeats": again.second_look, "confirm_repeats": again.confirm,
        "learning_repeats": again.learning, "seconds": plan.seconds,
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


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == "settings" else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table

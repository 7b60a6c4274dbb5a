"""What did not fit, failed, timed out or was pruned, and which measurements are not to be trusted blindly."""

import math
from typing import Any

from harness.measure.record import Record
from harness.report.page.model import MISSING, Cell, Code, Section, Table, share
from harness.report.studies import StudyFiles, Trial
from harness.study.best_trials import value as trial_value

STATES = {
    "infeasible": "did not fit",
    "failed": "failed",
    "timeout": "timed out",
    "pruned": "pruned: given up early, because its curve was behind",
}
LOGS = 20
"""reasons of several lines that are given in full"""


def unsuccessful(study: StudyFiles) -> Section:
    """Repeats that did not end as complete, and trials that broke a constraint, each with its reason."""
    failed = [record for record in study.records if record.state != "complete"]
    rows: list[tuple[Any, ...]] = []
    for record in failed:
        trial = Trial(record.trial, (record,))
        rows.append(
            (trial.name, record.repeat, STATES.get(record.state, record.state), _first_line(record.error),
             record.log or MISSING, trial.settings)
        )  # fmt: skip
    broken = [row for trial in study.trials if trial.complete for row in _broken(study, trial)]
    title = "Infeasible and failed trials"
    if not rows and not broken:
        return Section("problems", title, ("Every repeat was measured to its end, within all constraints.",))
    tables = []
    if rows:
        names = ("trial", "repeat", "what happened", "reason", "log", "settings")
        tables.append(Table.of("problems-table", "Repeats without a result", names, rows))
    if broken:
        columns = ("trial", "constraint", "value", "bounds", "settings")
        tables.append(Table.of("constraints-table", "Measured, but outside a constraint", columns, broken))
    counts = {state: sum(r.state == state for r in failed) for state in STATES}
    parts = [f"{count} {STATES[state].partition(':')[0]}" for state, count in counts.items() if count]
    if broken:
        count = len({row[0] for row in broken})
        parts.append(f"{count} trial{'s' if count > 1 else ''} outside a constraint")
    whole = [record for record in failed if record.error and "\n" in record.error][:LOGS]
    code = tuple(Code(f"Reason of trial {r.trial}, repeat {r.repeat}, in full", r.error or "", True) for r in whole)
    return Section("problems", title, (f"{', '.join(parts)}.",), (), tuple(tables), code)


def _first_line(error: str | None) -> str:
    return (error or "no reason was recorded").strip().partition("\n")[0]


def _broken(study: StudyFiles, trial: Trial) -> list[tuple[Any, ...]]:
    rows = []
    for metric, bounds in study.suite.constraints.metrics.items():
        value = trial_value(trial.records, metric)  # as the ranking judges it
        if bounds.excess(value) > 0:
            limits = [f"at least {bounds.min}"] * (bounds.min is not None)
            limits += [f"at most {bounds.max}"] * (bounds.max is not None)
            rows.append((trial.name, metric, Cell.of(value), " and ".join(limits), trial.settings))
    return rows


def unsteady(study: StudyFiles) -> Section:
    """Repeats whose window was not steady or that something disturbed."""
    marked = [record for record in study.records if record.unsteady or record.disturbed]
    title = "Unsteady and disturbed repeats"
    measured = [record for record in study.records if record.state == "complete"]
    if not marked:
        looked = any(math.isfinite(r.half_ratio) or math.isfinite(r.other_cpu_fraction) for r in measured)
        none = "None of the repeats was unsteady or disturbed."
        unknown = "These records do not say whether repeats were steady or disturbed."
        return Section("unsteady", title, (none if looked else unknown,))
    steady = sum(record.unsteady for record in marked)
    disturbed = sum(bool(record.disturbed) for record in marked)
    text = (
        f"{steady} unsteady, {disturbed} disturbed of {len(measured)} measured repeats. Unsteady: the throughputs of "
        "the two halves of the window differ by more than 5 %, or it was too short to tell. A disturbed repeat is kept "
        "here and tried again.",
    )
    columns = ("trial", "repeat", "attempt", "phase", "second half against first", "disturbed by", "others' CPU",
               "load", "throttled seconds", "env steps per second")  # fmt: skip
    table = Table.of("unsteady-table", "Repeats to be read with care", columns, [_row(record) for record in marked])
    return Section("unsteady", title, text, (), (table,))


def _row(record: Record) -> tuple[Any, ...]:
    return (
        str(record.trial), record.repeat, record.attempt, record.phase,
        share(record.half_ratio - 1, sign=True, digits=1), record.disturbed or MISSING,
        share(record.other_cpu_fraction), record.load_average, record.throttled_seconds, record.env_steps_per_second,
    )  # fmt: skip

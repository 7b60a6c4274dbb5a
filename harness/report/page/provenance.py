"""What failed or did not fit, which repeats to read with care, the machine, and how to repeat the study."""

import math
from typing import Any

from harness.files.yaml_file import to_yaml
from harness.measure import host
from harness.report.page.model import MISSING, Cell, Code, Row, Section, Table
from harness.report.studies import ReportedStudy, ReportedTrial
from harness.study.best_trials import value as trial_value
from harness.suite.text import count_text, metric_text

STATES = {
    "infeasible": "did not fit",
    "failed": "failed",
    "timeout": "timed out",
    "pruned": "pruned: given up early, because its curve was behind",
}
LOGS = 20
"""reasons of several lines that are given in full"""
UNKNOWN = "not recorded"


def unsuccessful(study: ReportedStudy) -> Section:
    """Repeats that did not end as complete, and trials that broke a constraint, each with its reason."""
    title = "Infeasible and failed trials"
    failed, rows, broken = [record for record in study.records if record.state != "complete"], list[Row](), list[Row]()
    for record in failed:
        trial, reason = ReportedTrial(record.trial, (record,)), (record.error or "no reason was recorded").strip()
        rows.append({
            "trial": trial.name, "repeat": record.repeat, "what happened": STATES[record.state],
            "reason": reason.partition("\n")[0], "log": record.log or MISSING, "settings": trial.settings,
        })  # fmt: skip
    for trial in study.trials:
        for metric, bounds in study.suite.constraints.metrics.items():
            value = trial_value(trial.records, metric)  # as the ranking takes it
            if trial.complete and bounds.excess(value) > 0:
                ends = {"at least": bounds.min, "at most": bounds.max}.items()
                broken.append({
                    "trial": trial.name, "constraint": metric_text(metric), "value": Cell.metric(metric, value),
                    "bounds": " and ".join(f"{end} {limit}" for end, limit in ends if limit is not None),
                    "settings": trial.settings,
                })  # fmt: skip
    if not rows and not broken:
        return Section("problems", title, ["Every repeat was measured to its end, within all constraints."])
    counts = {text.partition(":")[0]: sum(r.state == state for r in failed) for state, text in STATES.items()}
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    if count := len({row["trial"] for row in broken}):
        parts.append(f"{count_text(count, 'trial')} outside a constraint")
    whole = [record for record in failed if record.error and "\n" in record.error][:LOGS]
    code = [Code(f"Reason of trial {r.trial}, repeat {r.repeat}, in full", r.error or "", True) for r in whole]
    tables = [
        Table.of("problems-table", "Repeats without a result", rows),
        Table.of("constraints-table", "Measured, but outside a constraint", broken),
    ]
    return Section("problems", title, [f"{', '.join(parts)}."], (), tables, code)


def unsteady(study: ReportedStudy) -> Section:
    """Repeats whose window was not steady or that something disturbed."""
    title = "Unsteady and disturbed repeats"
    marked = [record for record in study.records if record.unsteady or record.disturbed]
    complete = [record for record in study.records if record.state == "complete"]
    if not marked:
        looked = any(math.isfinite(r.half_ratio) or math.isfinite(r.other_cpu_fraction) for r in complete)
        none = "None of the repeats was unsteady or disturbed."
        unknown = "These records do not say whether repeats were steady or disturbed."
        return Section("unsteady", title, [none if looked else unknown])
    text = (
        f"{sum(r.unsteady for r in marked)} unsteady, {sum(bool(r.disturbed) for r in marked)} disturbed of "
        f"{len(complete)} complete attempts. Unsteady: the throughputs of the two halves of the window differ by more "
        "than 5%, or it was too short to tell. A disturbed repeat is kept here and tried again."
    )
    rows = [
        {"trial": str(r.trial), "repeat": r.repeat, "attempt": r.attempt, "phase": r.phase,
         "second half against first": Cell.share(r.half_ratio - 1, "+", 1), "disturbed by": r.disturbed or MISSING,
         "others' CPU": Cell.share(r.other_cpu_fraction), "load": r.load_average,
         "throttled seconds": r.throttled_seconds, "env steps per second": r.env_steps_per_second}
        for r in marked
    ]  # fmt: skip
    return Section("unsteady", title, [text], (), [Table.of("unsteady-table", "Repeats to be read with care", rows)])


def described(study: ReportedStudy) -> dict[str, str]:
    """The machine by what the manifest says of it, as the verb ``machine`` has it; empty where it does not."""
    try:
        return host.rows(study.manifest["machine"])
    except (KeyError, TypeError):
        return {}


def machine(study: ReportedStudy) -> Section:
    """What the study was measured on."""
    names = ", ".join(sorted({record.machine for record in study.records if record.machine}))
    facts = described(study)
    if not facts:
        missing = f"The manifest does not describe the machine; the records name {names or 'none'}."
        return Section("machine", "The machine", [missing])
    several = f"Repeats were measured on several machines: {names}. The last one is described."
    table = Table.facts("machine-table", "Hardware and system", facts)
    return Section("machine", "The machine", [several] * ("," in names), (), [table])


def reproduce(study: ReportedStudy) -> Section:
    """Commands, commit and versions."""
    manifest, records = study.manifest, study.records
    runs = manifest.get("runs") or [manifest]

    def each(values: Any, otherwise: str) -> str:
        return "; ".join(sorted({str(value) for value in values if value})) or otherwise

    dirty = any(r.dirty for r in records) or any(run.get("dirty") for run in runs)
    facts = {
        "commit": each([manifest.get("commit"), *(record.commit for record in records)], UNKNOWN),
        "changes that the commit does not have": "yes: these numbers belong to no commit" if dirty else "none",
        "threads": each((r.threads for r in records), UNKNOWN),
        "first seed": str(records[0].seed) if records else UNKNOWN,
        "measured with a timeline": "yes, which costs speed" if any(r.traced for r in records) else "no",
        "nodes": each((r.node for r in records), "this machine alone"),
        "trials shared nodes": "yes, which disturbs them" if any(r.shared for r in records) else "no",
        "left out of the search": each(manifest.get("dropped") or [], "nothing"),
    }
    table = Table.facts("provenance-table", "Where the numbers come from", facts)
    commands = list(dict.fromkeys(str(run["command"]) for run in runs if run.get("command")))
    text = "Run this at that commit; the same command goes on where the study stopped."
    if not commands:
        text = "No manifest.json could be read, so the command is not known; the suite below is what was run."
    code = [Code("Command" + (f" {i + 1}" if len(commands) > 1 else ""), c) for i, c in enumerate(commands)]
    code.append(Code("The suite as it was run", to_yaml(study.suite.to_dict()), folded=True))
    if study.best:
        code.append(Code("best.yaml", study.best, folded=True))
    return Section("reproduce", "How to reproduce it", [text], (), [table], code)

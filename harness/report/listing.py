"""The studies under a results folder, the suites and the environments."""

from pathlib import Path
from typing import Any

from harness.files.yaml_file import InputError
from harness.measure.record import typical
from harness.study.best_trials import judged_by, of_one_kind, ranking
from harness.study.results import RecordedStudy, find_all, with_records
from harness.suite import shipped
from harness.suite.text import number_text


def collect(results: Path, suite_folder: Path, name: str | None = None) -> dict[str, Any]:
    """Studies, suites and environments, for ``list``: shipped suites by name, those of a folder as paths.

    ``name``: only the studies that it stands for, as ``find_all`` has them.
    """
    from unilab.envs import names

    if name is not None:
        return {"studies": [_study(folder) for folder in find_all(name, results)]}
    studies = [_study(folder) for folder in with_records(results)]
    own = suite_folder.resolve() != shipped.FOLDER.resolve()  # in a checkout they are those that are shipped
    files = [str(path) for path in sorted(suite_folder.glob("*.yaml"))] if own else []
    return {"studies": studies, "suites": [*shipped.names(), *files], "environments": list(names())}


def _study(folder: Path) -> dict[str, Any]:
    study = RecordedStudy(folder)
    try:
        records = study.records
    except OSError as error:
        problem = f"trials.jsonl cannot be read: {error.strerror or error}"
        return {"folder": str(folder), "records": 0, "started_at": "", "problem": problem}
    content = {"folder": str(folder), "records": len(records), "started_at": records[0].started_at if records else ""}
    content |= {"name": study.given_name} if study.given_name else {}
    try:
        suite = study.suite
    except InputError as error:
        return content | {"problem": str(error)}
    metric, tasks = suite.objectives[0].metric, len(suite.tasks)
    order = ranking(records, suite) if tasks == 1 else []  # values of two environments are not compared
    own = judged_by([r for r in of_one_kind(records) if order and r.trial == order[0]])
    best, kind = (typical(own, metric), own[0].kind) if own else (None, None)
    content |= {"metric": metric, "best": best, "kind": kind, "environments": tasks}
    return content | {"trials": len({r.trial for r in records})}


def text(content: dict[str, Any]) -> str:
    """As lines for people."""
    lines = ["studies:"]
    for study in content["studies"]:
        if "problem" in study:
            lines.append(f"  {study['folder']}  {study['records']} records, {study['problem']}")
            continue
        best = "nothing complete" if study["environments"] == 1 else f"{study['environments']} environments"
        if study["best"] is not None:
            best = f"best {study['metric']} {number_text(study['best'])} ({study['kind']})"
        named = f" ({study['name']})" if "name" in study else ""
        lines.append(f"  {study['folder']}{named}  {study['trials']} trials, {best}, {study['started_at']}")
    lines += ["  none"] if not content["studies"] else []
    for kind in ("suites", "environments"):
        lines += [f"{kind}:", *(f"  {name}" for name in content[kind])] if kind in content else []
    return "\n".join(lines)

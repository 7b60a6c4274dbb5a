"""A study in the result format of asv (airspeed velocity 0.6), so that ``asv publish`` and ``asv show`` display it.

asv takes lower as better and compares like with like by exact strings. The export therefore has the seconds per env
step, the seconds per sample (a transition that goes through an update), the negated episode return, the negated return
at a budget and the seconds to a target return, each where it was measured. The one parameter is the configuration: the
baseline and those that the suite pins, by name and settings. What a search finds is left out: it is another one each
time, and its history would change without any change of the code. Samples of asv's statistics are the repeats of the
confirmation, or of the search where nothing was confirmed. What was measured in turns and what was measured alone are
benchmarks of their own.

asv's discovery rewrites ``benchmarks.json``; ``suites/asv/bench_studies.py`` gives it back what is exported here.
"""

import hashlib
import json
import math
import re
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from asv.machine import Machine
from asv.results import Results
from asv.runner import BenchmarkResult

from harness.files.locks import locked
from harness.files.yaml_file import Document
from harness.measure.record import Phase, Record, attempts_that_count, write_atomic
from harness.study.best_trials import judged_by, of_one_kind
from harness.study.results import RecordedStudy
from unilab.errors import UserError

BENCHMARKS_VERSION = 2
BASELINE = "baseline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SUITE_IDENTITY = ("trainer", "trainers", "env", "envs", "fixed", "measure")
"""numbers are comparable while these parts of a suite are the same"""
TRACKED: dict[str, tuple[str, Callable[[Record], float]]] = {
    "track_seconds_per_env_step": ("seconds", lambda record: _seconds_each(record.env_steps_per_second)),
    "track_seconds_per_sample": ("seconds", lambda record: _seconds_each(record.samples_per_second)),
    "track_negated_episode_return": ("negated return", lambda record: -record.episode_return),
    "track_negated_return_at_budget": ("negated return", lambda record: -record.return_at_budget),
    "track_seconds_to_return": ("seconds", lambda record: record.seconds_to_return),
    "track_seconds_to_success": ("seconds", lambda record: record.seconds_to_success),
}
"""numbers of a repeat, lower is better: their units, and how they are made"""
AWAITED = {"track_seconds_to_return": "target_return", "track_seconds_to_success": "judge"}
"""what `measure` of a suite has where a repeat without the number did not get there"""


class AsvExportError(UserError, ValueError):
    """A study that asv cannot show: which, why, and what to do."""


def _seconds_each(rate: float) -> float:
    """Infinite where nothing happened in the window."""
    return 1 / rate if rate else math.inf


def export(study_dir: Path, asv_dir: Path) -> Path:
    """Write a study to ``asv_dir``, at the commit that it was measured at last; doing it again replaces what it wrote.

    All its records are of the same code, even where their commits differ (by a README, for example).

    Args:
        study_dir: ``results/<suite>/<study id>``.
        asv_dir: the results folder of ``asv.conf.json``; made when it is not there.

    Returns:
        The result file, ``<asv_dir>/<machine>/<commit>-<suite>-<digest of the suite>.json``.

    Raises:
        AsvExportError: there is no commit, the working tree had changes, nothing was measured, or a file is damaged.
    """
    study = RecordedStudy(study_dir)
    manifest, records = study.manifest, study.records
    path = study_dir / "manifest.json"
    if not manifest:
        raise AsvExportError(f"{path}: not the folder of a study, or damaged; restore the file or run the study again")
    for key in ("study", "suite", "machine_name"):  # anybody may have written them, and folders and files are named so
        if not NAME.fullmatch(str(manifest.get(key, ""))):
            raise AsvExportError(f"{path}: '{key}' is no name; restore the file or run the study again")
    if not any(record.state == "complete" for record in records):
        raise AsvExportError(f"{study_dir}: no repeat was measured, nothing to export")
    if any(record.traced for record in records):
        raise AsvExportError(
            f"{study_dir}: tracing takes some of the speed; run the suite without --trace to export it"
        )
    if any(record.shared for record in records):
        raise AsvExportError(f"{study_dir}: trials shared nodes; run the suite without --share-nodes to export it")
    commit = records[-1].commit
    if not commit:
        raise AsvExportError(f"{study_dir}: asv shows results by commit; run the study from a git repository")
    if any(run["dirty"] for run in manifest["runs"] if run["commit"] == commit):
        raise AsvExportError(
            f"{study_dir}: the working tree had changes that are not in commit {commit[:8]}, so its history must not "
            "show these numbers; commit the changes and measure again in a new study"
        )
    configurations = _configurations(of_one_kind(attempts_that_count(records)))
    if not configurations:
        raise AsvExportError(f"{study_dir}: neither the baseline nor a pinned configuration was measured")
    with locked(asv_dir):
        return _write(study, commit, configurations, asv_dir)


def _configurations(records: Sequence[Record]) -> dict[str, list[Record]]:
    """What is exported, by name and settings: the baseline and what the suite pins, their numbers of one kind.

    Pruned trials are neither measured nor failed: they are left out.
    """
    pruned = {record.trial for record in records if record.state == "pruned"}
    phase: Phase = "confirm" if any(record.phase == "confirm" for record in records) else "search"
    named: dict[str, list[Record]] = {}
    for record in judged_by([record for record in records if record.trial not in pruned], phase):
        for name in (BASELINE if record.baseline else "", record.pinned):
            if name:  # other settings under the name are not compared with these
                named.setdefault(f"{name}: {describe(record.params)}", []).append(record)
    return named


def describe(params: dict[str, Any]) -> str:
    """A configuration as asv's parameter: ``num_envs=1024, num_slots=4``."""
    return ", ".join(f"{name}={value!r}" for name, value in sorted(params.items())) or "defaults"


def _write(study: RecordedStudy, commit: str, configurations: dict[str, list[Record]], asv_dir: Path) -> Path:
    """Add the study's benchmarks to the index, earlier configurations kept, and write its machine and its results."""
    manifest, name = study.manifest, study.manifest["suite"]
    machine = {key: manifest["machine"][key] for key in ("os", "cpu")} | {
        "machine": manifest["machine_name"], "arch": manifest["machine"]["architecture"],
        "num_cpu": str(manifest["machine"]["cores_usable"]), "ram": str(manifest["machine"]["ram_total"]),
        "gpu": ", ".join(gpu["name"] for gpu in manifest["machine"]["gpus"]) or "none",
    }  # fmt: skip
    records = [record for own in configurations.values() for record in own]
    started = min(datetime.fromisoformat(record.started_at) for record in records)
    python = ".".join(manifest["python"].split(".")[:2])
    results = Results(
        machine | {"python": python}, dict(manifest["versions"]), commit, _commit_milliseconds(commit, started), python,
        f"{name}-{manifest['study'].partition('-')[0]}",  # the same name for all code
        {},
    )  # fmt: skip

    suite = Document.load(study.folder / "suite.yaml").content
    parts = {key: suite[key] for key in SUITE_IDENTITY if key in suite}
    if "measure" in parts:  # whether turns were taken decides about the benchmark's name
        parts["measure"] = {key: value for key, value in parts["measure"].items() if key != "turns"}
    version = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    class_name = re.sub(r"\W", "_", name)
    if class_name != name:  # suites whose names differ have classes whose names differ
        class_name += f"_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    # numbers of different kinds have different histories
    kinds = {record.kind for record in records if record.state == "complete"}
    kind = "".join(f"_{kind.replace(' ', '_')}" for kind in kinds if kind != "alone")

    path = asv_dir / "benchmarks.json"
    known = read_benchmarks(path) if path.exists() else {}
    for tracked, (unit, of) in TRACKED.items():
        missing = math.inf if suite.get("measure", {}).get(AWAITED.get(tracked)) is not None else math.nan
        samples: dict[str, list[float]] = {}
        medians: dict[str, float | None] = {}  # asv's own type: NaN where nothing was measured, None where it failed
        for text, own in configurations.items():
            complete = [of(record) for record in own if record.state == "complete"]
            # as in reports, what did not get there counts as later than all others
            values = [value for one in complete if not math.isnan(value := missing if math.isnan(one) else one)]
            middle = statistics.median(values or [math.nan])
            medians[repr(text)] = None if math.isinf(middle) or not complete else middle
            samples[repr(text)] = values
        if not any(samples.values()):  # no repeat has this number
            continue
        full_name = f"bench_studies.{class_name}.{tracked}{kind}"
        earlier = known.get(full_name, {})
        params = union(earlier["params"][0] if earlier.get("version") == version else [], list(medians))
        known[full_name] = {
            "code": f"# {name}: {tracked}, exported from a study", "name": full_name,
            "param_names": ["configuration"], "params": [params], "timeout": 60.0, "type": "track", "unit": unit,
            "version": version,
        }  # fmt: skip
        # for asv's statistics, which have no place for what did not get there
        by_parameter = [[] if math.inf in samples.get(name, []) else samples.get(name, []) for name in params]
        result = BenchmarkResult(
            result=[medians.get(name, math.nan) for name in params], samples=[own or None for own in by_parameter],
            number=[1 if own else None for own in by_parameter], errcode=0, stderr="", profile=None,
        )  # fmt: skip
        results.add_result(known[full_name], result, started_at=started, record_samples=True)
    write_atomic(path, json_text(known, BENCHMARKS_VERSION))
    write_atomic(asv_dir / machine["machine"] / "machine.json", json_text(machine, Machine.api_version))
    results.save(str(asv_dir))
    return asv_dir / str(results._filename)


def _commit_milliseconds(commit: str, otherwise: datetime) -> int:
    """The author date, by which asv orders its graphs; ``otherwise`` where the commit's repository is not at hand."""
    try:
        command = ["git", "show", "-s", "--format=%at", "--end-of-options", commit]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return int(otherwise.timestamp() * 1000)
    return int(done.stdout) * 1000 if done.returncode == 0 else int(otherwise.timestamp() * 1000)


def read_benchmarks(path: Path) -> dict[str, Any]:
    """asv's index of what there is, by name.

    Raises:
        AsvExportError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AsvExportError(f"{path}: cannot be read ({error}); restore it, or move it away") from error
    if not isinstance(content, dict):
        raise AsvExportError(f"{path}: is no index of asv's benchmarks; restore it, or move it away")
    return content


def union(some: Sequence[str], others: Sequence[str]) -> list[str]:
    """The values of a parameter in the order that asv shows them in."""
    return sorted({*some, *others}, key=lambda one: (not one.startswith(f"'{BASELINE}: "), one))


def json_text(content: dict[str, Any], version: int) -> str:
    return json.dumps(content | {"version": version}, indent=4, sort_keys=True) + "\n"

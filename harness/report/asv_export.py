"""A study in the result format of asv (airspeed velocity 0.6), so that ``asv publish`` and ``asv show`` display it.

asv takes lower as better and compares like with like by exact strings. Exported are therefore the seconds per env
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
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from asv.machine import Machine
from asv.results import Results
from asv.runner import BenchmarkResult

from harness.files.locks import locked
from harness.files.yaml_file import Document
from harness.measure.record import Phase, Record, attempts_that_count, read_records, write_atomic
from harness.study.best_trials import judged_by, of_one_kind
from unilab.errors import UserError

BENCHMARKS_VERSION = 2
BASELINE = "baseline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SUITE_IDENTITY = ("trainer", "trainers", "env", "fixed", "measure")
"""numbers are comparable while these parts of a suite are the same"""


class ExportError(UserError, ValueError):
    """A study that asv cannot show: which, why, and what to do."""


@dataclass(frozen=True)
class Tracked:
    """One number of a repeat, lower is better."""

    name: str
    unit: str
    of: Callable[[Record], float]


TRACKED = (
    Tracked("track_seconds_per_env_step", "seconds", lambda record: _seconds_each(record.env_steps_per_second)),
    Tracked("track_seconds_per_sample", "seconds", lambda record: _seconds_each(record.samples_per_second)),
    Tracked("track_negated_episode_return", "negated return", lambda record: -record.episode_return),
    Tracked("track_negated_return_at_budget", "negated return", lambda record: -record.return_at_budget),
    Tracked("track_seconds_to_return", "seconds", lambda record: record.seconds_to_return),
)


def _seconds_each(rate: float) -> float:
    """Infinite, which is not exported, where nothing happened in the window."""
    return 1 / rate if rate else math.inf


def export(study_dir: Path, asv_dir: Path) -> Path:
    """Write a study to ``asv_dir``, at the commit that it was measured at last; doing it again replaces what it wrote.

    All its records are of the same code, also where the commits differ, in a README say.

    Args:
        study_dir: ``results/<suite>/<study id>``.
        asv_dir: the results folder of ``asv.conf.json``; made when it is not there.

    Returns:
        The result file, ``<asv_dir>/<machine>/<commit>-<suite>-<digest of the suite>.json``.

    Raises:
        ExportError: there is no commit, the working tree had changes, nothing was measured, or a file is damaged.
    """
    manifest = _read_manifest(study_dir)
    records = read_records(study_dir / "trials.jsonl")
    if not any(record.state == "complete" for record in records):
        raise ExportError(f"{study_dir}: no repeat was measured, nothing to export")
    if any(record.traced for record in records):
        raise ExportError(f"{study_dir}: tracing takes some of the speed; run the suite without --trace to export it")
    if any(record.shared for record in records):
        raise ExportError(f"{study_dir}: trials shared nodes; run the suite without --share-nodes to export it")
    commit = records[-1].commit
    _check_commit(study_dir, manifest, commit)
    configurations = _configurations(of_one_kind(attempts_that_count(records)))
    if not configurations:
        raise ExportError(f"{study_dir}: neither the baseline nor a pinned configuration was measured")
    machine = _machine(manifest)
    with locked(asv_dir):
        benchmarks = _add_benchmarks(asv_dir, manifest["suite"], _identity(study_dir), configurations)
        write_atomic(asv_dir / machine["machine"] / "machine.json", json_text(machine, Machine.api_version))
        return _write_results(asv_dir, manifest | {"commit": commit}, machine, benchmarks, configurations)


def _read_manifest(study_dir: Path) -> dict[str, Any]:
    path = study_dir / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path}: not the folder of a study ({error.strerror})") from error
    except ValueError as error:
        raise ExportError(f"{path}: not readable as JSON ({error}); restore the file or run the study again") from error
    for key in ("study", "suite", "machine_name"):  # anybody may have written them, and folders and files are named so
        if not isinstance(manifest, dict) or not NAME.fullmatch(str(manifest.get(key, ""))):
            raise ExportError(f"{path}: '{key}' is no name; restore the file or run the study again")
    return manifest


def _check_commit(study_dir: Path, manifest: dict[str, Any], commit: str) -> None:
    if not commit:
        raise ExportError(f"{study_dir}: asv shows results by commit; run the study from a git repository")
    if any(run["dirty"] for run in manifest["runs"] if run["commit"] == commit):
        raise ExportError(
            f"{study_dir}: the working tree had changes that are not in commit {commit[:8]}, so its history must not "
            "show these numbers; commit the changes and measure again in a new study"
        )


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


def _samples(tracked: Tracked, records: Sequence[Record]) -> list[float] | None:
    """Finite values of the complete repeats; None when every repeat failed."""
    complete = [r for r in records if r.state == "complete"]
    if not complete:
        return None
    return [value for value in map(tracked.of, complete) if math.isfinite(value)]


def _identity(study_dir: Path) -> str:
    """asv's benchmark version: a digest of the parts of the suite that decide what the numbers mean."""
    suite = Document.load(study_dir / "suite.yaml").content
    parts = {key: suite[key] for key in SUITE_IDENTITY if key in suite}
    if "measure" in parts:  # whether turns were taken decides about the benchmark's name
        parts["measure"] = {key: value for key, value in parts["measure"].items() if key != "turns"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _add_benchmarks(
    asv_dir: Path, suite: str, version: str, configurations: dict[str, list[Record]]
) -> dict[str, dict[str, Any]]:
    """Add the suite's benchmarks to ``benchmarks.json``, earlier configurations kept; those benchmarks by metric."""
    path = asv_dir / "benchmarks.json"
    known = read_benchmarks(path) if path.exists() else {}
    class_name = re.sub(r"\W", "_", suite)
    if class_name != suite:  # suites whose names differ have classes whose names differ
        class_name += f"_{hashlib.sha256(suite.encode()).hexdigest()[:6]}"
    # numbers of different kinds have different histories
    kinds = {record.kind for own in configurations.values() for record in own if record.state == "complete"}
    kind = "".join(f"_{kind.replace(' ', '_')}" for kind in kinds if kind != "alone")
    own = {}
    for tracked in _measured(configurations):
        name = f"bench_studies.{class_name}.{tracked.name}{kind}"
        earlier = known.get(name, {})
        old = earlier["params"][0] if earlier.get("version") == version else []
        new = [repr(text) for text in configurations]
        own[tracked.name] = known[name] = {
            "code": f"# {suite}: {tracked.name}, exported from a study",
            "name": name,
            "param_names": ["configuration"],
            "params": [union(old, new)],
            "timeout": 60.0,
            "type": "track",
            "unit": tracked.unit,
            "version": version,
        }
    write_atomic(path, json_text(known, BENCHMARKS_VERSION))
    return own


def read_benchmarks(path: Path) -> dict[str, Any]:
    """asv's index of what there is, by name.

    Raises:
        ExportError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); restore it, or move it away") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path}: is no index of asv's benchmarks; restore it, or move it away")
    return content


def _measured(configurations: dict[str, list[Record]]) -> list[Tracked]:
    """The numbers that at least one repeat has."""
    return [tracked for tracked in TRACKED if any(_samples(tracked, own) for own in configurations.values())]


def union(some: Sequence[str], others: Sequence[str]) -> list[str]:
    """The values of a parameter in the order that asv shows them in."""
    return sorted({*some, *others}, key=lambda one: (not one.startswith(f"'{BASELINE}: "), one))


def _write_results(
    asv_dir: Path,
    manifest: dict[str, Any],
    machine: dict[str, str],
    benchmarks: dict[str, dict[str, Any]],
    configurations: dict[str, list[Record]],
) -> Path:
    records = [record for own in configurations.values() for record in own]
    started = min(datetime.fromisoformat(r.started_at) for r in records)
    minor_version = ".".join(manifest["python"].split(".")[:2])
    results = Results(
        machine | {"python": minor_version},
        dict(manifest["versions"]),
        manifest["commit"],
        _commit_milliseconds(manifest["commit"], started),
        minor_version,
        f"{manifest['suite']}-{manifest['study'].partition('-')[0]}",  # the same name for all code
        {},
    )
    for tracked in _measured(configurations):
        samples = {repr(text): _samples(tracked, own) for text, own in configurations.items()}
        benchmark = benchmarks[tracked.name]
        values = [samples.get(parameter, []) for parameter in benchmark["params"][0]]
        results.add_result(benchmark, _benchmark_result(values), started_at=started, record_samples=True)
    results.save(str(asv_dir))
    return asv_dir / str(results._filename)


def _benchmark_result(samples: Sequence[list[float] | None]) -> BenchmarkResult:
    """asv's own type: NaN where nothing was measured, None where it failed, else samples for asv's statistics."""
    return BenchmarkResult(
        result=[None if own is None else math.nan if not own else statistics.median(own) for own in samples],
        samples=[own or None for own in samples],
        number=[1 if own else None for own in samples],
        errcode=0,
        stderr="",
        profile=None,
    )


def _commit_milliseconds(commit: str, otherwise: datetime) -> int:
    """The author date, by which asv orders its graphs; ``otherwise`` where the commit's repository is not at hand."""
    try:
        command = ["git", "show", "-s", "--format=%at", "--end-of-options", commit]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return int(otherwise.timestamp() * 1000)
    return int(done.stdout) * 1000 if done.returncode == 0 else int(otherwise.timestamp() * 1000)


def _machine(manifest: dict[str, Any]) -> dict[str, str]:
    """The machine in asv's words."""
    machine = manifest["machine"]
    return {
        "machine": manifest["machine_name"],
        "os": machine["os"],
        "arch": machine["architecture"],
        "cpu": machine["cpu"],
        "num_cpu": str(machine["cores_usable"]),
        "ram": str(machine["ram_total"]),
        "gpu": ", ".join(gpu["name"] for gpu in machine["gpus"]) or "none",
    }


def json_text(content: dict[str, Any], version: int) -> str:
    return json.dumps(content | {"version": version}, indent=4, sort_keys=True) + "\n"

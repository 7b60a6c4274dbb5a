"""A study in the result format of asv (airspeed velocity 0.6), so that ``asv publish`` and ``asv show`` display it.

asv takes lower as better and compares like with like by exact strings. Exported are therefore the seconds per env
step, the seconds per sample (a transition that goes through an update), the negated episode return, the negated return
at a budget and the seconds to a target return, each where it was measured. The one parameter is the configuration as
text, and ``best`` and ``baseline`` name the ends of the comparison, whatever their settings are, so that their history
goes on from commit to commit. Samples of asv's statistics are the repeats of the confirmation (of the search, for a
trial that was not confirmed). What was measured in turns and what was measured alone are benchmarks of their own.

asv's discovery rewrites ``benchmarks.json``; ``suites/asv/bench_studies.py`` gives it back what is exported here.
"""

import hashlib
import json
import math
import re
import statistics
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from asv.machine import Machine
from asv.results import Results
from asv.runner import BenchmarkResult
from ruamel.yaml import YAML

from harness.locks import locked
from harness.record import Phase, Record, attempts_that_count, read_records, write_atomic
from harness.study import feasible, judged_by, of_one_kind
from harness.suite import load

BENCHMARKS_VERSION = 2
BEST, BASELINE = "best", "baseline"
SUITE_IDENTITY = ("trainer", "trainers", "env", "fixed", "measure")
"""numbers are comparable while these parts of a suite are the same"""


class ExportError(ValueError):
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
    """Write the records of the study's last measured commit to ``asv_dir``; doing it again replaces what it wrote.

    Args:
        study_dir: ``results/<suite>/<study id>``.
        asv_dir: the results folder of ``asv.conf.json``; made when it is not there.

    Returns:
        The result file, ``<asv_dir>/<machine>/<commit>-<study>.json``.

    Raises:
        ExportError: there is no commit, the working tree had changes, or nothing was measured.
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
    here = of_one_kind([record for record in attempts_that_count(records) if record.commit == commit])
    configurations = _configurations(here)
    machine, suite = _machine(manifest), load(study_dir / "suite.yaml").suite
    met = {trial for trial in {r.trial for r in here} if feasible([r for r in here if r.trial == trial], suite)}
    allowed = {text for text, own in configurations.items() if own[0].trial in met}
    with locked(asv_dir):
        benchmarks = _add_benchmarks(asv_dir, manifest["suite"], _identity(study_dir), configurations)
        write_atomic(asv_dir / machine["machine"] / "machine.json", json_text(machine, Machine.api_version))
        return _write_results(asv_dir, manifest | {"commit": commit}, machine, benchmarks, configurations, allowed)


def _read_manifest(study_dir: Path) -> dict[str, Any]:
    path = study_dir / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path}: not the folder of a study ({error.strerror})") from error
    except ValueError as error:
        raise ExportError(f"{path}: not readable as JSON ({error}); restore the file or run the study again") from error
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
    """What is exported, by name: what was confirmed, the baseline among it; all trials when nothing was.

    Pruned trials are neither measured nor failed: they are left out.
    """
    trials: dict[int, list[Record]] = {}
    pruned = {record.trial for record in records if record.state == "pruned"}
    for record in records:
        if record.trial not in pruned:
            trials.setdefault(record.trial, []).append(record)
    confirmed = {r.trial for r in records if r.phase == "confirm"}
    baselines = {r.trial for r in records if r.baseline}
    phase: Phase = "confirm" if confirmed else "search"  # numbers of one kind
    chosen = {trial: judged_by(trials[trial], phase) for trial in trials if not confirmed or trial in confirmed}
    result = {describe(own[0].params): own for own in chosen.values()}
    for trial in sorted(baselines & chosen.keys()):
        result[BASELINE] = chosen[trial]
    return result


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
    suite = YAML(typ="safe").load((study_dir / "suite.yaml").read_text(encoding="utf-8"))
    parts = {key: suite[key] for key in SUITE_IDENTITY if key in suite}
    if "measure" in parts:  # whether turns were taken decides about the benchmark's name
        parts["measure"] = {key: value for key, value in parts["measure"].items() if key != "turns"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _add_benchmarks(
    asv_dir: Path, suite: str, version: str, configurations: dict[str, list[Record]]
) -> dict[str, dict[str, Any]]:
    """Add the suite's benchmarks to ``benchmarks.json``, earlier configurations kept; those benchmarks by metric."""
    path = asv_dir / "benchmarks.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    class_name = re.sub(r"\W", "_", suite)
    own = {}
    for tracked in _measured(configurations):
        name = f"bench_studies.{class_name}.{tracked.name}{_kind(configurations)}"
        earlier = known.get(name, {})
        old = earlier["params"][0] if earlier.get("version") == version else []
        new = [repr(text) for text in (BEST, *configurations)]
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


def _kind(configurations: dict[str, list[Record]]) -> str:
    """What the names of benchmarks end with: numbers of different kinds have different histories."""
    kinds = {record.kind for own in configurations.values() for record in own if record.state == "complete"}
    return "".join(f"_{kind.replace(' ', '_')}" for kind in kinds if kind != "alone")


def _measured(configurations: dict[str, list[Record]]) -> list[Tracked]:
    """The numbers that at least one repeat has."""
    return [tracked for tracked in TRACKED if any(_samples(tracked, own) for own in configurations.values())]


def union(some: Sequence[str], others: Sequence[str]) -> list[str]:
    """The values of a parameter in the order that asv shows them in."""
    return sorted({*some, *others}, key=_best_and_baseline_first)


def _best_and_baseline_first(parameter: str) -> tuple[bool, bool, str]:
    return parameter != repr(BEST), parameter != repr(BASELINE), parameter


def _write_results(
    asv_dir: Path,
    manifest: dict[str, Any],
    machine: dict[str, str],
    benchmarks: dict[str, dict[str, Any]],
    configurations: dict[str, list[Record]],
    allowed: Collection[str],
) -> Path:
    """``allowed`` names the configurations that ``best`` may be: those that met the suite's constraints."""
    records = [record for own in configurations.values() for record in own]
    started = min(datetime.fromisoformat(r.started_at) for r in records)
    minor_version = ".".join(manifest["python"].split(".")[:2])
    results = Results(
        machine | {"python": minor_version},
        dict(manifest["versions"]),
        manifest["commit"],
        _commit_milliseconds(manifest["commit"], started),
        minor_version,
        manifest["study"].partition("-")[0],  # the same name for all code
        {},
    )
    for tracked in _measured(configurations):
        samples = {repr(text): _samples(tracked, own) for text, own in configurations.items()}
        met = [own for text in allowed if (own := samples[repr(text)])]
        samples[repr(BEST)] = min(met, key=statistics.median, default=[])
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
        done = subprocess.run(["git", "show", "-s", "--format=%at", commit], capture_output=True, text=True, timeout=10)
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

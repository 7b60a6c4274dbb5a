"""What studies have exported, so that asv's discovery keeps it: ``harness.report.asv_export`` alone makes numbers."""

import ast
import json
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[2] / "results" / "asv" / "benchmarks.json"


def _measured_by_studies(*_: Any) -> None:
    raise NotImplementedError("measured by `python -m harness run`, not by asv")  # asv shows it as skipped


def _stub(exported: dict[str, Any]) -> Any:
    """A benchmark with the version, unit and parameters that were exported."""

    def track(self: Any, configuration: str) -> float:
        raise AssertionError("setup skips this benchmark")

    track.version = exported["version"]  # type: ignore[attr-defined]
    track.unit = exported["unit"]  # type: ignore[attr-defined]
    track.timeout = exported["timeout"]  # type: ignore[attr-defined]
    track.params = [[ast.literal_eval(value) for value in values] for values in exported["params"]]  # type: ignore[attr-defined]
    track.param_names = exported["param_names"]  # type: ignore[attr-defined]
    return track


def _classes() -> dict[str, type]:
    """One class a suite, one method a metric: ``bench_studies.<suite>.<metric>``."""
    known = json.loads(BENCHMARKS.read_text(encoding="utf-8")) if BENCHMARKS.exists() else {}
    members: dict[str, dict[str, Any]] = {}
    for name, exported in known.items():
        if name.startswith("bench_studies."):
            _, suite, metric = name.split(".")
            members.setdefault(suite, {"setup": _measured_by_studies})[metric] = _stub(exported)
    return {suite: type(suite, (), {"__module__": __name__, **own}) for suite, own in members.items()}


globals().update(_classes())

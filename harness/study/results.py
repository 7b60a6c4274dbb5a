"""Which studies a results folder has, by the names that people give them."""

import json
from pathlib import Path
from typing import Any

from harness.files.yaml_file import InputError


def find(name: str, results: Path) -> Path:
    """The folder of a study: a path, ``<suite>/<study id>`` below ``results``, or a suite, whose newest study is meant.

    Raises:
        InputError: there is none.
    """
    studies = find_all(name, results)
    return max(studies, key=last_run)


def find_all(name: str, results: Path) -> list[Path]:
    """As ``find``, but all studies of a suite, oldest first.

    Raises:
        InputError: there is none.
    """
    for folder in (Path(name), results / name):
        if (folder / "suite.yaml").is_file():
            return [folder]
        studies = [path.parent for path in folder.glob("*/suite.yaml")]
        if studies:
            return sorted(studies, key=last_run)
    there = sorted(str(path.parent.relative_to(results)) for path in results.glob("*/*/suite.yaml"))
    known = f"studies in {results}: {', '.join(there)}" if there else f"there are no studies in {results}"
    raise InputError(name, None, "", f"is no study (a folder with suite.yaml, a suite or suite/study id); {known}")


def last_run(folder: Path) -> str:
    """When a study was last run, as text that sorts; empty when its manifest does not say."""
    runs = (_read_json(folder / "manifest.json") or {}).get("runs")
    last = runs[-1] if isinstance(runs, list) and runs else None
    return str(last.get("started_at", "")) if isinstance(last, dict) else ""


def _read_json(path: Path) -> dict[str, Any] | None:
    """None when the file is absent or was cut short."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None

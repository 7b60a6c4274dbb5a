"""The output of verbs: JSON or text, and the path of a timeline."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def tell(arguments: argparse.Namespace, content: Any, *lines: str) -> int:
    """Print the content as JSON with ``--json``, otherwise the lines. Returns the exit code of success."""
    if arguments.json:
        print_json(content)
    else:
        for line in lines:
            print(line)
    return 0


def as_json(content: Any) -> str:
    """The content as JSON text, with null for NaN and infinity, which JSON lacks."""
    return json.dumps(_finite(content), indent=2, default=str, allow_nan=False)


def print_json(content: Any) -> None:
    """Print the content as JSON on stdout, for programs."""
    print(as_json(content))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_timeline(folder: Path, out: "Console") -> None:
    """Say where the timeline of a run is, and what opens it."""
    from harness.study.timelines import TRACE_FILE, VIEWER

    out.print(f"timeline: {folder / TRACE_FILE} (open it in {VIEWER})", soft_wrap=True)

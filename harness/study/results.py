"""The one reader of study folders: which there are, by the names that people give them, and what is in them."""

import json
import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.files.yaml_file import InputError, Mistakes
from harness.measure.record import Record, read_curve, read_records
from harness.predict import ceilings
from harness.predict.ceilings import Ceilings
from harness.suite import schema as suites
from harness.suite.schema import Suite

if TYPE_CHECKING:  # it takes long to load
    import pandas as pd

CURVE_COLUMNS = ["wall_seconds", "env_steps", "episode_return"]


class RecordedStudy:
    """The files of ``results/<suite>/<study id>``, each read when it is first asked for. Nothing is changed.

    What is missing or was cut short is empty or None.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def suite(self) -> Suite:
        """The suite as it was run. Raises ``InputError``: there is none, or none that can be read."""
        source = suites.read(self.folder / "suite.yaml")
        Mistakes([one for one in source.mistakes if one.key not in suites.REMOVED]).check()
        return source.suite

    @cached_property
    def records(self) -> list[Record]:
        """The records of all repeats. Raises ``OSError``: they cannot be read."""
        return read_records(self.folder / "trials.jsonl")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``."""
        try:
            content = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def ceilings(self) -> Ceilings | None:
        """The ceilings that its predictions are from."""
        return ceilings.load(self.folder / ceilings.FILE)

    @cached_property
    def best(self) -> str | None:
        """Text of ``best.yaml``."""
        path = self.folder / "best.yaml"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None

    def curve(self, record: Record) -> "pd.DataFrame":
        """The readings of a repeat, ``CURVE_COLUMNS`` in order of time; empty when none was kept.

        The return is NaN before the first episode has finished.
        """
        import pandas as pd

        path = self.folder / record.log / "curve.jsonl"
        if record.log and path.exists():
            frame = pd.DataFrame(read_curve(path))
        else:
            kept = self._kept_curves
            frame = kept[(kept["trial"] == record.trial) & (kept["repeat"] == record.repeat)]
        frame = frame.reindex(columns=CURVE_COLUMNS).apply(pd.to_numeric, errors="coerce")
        frame = frame.replace([math.inf, -math.inf], math.nan).dropna(subset=CURVE_COLUMNS[:2])
        return frame.sort_values("wall_seconds")

    @cached_property
    def _kept_curves(self) -> "pd.DataFrame":
        import pandas as pd

        columns = ["trial", "repeat", *CURVE_COLUMNS]
        path = self.folder / "curves.csv"
        there = path.exists() and path.stat().st_size
        frame = pd.read_csv(path, usecols=lambda name: name in columns) if there else pd.DataFrame()
        return frame.reindex(columns=columns)

    @property
    def name(self) -> str:
        """``<suite>/<study id>``."""
        return f"{self.suite.name}/{self.folder.resolve().name}"

    @property
    def given_name(self) -> str | None:
        """What ``run --name`` gave."""
        return self.manifest.get("name")

    @property
    def began(self) -> str:
        """When its first record was, as text that sorts."""
        return min((record.started_at for record in self.records), default="")

    @property
    def last_run(self) -> str:
        """When it was last run, as text that sorts; empty when its manifest does not say."""
        runs = self.manifest.get("runs")
        last = runs[-1] if isinstance(runs, list) and runs else None
        return str(last.get("started_at", "")) if isinstance(last, dict) else ""


def find(name: str | None, results: Path) -> Path:
    """The folder of the newest study that ``find_all`` finds.

    Raises:
        InputError: there is none.
    """
    return find_all(name, results)[-1]


def find_all(name: str | None, results: Path) -> list[Path]:
    """The folders of the studies that a name stands for, the one that was run last at the end.

    Args:
        name: a path, ``<suite>/<study id>`` below ``results``, a suite, a study id, or what ``run --name`` gave; None:
            all studies.

    Raises:
        InputError: there is none.
    """
    for folder in (Path(name), results / name) if name is not None else ():
        if (folder / "suite.yaml").is_file():
            return [folder]
        if studies := [path.parent for path in folder.glob("*/suite.yaml")]:
            return _last_run_at_the_end(studies)
    there = [path.parent for path in results.glob("*/*/suite.yaml")]
    named = [study for study in there if name in (None, study.name, RecordedStudy(study).given_name)]
    if named:
        return _last_run_at_the_end(named)
    if not there:
        problem = "there are no studies" if name is None else f"there are no studies in {results}"
        raise InputError(name or str(results), None, "", f"{problem} yet; python -m harness run SUITE makes one")
    known = ", ".join(sorted(str(study.relative_to(results)) for study in there))
    problem = "is no study (a folder with suite.yaml, a suite, a study id or a name that run --name gave)"
    raise InputError(str(name), None, "", f"{problem}; studies in {results}: {known}")


def with_records(results: Path) -> list[Path]:
    """The folders below ``results`` that have records, in order of their names; some may be unreadable."""
    return [path.parent for path in sorted(results.glob("*/*/trials.jsonl"))]


def _last_run_at_the_end(studies: Iterable[Path]) -> list[Path]:
    return sorted(studies, key=lambda study: RecordedStudy(study).last_run)

"""A study as its folder has it: everything that a report says comes from these files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from harness.measure.record import Record, read_records
from harness.predict import ceilings
from harness.predict.ceilings import Ceilings
from harness.report.page.trials import Trial, trials_of
from harness.study.folder import of_one_kind, ranking
from harness.study.results import _read_json
from harness.suite import schema as suites
from harness.suite.schema import Suite

CURVE_COLUMNS = ("wall_seconds", "env_steps", "episode_return")


@dataclass(frozen=True)
class StudyFiles:
    """The files of ``results/<suite>/<study id>``. What is missing is empty or None."""

    folder: Path
    suite: Suite
    records: tuple[Record, ...]
    manifest: dict[str, Any] = field(default_factory=dict)
    ceilings: Ceilings | None = None
    best: str | None = None
    """text of ``best.yaml``"""

    @classmethod
    def load(cls, folder: Path) -> "StudyFiles":
        """Read a study.

        Raises:
            InputError: the folder has no suite that can be read.
        """
        best = folder / "best.yaml"
        return cls(
            folder, suites.load(folder / "suite.yaml").suite, tuple(read_records(folder / "trials.jsonl")),
            _read_json(folder / "manifest.json") or {}, ceilings.load(folder / ceilings.FILE),
            best.read_text(encoding="utf-8", errors="replace") if best.exists() else None,
        )  # fmt: skip

    @property
    def name(self) -> str:
        return f"{self.suite.name}/{self.folder.resolve().name}"

    @cached_property
    def trials(self) -> list[Trial]:
        """By number; see ``harness.study.folder.of_one_kind``."""
        return trials_of(of_one_kind(self.records))

    @cached_property
    def searched(self) -> list[Trial]:
        """As the search measured them, all in one way: what the confirmation measured is not set beside it."""
        return trials_of([record for record in self.records if record.phase == "search"])

    @cached_property
    def order(self) -> list[Trial]:
        """Those that met all constraints, best first; of several objectives the Pareto front."""
        by_number = {trial.number: trial for trial in self.trials}
        return [by_number[number] for number in ranking(self.records, self.suite)]

    def curve(self, record: Record) -> pd.DataFrame:
        """Progress of one repeat, ``CURVE_COLUMNS``; empty when none was kept."""
        lines = self.folder / record.log / "curve.jsonl"
        if record.log and lines.exists():
            frame = pd.DataFrame(_objects(lines))
        else:
            kept = self._kept_curves
            frame = kept[(kept["trial"] == record.trial) & (kept["repeat"] == record.repeat)]
        frame = frame.reindex(columns=list(CURVE_COLUMNS))
        return frame.apply(pd.to_numeric, errors="coerce")

    @cached_property
    def _kept_curves(self) -> pd.DataFrame:
        columns = ["trial", "repeat", *CURVE_COLUMNS]
        path = self.folder / "curves.csv"
        if not path.exists() or not path.stat().st_size:
            return pd.DataFrame(columns=columns)
        return pd.read_csv(path, usecols=lambda name: name in columns).reindex(columns=columns)


def _objects(path: Path) -> Iterable[dict[str, Any]]:
    """The readable lines; the last one may still be being written."""
    objects = []
    for line in path.read_bytes().splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            objects.append({name: content.get(name) for name in CURVE_COLUMNS})
    return objects

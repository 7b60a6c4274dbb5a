"""The report of a study that runs: written anew whenever a repeat ends, when no other is measured yet."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.measure.record import Record
from harness.report.page.write import REPORT, write_report
from harness.study.search import Display


class ReportingDisplay:
    """A display that also keeps ``report.html`` of the study's folder current.

    Args:
        folder: of the study, with ``suite.yaml`` in it.
    """

    def __init__(self, display: Display, folder: Path) -> None:
        self._display = display
        self._folder = folder
        self._what = "starting"
        self._finished = 0
        self._write()

    @property
    def path(self) -> Path:
        return self._folder / REPORT

    def started(self, record: Record, what: str) -> None:
        self._what = f"next: {what}"
        self._display.started(record, what)

    def progress(self, record: Record, progress: dict[str, Any]) -> None:
        self._display.progress(record, progress)

    def finished(self, record: Record) -> None:
        self._display.finished(record)
        self._finished += 1
        self._what = f"trial {record.trial} has just been measured"
        self._write()

    def _write(self) -> None:
        now = datetime.now(UTC).strftime("%H:%M:%S UTC")
        done = f"{self._finished} repeat{'s' if self._finished != 1 else ''} of this run finished"
        write_report(self._folder, watched=f"This study is running: {done} at {now}. The page keeps itself current.")

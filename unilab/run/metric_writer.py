"""Where a run's metrics go: TensorBoard events, Weights & Biases, or a table in a CSV file."""

import csv
import importlib
import itertools
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unilab.machine.replacing import replacing
from unilab.run.progress import Progress
from unilab.settings import SettingsError, nearest

RECORDS_PER_SECOND = 10
"""bound of the rows written: iterations of a few milliseconds would spend their time on writing"""
CURVE_FILE = "curve.csv"
_EVENT_FILES = itertools.count()
"""distinguishes files that one process begins within a second"""


class TensorBoardLogger:
    """Every number of ``Progress`` over env steps, as TensorBoard events in ``folder``.

    They are written at once: the writers of TensorBoard and PyTorch leave that to a thread, which prints a traceback of
    its own when the disk is full.

    Raises:
        OSError: the disk is full or not writable; ``add`` likewise.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # takes half a second, for those who write only
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        made = f"{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}.{next(_EVENT_FILES)}"
        self._path = folder / f"events.out.tfevents.{made}"
        self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, progress: Progress) -> None:
        known = {name: value for name, value in progress.scalars().items() if not math.isnan(value)}
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in known.items()]
        summary = self._summary(value=values)
        self._write(self._event(wall_time=time.time(), step=progress.env_steps, summary=summary))

    def _write(self, event: Any) -> None:
        try:
            self._records.write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            problem = f"the metrics cannot be written: {error.strerror}"
            raise OSError(error.errno, problem, str(self._path)) from error

    def close(self) -> None:
        self._file.close()


class WandbLogger:
    """Every number of ``Progress`` over env steps, as a run of Weights & Biases whose own files are in ``folder``.

    Project, entity and mode are those of wandb's environment variables, such as WANDB_PROJECT and WANDB_MODE.

    Raises:
        SettingsError: wandb is not installed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ModuleNotFoundError as error:
            if error.name != "wandb":
                raise
            raise SettingsError(
                "logger_type", "wandb is not installed; run 'pip install wandb', or use tensorboard or csv"
            ) from None
        self._run = wandb.init(dir=str(folder), name=folder.name, config=dict(settings))
        self._run.define_metric("*", step_metric="env_steps")

    def add(self, progress: Progress) -> None:
        self._run.log({name: value for name, value in progress.scalars().items() if not math.isnan(value)})

    def close(self) -> None:
        self._run.finish()


class CsvLogger:
    """A CSV file with a row for each iteration that is written and a column for each number of ``Progress``.

    A number that is not known yet is an empty cell. Each row is on the disk as soon as it is added. In a file that is
    there already, a resumed run goes on behind the rows of the iterations before it; the others are dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []

    def add(self, progress: Progress) -> None:
        values = progress.scalars()
        if not values.keys() <= set(self._columns):
            self._rewrite(values, math.inf if self._columns else progress.iteration)
        row = {
            name: int(value) if value.is_integer() else value for name, value in values.items() if not math.isnan(value)
        }
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _rewrite(self, values: Mapping[str, float], before: float) -> None:
        """Give the file a column for each of ``values``, and keep its rows of iterations below ``before``."""
        rows: list[dict[str, str]] = []
        if self._path.exists():
            with self._path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file, restval="")
                self._columns = list(reader.fieldnames or ())
                rows = [row for row in reader if row.get("iteration") and float(row["iteration"]) < before]
        self._columns += [name for name in values if name not in self._columns]
        with replacing(self._path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        pass  # every row is written


LOGGERS = ("csv", "tensorboard", "wandb")


class MetricWriter:
    """Gives iterations of a run to a logger: the first ``RECORDS_PER_SECOND`` of each second, and always the last one
    of the run.

    Without ``log_dir`` nothing is written. ``settings`` of the run are kept where the logger keeps such.

    Raises:
        SettingsError: ``logger_type`` is none of ``LOGGERS``, or one whose package is not installed.
    """

    def __init__(self, log_dir: Path | None, logger_type: str, settings: Mapping[str, Any]) -> None:
        if logger_type not in LOGGERS:
            raise SettingsError("logger_type", f"unknown logger '{logger_type}'; {nearest(logger_type, LOGGERS)}")
        self._logger: TensorBoardLogger | WandbLogger | CsvLogger | None = None
        self._second, self._records = -math.inf, 0
        self._unwritten: Progress | None = None
        if log_dir is not None:
            match logger_type:
                case "tensorboard":
                    self._logger = TensorBoardLogger(log_dir)
                case "wandb":
                    self._logger = WandbLogger(log_dir, settings)
                case "csv":
                    self._logger = CsvLogger(log_dir / CURVE_FILE)

    def write(self, progress: Progress) -> None:
        """Record one iteration."""
        self._unwritten = progress
        now = time.monotonic()
        if now >= self._second + 1:
            self._second, self._records = now, 0
        if self._records < RECORDS_PER_SECOND:
            self._records += 1
            self._flush()

    def _flush(self) -> None:
        if self._logger is not None and self._unwritten is not None:
            self._logger.add(self._unwritten)
            self._unwritten = None

    def close(self) -> None:
        """Record the last iteration and end; idempotent."""
        self._flush()
        if self._logger is not None:
            self._logger.close()
            self._logger = None

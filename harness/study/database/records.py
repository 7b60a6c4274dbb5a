"""Records of a study in the database: the truth, one row a record, with the curve that its repeat left.

A row is added in a transaction that its driver can make only while it holds the lease on what it measured, and a unique
key (trial, phase, repeat, attempt) keeps it from being added twice: acknowledged once, a record is neither lost nor
doubled, nor replaced by anything but what its own driver has to add to it. Each driver's folder has a copy of all of
them, ``trials.jsonl`` as without a database, with the curves in ``logs/``; it is written as a whole.
"""

import json
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Engine, Executable, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from harness.files.writing import RecordError
from harness.measure.record import Record, RecordFile, key_of, write_atomic
from harness.study.database.database import RECORDS
from harness.study.database.leases import Leases
from harness.study.folder import TakenOver

TRIES = 3
"""at adding a record while the connection breaks: it took minutes to measure"""
CURVE_BYTES = 2**28
"""of a learning curve, unpacked: days of training; one that is larger stays with the driver that measured it"""
CONFIRMATION = "confirmation"
"""the lease on all that follows the search"""
TRIAL = "trial "
"""what the lease on a trial begins with"""
KEY = ("trial", "phase", "repeat", "attempt")
"""columns of what ``key_of`` says"""


class SharedRecords(RecordFile):
    """``records`` is as of the last ``refresh``; ``folder`` has the copy."""

    def __init__(self, engine: Engine, study: str, leases: Leases, folder: Path) -> None:
        super().__init__(folder / "trials.jsonl")
        self._engine = engine
        self._study = study
        self._leases = leases
        self._folder = folder
        self._with_curve: set[int] = set()
        """rows whose curve is in the folder"""

    def append(self, record: Record) -> None:
        """In the database when this returns, and in the folder's copy.

        Raises:
            TakenOver: another driver measures this, or has.
            RecordError: the copy could not be written; the record is safe.
            SQLAlchemyError: the database failed; whether the record was added is not known.
        """
        try:
            self._execute(record, insert(RECORDS).values(self._row(record)))
        except IntegrityError:
            with self._engine.connect() as connection:
                driver = connection.scalar(select(RECORDS.c.driver).where(*self._is(record)))
            if driver != self._leases.driver.id:  # its own an earlier try added, whose answer was lost
                raise TakenOver(f"trial {record.trial} was measured by another driver meanwhile") from None
        self.refresh()

    def explain(self, record: Record) -> None:
        """Replace a record that this driver appended; raises as ``append``."""
        self._execute(record, update(RECORDS).where(*self._is(record)).values(record=_text(record)))
        self.refresh()

    def _execute(self, record: Record, statement: Executable) -> None:
        """Write in a transaction that only the holder of the record's lease can make; repeated while the connection
        breaks."""
        is_of_search = record.phase == "search" and not record.second_look
        for more in range(TRIES - 1, -1, -1):
            try:
                with self._leases.holding(f"{TRIAL}{record.trial}" if is_of_search else CONFIRMATION) as connection:
                    connection.execute(statement)
                return
            except DBAPIError as error:
                if not (more and error.connection_invalidated):
                    raise

    def refresh(self) -> None:
        """Take in what other drivers added."""
        columns = RECORDS.c
        with self._engine.connect() as connection:
            query = select(columns.id, columns.record).where(columns.study == self._study).order_by(columns.id)
            records = []
            for row in connection.execute(query).all():
                try:
                    record = Record.from_flat(json.loads(row.record))
                except (ValueError, TypeError, RecursionError) as error:
                    raise RecordError(f"the database's row {row.id} of {self._study} is no record: {error}") from None
                records.append(record)
                if row.id not in self._with_curve:
                    self._restore_curve(record, connection.scalar(select(columns.curve).where(columns.id == row.id)))
                    self._with_curve.add(row.id)
        self.records[:] = records  # as before where the database fails meanwhile
        text = "".join(_text(record) + "\n" for record in self.records)
        # a driver with the same folder may have written what it knew, which was less
        if not self.path.exists() or self.path.read_text(encoding="utf-8") != text:
            write_atomic(self.path, text)

    def adopt(self) -> None:
        """Move a study that began in files, with all its records, into a database that has none of it.

        Raises:
            RecordError: the folder has records that the database does not have, and the database has others.
        """
        local = list(self.records)
        keys = select(*(RECORDS.c[name] for name in KEY)).where(RECORDS.c.study == self._study)
        with suppress(IntegrityError), self._engine.begin() as connection:  # another driver does the same
            if local and not connection.execute(keys).first():
                connection.execute(insert(RECORDS), [self._row(record) for record in local])
        with self._engine.connect() as connection:
            there = {tuple(row) for row in connection.execute(keys)}
        strangers = sum(key_of(record) not in there for record in local)
        if strangers:
            raise RecordError(
                f"{self.path}: has {strangers} records that the study {self._study} in the database lacks, and lacks "
                "records that the database has. These are two studies: take another --results DIR"
            )
        self.refresh()

    def _is(self, record: Record) -> list[ColumnElement[bool]]:
        own = zip(KEY, key_of(record), strict=True)
        return [RECORDS.c.study == self._study, *(RECORDS.c[name] == value for name, value in own)]

    def _row(self, record: Record) -> dict[str, Any]:
        path = self._folder / record.log / "curve.jsonl"
        is_kept = record.log and path.exists() and path.stat().st_size <= CURVE_BYTES
        return {
            "study": self._study, **dict(zip(KEY, key_of(record), strict=True)), "driver": self._leases.driver.id,
            "record": _text(record), "curve": zlib.compress(path.read_bytes()) if is_kept else None,
        }  # fmt: skip

    def _restore_curve(self, record: Record, curve: bytes | None) -> None:
        """The folder may have none, or that of an attempt that never got its record."""
        if curve is None or not record.log:
            return
        path = self._folder / record.log / "curve.jsonl"
        unpacking = zlib.decompressobj()
        try:
            content = unpacking.decompress(curve, CURVE_BYTES + 1)
            text, problem = content.decode(), "" if unpacking.eof else "it is cut short"
        except (zlib.error, UnicodeDecodeError) as error:
            content, text, problem = b"", "", str(error)
        if len(content) > CURVE_BYTES:
            problem = f"more than {CURVE_BYTES >> 20} MiB"
        if problem:
            raise RecordError(
                f"the database's row of trial {record.trial}, repeat {record.repeat} of {self._study} has no learning "
                f"curve that can be unpacked: {problem}"
            )
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise RecordError(f"{path}: leads out of the study's folder; remove the link and run again")
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, text)


def _text(record: Record) -> str:
    return json.dumps(record.flat(), allow_nan=False)

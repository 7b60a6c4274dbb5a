"""Records of a study in the database: the truth, one row a record, with the curve that its repeat left.

A row is added in a transaction that its driver can make only while it holds the lease on what it measured, and a unique
key (trial, phase, repeat, attempt) keeps it from being added twice: acknowledged once, a record is neither lost nor
doubled, nor replaced by anything but what its own driver has to add to it. Each driver's folder has a copy of all of
them, ``trials.jsonl`` as without a database, with the curves in ``logs/``; it is written as a whole.
"""

import json
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Engine, func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from harness.measure.record import Key, Record, RecordError, RecordFile, key_of, write_atomic
from harness.study.database.database import RECORDS
from harness.study.database.leases import Leases
from harness.study.folder import TakenOver

TRIES = 3
"""at adding a record while the connection breaks: it took minutes to measure"""
CURVE_BYTES = 2**28
"""of a learning curve, unpacked: days of training; one that is larger stays with the driver that measured it"""
CONFIRMATION = "confirmation"
TRIAL = "trial "


def lease_of(record: Record) -> str:
    """The lease under which a record is added: that on its trial, or that on all that follows the search."""
    own_trial = record.phase == "search" and not record.second_look
    return trial_lease(record.trial) if own_trial else CONFIRMATION


def trial_lease(trial: int) -> str:
    return f"{TRIAL}{trial}"


class SharedRecords(RecordFile):
    """``records`` is as of the last ``refresh``.

    Args:
        folder: of the study, for the copy.
    """

    def __init__(self, engine: Engine, study: str, leases: Leases, folder: Path) -> None:
        super().__init__(folder / "trials.jsonl")
        self._own: list[Record] = []
        self._engine = engine
        self._study = study
        self._leases = leases
        self._folder = folder
        self._known: dict[Key, tuple[int, int, Record]] = {}
        """with the row's number and the length of its text"""

    @property
    def own(self) -> list[Record]:
        return self._own

    def append(self, record: Record) -> None:
        """In the database when this returns, and in the folder's copy.

        Raises:
            TakenOver: another driver measures this, or has.
            RecordError: the copy could not be written; the record is safe.
            SQLAlchemyError: the database failed; whether the record was added is not known.
        """

        def add(connection: Connection) -> None:
            row = connection.execute(select(RECORDS.c.driver).where(*self._is(record))).one_or_none()
            if row is None:
                self._insert(connection, [record])
            elif row.driver != self._leases.driver.id:  # its own an earlier try added, whose answer was lost
                raise TakenOver(f"trial {record.trial} was measured by another driver meanwhile")

        self._change(record, add)
        self._own.append(record)
        self.refresh()

    def explain(self, record: Record) -> None:
        """In place of what this driver appended; raises as ``append``."""

        def replace(connection: Connection) -> None:
            connection.execute(update(RECORDS).where(*self._is(record)).values(record=_text(record)))

        self._change(record, replace)
        places = [index for index, one in enumerate(self._own) if key_of(one) == key_of(record)]
        self._own[places[-1]] = record
        self.refresh()

    def _change(self, record: Record, change: Callable[[Connection], None]) -> None:
        """In a transaction that only the holder of its lease can make; again while the connection breaks."""
        for more in range(TRIES - 1, -1, -1):
            try:
                with self._leases.holding(lease_of(record)) as connection:
                    change(connection)
                return
            except IntegrityError:
                raise TakenOver(f"trial {record.trial} was measured by another driver meanwhile") from None
            except DBAPIError as error:
                if not (more and error.connection_invalidated):
                    raise

    def refresh(self) -> None:
        """Take in what other drivers added."""
        table = RECORDS.c
        length = func.length(table.record).label("length")  # what is said of a record later makes it longer
        with self._engine.connect() as connection:
            there = connection.execute(select(table.id, length).where(table.study == self._study)).all()
            known = {(number, length) for number, length, _ in self._known.values()}
            for number in [row.id for row in there if (row.id, row.length) not in known]:
                row = connection.execute(select(table.record, table.curve).where(table.id == number)).one()
                try:
                    record = Record.from_flat(json.loads(row.record))
                except (ValueError, TypeError, RecursionError) as error:
                    raise RecordError(f"the database's row {number} of {self._study} is no record: {error}") from None
                self._known[key_of(record)] = number, len(row.record), record
                self._restore_curve(record, row.curve)
        self.records[:] = [record for _, _, record in sorted(self._known.values(), key=lambda known: known[0])]
        text = "".join(_text(record) + "\n" for record in self.records)
        # a driver with the same folder may have written what it knew, which was less
        if not self.path.exists() or self.path.read_text(encoding="utf-8") != text:
            write_atomic(self.path, text)

    def adopt(self) -> None:
        """A study that began in files moves into a database that has none of it, with all its records.

        Raises:
            RecordError: the folder has records that the database does not have, and the database has others.
        """
        local = list(self.records)
        table = RECORDS.c
        keys = select(table.trial, table.phase, table.repeat, table.attempt).where(table.study == self._study)
        with suppress(IntegrityError), self._engine.begin() as connection:  # another driver does the same
            if local and not connection.execute(keys).first():
                self._insert(connection, local)
        with self._engine.connect() as connection:
            there = {tuple(row) for row in connection.execute(keys)}
        strangers = sum(key_of(record) not in there for record in local)
        if strangers:
            raise RecordError(
                f"{self.path}: has {strangers} records that the study {self._study} in the database lacks, and lacks "
                "records that the database has. These are two studies: take another --results DIR"
            )
        self.refresh()

    def _is(self, record: Record) -> tuple[ColumnElement[bool], ...]:
        """The condition of its row."""
        table = RECORDS.c
        return (
            table.study == self._study, table.trial == record.trial, table.phase == record.phase,
            table.repeat == record.repeat, table.attempt == record.attempt,
        )  # fmt: skip

    def _insert(self, connection: Connection, records: Iterable[Record]) -> None:
        rows = [
            {
                "study": self._study, "trial": r.trial, "phase": r.phase, "repeat": r.repeat, "attempt": r.attempt,
                "driver": self._leases.driver.id, "record": _text(r),
                "curve": self._curve(r),
            }
            for r in records
        ]  # fmt: skip
        connection.execute(insert(RECORDS), rows)

    def _curve(self, record: Record) -> bytes | None:
        path = self._curve_file(record)
        if path is None or not path.exists() or path.stat().st_size > CURVE_BYTES:
            return None
        return zlib.compress(path.read_bytes())

    def _restore_curve(self, record: Record, curve: bytes | None) -> None:
        """The folder may have none, or that of an attempt that never got its record."""
        path = self._curve_file(record)
        if curve is None or path is None:
            return
        unpacking = zlib.decompressobj()
        try:
            content = unpacking.decompress(curve, CURVE_BYTES + 1)
            if len(content) > CURVE_BYTES:
                raise self._no_curve(record, f"more than {CURVE_BYTES >> 20} MiB")
            text = content.decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise self._no_curve(record, str(error)) from None
        if not unpacking.eof:
            raise self._no_curve(record, "it is cut short")
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise RecordError(f"{path}: leads out of the study's folder; remove the link and run again")
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, text)

    def _no_curve(self, record: Record, problem: str) -> RecordError:
        where = f"trial {record.trial}, repeat {record.repeat} of {self._study}"
        return RecordError(f"the database's row of {where} has no learning curve that can be unpacked: {problem}")

    def _curve_file(self, record: Record) -> Path | None:
        return self._folder / record.log / "curve.jsonl" if record.log else None


def _text(record: Record) -> str:
    return json.dumps(record.flat(), allow_nan=False)

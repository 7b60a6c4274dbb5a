"""Which driver works on what: leases in the database that their holders keep alive, and that others take over.

A lease is one row: what it is for, who holds it, and a number that its holder counts up every ``BEAT_SECONDS``. It is
lost when its holder, a process of this machine, is gone, or when its number has not moved for ``LOST_SECONDS`` on the
observer's monotonic clock. So no clock of another machine matters, and a database that was away for a while makes
nobody lose anything: what was observed before is forgotten.

All changes are single statements that name the state they expect, so that of several drivers exactly one succeeds, in
any database. What a holder writes, it writes in a transaction that begins with a beat (``holding``): a driver that was
stopped so long that it lost its lease cannot write any more when it wakes up.

Optuna has heartbeats too, but only for trials inside of ``Study.optimize``. They rest on the server's clock, and a
trial that went stale is failed and run again under another number, with its finished repeats lost.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Row, Update, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from harness.study.database.database import LEASES, Database
from harness.study.folder import TakenOver
from unilab.ipc import start_time

BEAT_SECONDS = 2.0
LOST_SECONDS = 20.0
"""without a beat, of a holder on another machine"""


@dataclass(frozen=True)
class Driver:
    """This process, so that others can tell whether it lives."""

    id: str = field(default_factory=lambda: uuid4().hex)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: str(start_time(os.getpid())))
    host: str = field(default_factory=lambda: _host())

    @property
    def name(self) -> str:
        """For people."""
        return f"process {self.pid} on {os.uname().nodename}"


class Leases:
    """The leases of one study, as one driver sees them. A thread keeps the driver's own alive until ``close``.

    Any method may raise SQLAlchemyError.
    """

    def __init__(
        self, database: Database, study: str, driver: Driver, *,
        beat_seconds: float = BEAT_SECONDS, lost_seconds: float = LOST_SECONDS,
    ) -> None:  # fmt: skip
        self.driver = driver
        self._database = database
        self._engine = database.engine
        self._study = study
        self._beat_seconds = beat_seconds
        self._lost_seconds = lost_seconds
        self._seen: dict[tuple[str, str, int], float] = {}
        """by lease, holder and beat, since when it has been so"""
        self._outages = database.outages
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
        self._thread.start()

    def take(self, what: str) -> bool:
        """Whether this driver holds the lease now: nobody did, its holder is lost, or it did already."""
        driver = self.driver
        row = {
            "study": self._study, "what": what, "driver": driver.id, "holder": driver.name, "host": driver.host,
            "pid": driver.pid, "started": driver.started, "beat": 0,
        }  # fmt: skip
        for _ in range(2):
            with suppress(IntegrityError), self._engine.begin() as connection:  # it is there
                connection.execute(insert(LEASES).values(row))
                return True
            if (driver.id, what) in {(one.driver, one.what) for one in self._living()}:
                return True
        return False

    def release(self, what: str) -> bool:
        """Give a lease back. False: it was lost meanwhile, is another driver's, and stays."""
        with self._engine.begin() as connection:
            return connection.execute(delete(LEASES).where(*self._of(self.driver.id, what))).rowcount == 1

    @contextmanager
    def holding(self, what: str) -> Iterator[Connection]:
        """A transaction that only the holder of a lease can make.

        Raises:
            TakenOver: another driver has it.
        """
        with self._engine.begin() as connection:
            if connection.execute(_counted_up(self._of(self.driver.id, what))).rowcount != 1:
                raise TakenOver(f"{what} was taken over by another driver")
            yield connection

    def others(self) -> dict[str, str]:
        """Leases of living drivers other than this one, with their holders' names."""
        return {row.what: row.holder for row in self._living() if row.driver != self.driver.id}

    def close(self) -> None:
        """End the thread and give all leases back; without the database they get lost in time."""
        self._closed.set()
        self._thread.join()
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(delete(LEASES).where(*self._of(self.driver.id)))

    def _of(self, driver: str, what: str | None = None) -> list[ColumnElement[bool]]:
        own = [LEASES.c.study == self._study, LEASES.c.driver == driver]
        return own if what is None else [*own, LEASES.c.what == what]

    def _living(self) -> list[Row]:
        """Leases of this driver and of others; those that are lost are removed."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(LEASES).where(LEASES.c.study == self._study)).all()
        if self._outages != self._database.outages:  # nobody could beat meanwhile
            self._outages = self._database.outages
            self._seen.clear()
        now, living = time.monotonic(), []
        seen = {(row.what, row.driver, row.beat): row for row in rows}
        self._seen = {state: self._seen.get(state, now) for state in seen}
        for state, row in seen.items():
            is_gone = row.host == self.driver.host and str(start_time(row.pid)) != row.started
            if row.driver == self.driver.id or not (is_gone or now - self._seen[state] > self._lost_seconds):
                living.append(row)
                continue
            with self._engine.begin() as connection:  # its holder may beat at this moment, and then has it still
                unchanged = (*self._of(row.driver, row.what), LEASES.c.beat == row.beat)
                connection.execute(delete(LEASES).where(*unchanged))
        return living

    def _beat(self) -> None:
        while not self._closed.wait(self._beat_seconds):
            # whoever needs a database next that does not answer is told
            with suppress(SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(_counted_up(self._of(self.driver.id)))


def _counted_up(own: list[ColumnElement[bool]]) -> Update:
    return update(LEASES).where(*own).values(beat=LEASES.c.beat + 1)


def _host() -> str:
    """One running system with one numbering of processes: containers of a machine number theirs apart."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    system = boot.read_text().strip() if boot.exists() else os.uname().nodename
    return f"{system} {namespace.stat().st_ino if namespace.exists() else 0}"

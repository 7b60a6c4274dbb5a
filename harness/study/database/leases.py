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

from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from harness.study.database.database import LEASES, Database
from harness.study.folder import TakenOver
from unilab.ipc.shared_memory.segments import start_time

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
    """Those of one study, as one driver sees them. A thread keeps its own alive until ``close``.

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
        self._seen: dict[str, tuple[str, int, float]] = {}
        """of leases of others: holder, its beat, and since when it has not moved"""
        self._outages = database.outages
        self._held: set[str] = set()
        self._lock = threading.Lock()
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
        with self._lock:
            if what in self._held:
                return True
            for _ in range(2):
                with suppress(IntegrityError):  # it is there
                    with self._engine.begin() as connection:
                        connection.execute(insert(LEASES).values(row))
                    self._held.add(what)
                    return True
                # so that one driver can take it; its holder may still be writing its last beat, and then has it still
                self._living(what)
            return False

    def release(self, what: str) -> None:
        """Give a lease back; one that was lost meanwhile is another driver's, and stays."""
        with self._lock:
            self._held.discard(what)
            with self._engine.begin() as connection:
                connection.execute(delete(LEASES).where(*self._mine(what)))

    def held(self, what: str) -> bool:
        """Whether it is this driver's, as far as the last beat could tell."""
        return what in self._held

    @contextmanager
    def holding(self, what: str) -> Iterator[Connection]:
        """A transaction that only the holder of a lease can make.

        Raises:
            TakenOver: another driver has it.
        """
        with self._engine.begin() as connection:
            beat = update(LEASES).where(*self._mine(what)).values(beat=LEASES.c.beat + 1)
            if connection.execute(beat).rowcount != 1:
                self._held.discard(what)
                raise TakenOver(f"{what} was taken over by another driver")
            yield connection

    def others(self) -> dict[str, str]:
        """Leases of living drivers other than this one, with their holders' names."""
        with self._lock:
            return {row.what: row.holder for row in self._living()}

    def close(self) -> None:
        """End the thread and give all leases back; without the database they get lost in time."""
        self._closed.set()
        self._thread.join()
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(delete(LEASES).where(*self._of(self.driver.id)))
        self._held.clear()

    # -- rows

    def _of(self, driver: str) -> tuple:
        return LEASES.c.study == self._study, LEASES.c.driver == driver

    def _mine(self, what: str) -> tuple:
        return *self._of(self.driver.id), LEASES.c.what == what

    def _living(self, what: str | None = None) -> list[Row]:
        """Leases of other drivers, all or one; those that are lost are removed."""
        query = select(LEASES).where(LEASES.c.study == self._study, LEASES.c.driver != self.driver.id)
        with self._engine.connect() as connection:
            rows = [row for row in connection.execute(query) if what in (None, row.what)]
        living = []
        for row in rows:
            if not self._is_lost(row):
                living.append(row)
                continue
            unchanged = (*self._of(row.driver), LEASES.c.what == row.what, LEASES.c.beat == row.beat)
            with self._engine.begin() as connection:
                connection.execute(delete(LEASES).where(*unchanged))
        return living

    def _is_lost(self, row: Row) -> bool:
        if row.host == self.driver.host and str(start_time(row.pid)) != row.started:
            return True
        if self._outages != self._database.outages:  # nobody could beat meanwhile
            self._outages = self._database.outages
            self._seen.clear()
        now = time.monotonic()
        driver, beat, since = self._seen.get(row.what, ("", -1, now))
        if (driver, beat) != (row.driver, row.beat):
            since = now
        self._seen[row.what] = row.driver, row.beat, since
        return now - since > self._lost_seconds

    def _beat(self) -> None:
        own = self._of(self.driver.id)
        while not self._closed.wait(self._beat_seconds):
            # whoever needs a database next that does not answer is told
            with self._lock, suppress(SQLAlchemyError):
                if self._held:
                    with self._engine.begin() as connection:
                        connection.execute(update(LEASES).where(*own).values(beat=LEASES.c.beat + 1))
                        self._held &= set(connection.scalars(select(LEASES.c.what).where(*own)))


def _host() -> str:
    """One running system with one numbering of processes: containers of a machine number theirs apart."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    system = boot.read_text().strip() if boot.exists() else os.uname().nodename
    return f"{system} {namespace.stat().st_ino if namespace.exists() else 0}"

"""A study that several drivers work on at the same time, each with a folder that ends with all of it.

One driver at a time chooses: under the lease ``turn`` it looks at all trials, chooses the next and takes the lease
on it, so that no configuration and no trial is measured twice and ``limits.trials`` counts the trials of all drivers.
A trial whose driver died has no living lease, and goes to whoever looks next, with its number and its finished repeats.
A driver that finds nothing more to measure waits for the others: one of them may die. The last one confirms, under the
lease ``confirmation``; the others wait for that and leave with the same records.

Drivers must have the same hardware, and by the name of the study the same suite and code. The host's name
may differ.
"""

import fcntl
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
from sqlalchemy import exists, insert, update
from sqlalchemy import select as query
from sqlalchemy.exc import IntegrityError

from harness.measure.host import fingerprint
from harness.measure.stop import StopSignal
from harness.predict.plan import Plan
from harness.study.database.database import LEASES, RECORDS, STUDIES, Database, StorageError
from harness.study.database.leases import Driver, Leases
from harness.study.database.records import CONFIRMATION, TRIAL, SharedRecords
from harness.study.folder import Study

PAUSE_SECONDS = 0.5
"""between two looks at what others do: databases have no common way to wake somebody"""
LOCK, SEARCH = "turn", "search "


class SharedStudy(Study):
    """See ``harness.study.folder.Study``. Leaving it gives its leases back.

    Args:
        options: of the command line that change the numbers: all drivers have the same ones.
        say: is told what this driver waits for.

    Raises:
        StorageError: the study was begun on other hardware, or with other options.
        UserError: a run without a database works in this folder.
        RecordError: the folder has records of another study.
    """

    lock_kind = fcntl.LOCK_SH
    records: SharedRecords

    def __init__(
        self, folder: Path, plan: Plan, database: Database, options: str = "", say: Callable[[str], None] = print
    ) -> None:
        self.storage = database.url
        self._database = database
        self._database.say = self._say = say
        self._name = f"{plan.suite.name}/{plan.study_id}"
        self._left = False
        self._leases = Leases(database, self._name, Driver())
        self._searching = SEARCH + self._leases.driver.id
        try:
            self._leases.take(self._searching)
            self._join(options)
            super().__init__(folder)
            self.records.adopt()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        self._database.give_up()
        self._leases.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._leave()
        super().__exit__(kind, error, tb)

    def _join(self, options: str) -> None:
        """The other drivers have to measure with the options of the first one. A driver that is alone decides until
        there is a record."""
        machine = fingerprint()
        mine = {"hardware": hardware(machine), "machine": machine, "options": options}
        measured = exists().where(RECORDS.c.study == self._name)
        others = exists().where(LEASES.c.study == self._name, LEASES.c.driver != self._leases.driver.id)
        own = STUDIES.c.study == self._name
        with self._database.engine.begin() as connection:
            connection.execute(update(STUDIES).where(own, ~measured, ~others).values(mine))
        with suppress(IntegrityError), self._database.engine.begin() as connection:
            connection.execute(insert(STUDIES).values(study=self._name, **mine))
        with self._database.engine.connect() as connection:
            row = connection.execute(query(STUDIES).where(own)).one()
        if row.hardware != mine["hardware"]:
            raise StorageError(
                f"{self._database.url}: the study {self._name} is measured on other hardware ({row.machine}; this is "
                f"{machine}). Numbers of both do not compare: take another database for a study of this machine"
            )
        if row.options != options:
            theirs, ours = (f"with {given}" if given else "without options" for given in (row.options, options))
            raise StorageError(
                f"{self._database.url}: the study {self._name} is measured {theirs}, not {ours}, and numbers of both "
                "do not compare: give the same options, or take another database"
            )

    def _open_records(self) -> SharedRecords:
        return SharedRecords(self._database.engine, self._name, self._leases, self.folder)

    def open_optuna(self, directions: Sequence[Any]) -> optuna.Study:
        """The study in Optuna's tables, named ``<suite>/<study id>``."""
        return optuna.create_study(
            storage=self._database.storage, study_name=self._name, directions=list(directions), load_if_exists=True
        )

    def strangers(self) -> list[str]:
        machines = {record.machine for record in self.records.records}
        return sorted(machine for machine in machines if hardware(machine) != hardware(self.machine))

    @contextmanager
    def locked(self, stop: StopSignal) -> Iterator[None]:
        self._database.stop = stop
        self._wait_for(LOCK, stop)
        try:
            self.records.refresh()
            yield
        finally:
            self._leases.release(LOCK)

    def take(self, trial: int) -> bool:
        return self._leases.take(f"{TRIAL}{trial}")

    def release(self, trial: int) -> None:
        self._leases.release(f"{TRIAL}{trial}")

    def searches(self, sampler: optuna.Study, stop: StopSignal, deadline: float) -> Iterator[None]:
        more = True
        while more:
            self._leases.take(self._searching)
            yield
            self._leases.release(self._searching)
            more = self._wait_for_searches(sampler, stop, deadline)

    def _wait_for_searches(self, sampler: optuna.Study, stop: StopSignal, deadline: float) -> bool:
        """Wait until no other driver searches (False), or until a lost driver has left a trial (True)."""
        said = False
        while True:
            others = self._leases.others()
            unfinished = [trial.number for trial in sampler.get_trials(deepcopy=False) if not trial.state.is_finished()]
            if LOCK not in others and any(f"{TRIAL}{number}" not in others for number in unfinished):
                return True
            busy = {name for what, name in others.items() if what.startswith((TRIAL, SEARCH))}
            if not busy:
                return False
            if time.monotonic() > deadline:
                self._left = True
                self._say(f"time is up; {', '.join(sorted(busy))} goes on with the study, and the last driver confirms")
                return False
            if not said:
                said = True
                self._say(f"nothing more to choose; waiting for {', '.join(sorted(busy))}")
            self._pause(stop)

    def confirmations(self, stop: StopSignal) -> Iterator[None]:
        mine = self._left
        while not mine:
            self._wait_for(CONFIRMATION, stop, "which confirms")
            self.records.refresh()
            yield
            mine = self._leases.release(CONFIRMATION)
        self.records.refresh()

    def _wait_for(self, what: str, stop: StopSignal, why: str = "") -> None:
        said = not why
        while not self._leases.take(what):
            holder = self._leases.others().get(what)
            if holder is not None and not said:
                said = True
                self._say(f"waiting for {holder}, {why}")
            self._pause(stop)

    def _pause(self, stop: StopSignal) -> None:
        """A moment, which a signal ends."""
        select.select([stop.fd], [], [], PAUSE_SECONDS)
        stop.check()


def hardware(machine: str) -> str:
    """The part of a machine's fingerprint that is the same on hosts of one kind."""
    return machine.rpartition("-")[2]

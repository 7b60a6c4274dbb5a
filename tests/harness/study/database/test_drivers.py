"""Several drivers on one study in a real PostgreSQL: real processes of ``run``, and searches in this process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import delete, event

import harness
from harness.measure.engines.local import LocalEngine
from harness.measure.process import Outcome
from harness.measure.record import read_records
from harness.measure.stop import StopSignal
from harness.predict.plan import Plan
from harness.study.database import database as databases
from harness.study.database.database import LEASES, Database, StorageError
from harness.study.database.shared_study import SharedStudy
from harness.study.search import Sweep
from tests.harness.conftest import SUITE
from tests.harness.measure.test_places import Places
from tests.harness.study.test_search import Crash, Executed, Quiet
from tests.postgresql import PASSWORD, PLAIN_PASSWORD, Server

SECONDS = 120


class Driver:
    """A process of ``run`` with a results folder; what it printed is in ``output``."""

    def __init__(self, here: Path, url: str, results: str, *options: str) -> None:
        self.results = here / results
        self.output = here / f"{results}-{len(list(here.iterdir()))}.txt"
        command = [
            sys.executable,
            "-m",
            "harness",
            "run",
            "fake.yaml",
            "--storage",
            url,
            "--results",
            results,
            *options,
        ]
        environment = os.environ | {"PYTHONPATH": str(Path(harness.__file__).parents[1])}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(command, cwd=here, env=environment, stdout=output, stderr=output)

    def ends_well(self) -> None:
        assert self.process.wait(SECONDS) == 0, self.output.read_text()

    @property
    def study(self) -> Path:
        (folder,) = self.results.glob("fake/*")
        return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "fake.yaml").write_text(SUITE)
    return tmp_path


@pytest.fixture
def url(database_server: Server) -> str:
    return database_server.new_database()


def starts(marker: Path) -> list[int]:
    """The speeds that repeats were started with."""
    return [int(line.split()[1]) for line in marker.read_text().splitlines()] if marker.exists() else []


def test_two_drivers_run_each_trial_once_and_both_leave_with_everything(here: Path, url: str) -> None:
    marker = here / "started"
    options = ["--trials", "4", "--set", f"fixed.marker={marker}", "--set", "search.speed={low: 1, high: 500}"]
    confirm = ["--set", "confirm={top: 1, repeats: 2}"]
    drivers = [Driver(here, url, name, *options, *confirm) for name in ("one", "two")]
    for driver in drivers:
        driver.ends_well()
    records = read_records(drivers[0].study / "trials.jsonl")
    searched = [record for record in records if record.phase == "search" and not record.second_look]
    assert sorted(record.trial for record in searched) == list(range(4))
    assert sorted(record.trial for record in records if record.second_look) == [1, 2, 3]
    assert len({record.params["speed"] for record in searched}) == 4
    best = max(searched, key=lambda record: record.env_steps_per_second)
    confirmed = [(record.trial, record.repeat) for record in records if record.phase == "confirm"]
    assert sorted(confirmed) == sorted([(0, 1), (best.trial, 1), (best.trial, 2), (0, 2)])
    assert [trial for trial, _ in confirmed] == [trial for trial, _ in reversed(confirmed)]
    assert Counter(starts(marker)) == Counter(record.params["speed"] for record in records)
    for name in ("trials.jsonl", "trials.csv", "curves.csv", "best.yaml"):
        one, two = ((driver.study / name).read_text() for driver in drivers)
        assert one == two.replace("two/fake/", "one/fake/") and one, name
    for driver in drivers:
        assert (driver.study / "report.html").exists()
        for path in [driver.output, *driver.study.rglob("*")]:
            assert path.is_dir() or not any(p.encode() in path.read_bytes() for p in (PASSWORD, PLAIN_PASSWORD)), path
    assert "harness:***@127.0.0.1" in json.loads((drivers[0].study / "manifest.json").read_text())["storage"]
    study = optuna.load_study(study_name=f"fake/{drivers[0].study.name}", storage=url)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert study.best_trial.number == best.trial
    with Database(url) as database, database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM unilab_leases").all() == []


def test_the_trial_of_a_driver_that_is_killed_is_finished_once_by_another(here: Path, url: str) -> None:
    marker = here / "started"
    options = ["--trials", "3", "--set", f"fixed.marker={marker}"]
    long = ["--set", "fixed.real_clock=true", "--set", "measure.seconds=1"]
    killed = Driver(here, url, "common", *options, *long)
    deadline = time.monotonic() + SECONDS
    while not starts(marker):
        assert killed.process.poll() is None and time.monotonic() < deadline, killed.output.read_text()
        time.sleep(0.05)
    other = Driver(here, url, "common", *options, *long)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    other.ends_well()
    records = read_records(other.study / "trials.jsonl")
    assert sorted((record.trial, record.state) for record in records) == [(n, "complete") for n in range(3)]
    assert Counter(starts(marker)) == Counter([*(record.params["speed"] for record in records), 20])


class Breaking(Executed):
    """Every repeat ends with the connections to the database broken."""

    def __init__(self, server: Server, url: str) -> None:
        super().__init__()
        self._server, self._url = server, url

    def __call__(self, *arguments: Any) -> Outcome:
        outcome = super().__call__(*arguments)
        break_connections(self._server, self._url)
        return outcome


def break_connections(server: Server, url: str) -> None:
    with server.connect("postgres") as admin:
        every = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        admin.execute(every, [url.rpartition("/")[2]])


def test_connections_that_break_between_repeats_are_made_again(
    make_plan, tmp_path: Path, url: str, database_server: Server
) -> None:
    with Database(url) as database:
        records = sweep(make_plan(), tmp_path, database, Breaking(database_server, url))
        assert database.outages > 0
    assert [(record.trial, record.state) for record in records] == [(n, "complete") for n in range(3)]


class Away(Breaking):
    """After its first repeat the database lets nobody in."""

    def __call__(self, *arguments: Any) -> Outcome:
        allow_connections(self._server, self._url, False)
        return super().__call__(*arguments)


def allow_connections(server: Server, url: str, allow: bool) -> None:
    with server.connect("postgres") as admin:
        name = url.rpartition("/")[2]
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS {allow}'.encode())


def test_a_database_that_stays_away_ends_a_run_and_the_next_goes_on(
    make_plan, tmp_path: Path, url: str, database_server: Server, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(databases, "OUTAGE_SECONDS", 1.0)
    away = Away(database_server, url)
    with pytest.raises(StorageError, match=r"the database failed: .* is not currently accepting connections; all"):
        run_in(url, make_plan(), tmp_path, away)
    assert capsys.readouterr().out.startswith("the database does not answer; waiting up to 1 s: ")
    allow_connections(database_server, url, True)
    with Database(url) as database, database.engine.begin() as connection:
        connection.execute(delete(LEASES))  # that run's process lives: it is this one
    records = run_in(url, make_plan(), tmp_path, Executed())
    assert [(record.trial, record.state) for record in records] == [(n, "complete") for n in range(3)]


@pytest.mark.parametrize("when", ["before_cursor_execute", "after_cursor_execute"])
def test_a_connection_that_breaks_while_a_record_is_added_adds_it_once(
    make_plan, tmp_path: Path, url: str, database_server: Server, when: str
) -> None:
    plan, broken = make_plan(), []

    def break_once(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO unilab_records") and not broken:
            broken.append(statement)
            break_connections(database_server, url)

    with Database(url) as database:
        event.listen(database.engine, when, break_once)
        records = sweep(plan, tmp_path, database, Executed())
    assert broken and [(record.trial, record.state) for record in records] == [(n, "complete") for n in range(3)]


class Asleep(Executed):
    """Sleeps in its first repeat, so long that its leases get lost and another driver does everything."""

    def __init__(self, plan: Plan, results: Path, database: Database) -> None:
        super().__init__()
        self.others = Executed()
        self._other = partial(sweep, plan, results, database, self.others)
        self._database = database

    def __call__(self, *arguments: Any) -> Outcome:
        if not self.specs:
            with self._database.engine.begin() as connection:
                connection.execute(delete(LEASES))
            self._other()
        return super().__call__(*arguments)


def test_a_driver_that_slept_too_long_adds_nothing_to_what_others_measured(make_plan, tmp_path: Path, url: str) -> None:
    plan = make_plan("measure.repeats=2", "confirm={top: 1, repeats: 2}")
    with Database(url) as database:
        asleep = Asleep(plan, tmp_path / "other", database)
        records = sweep(plan, tmp_path / "asleep", database, asleep)
        study = optuna.load_study(study_name=f"fake/{plan.study_id}", storage=database.storage)
    assert len(asleep.specs) == 1 and len(asleep.others.specs) == 3 * 2 + 2 * 2 + 4 == len(records)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    copies = [(plan.folder(tmp_path / name) / "trials.jsonl").read_bytes() for name in ("asleep", "other")]
    assert copies[0] == copies[1]


def test_a_driver_with_several_places_shares_a_study_too(make_plan, tmp_path: Path) -> None:
    plan = make_plan("search.speed={low: 1, high: 500}", "limits.trials=6")
    with Database(f"sqlite:///{tmp_path}/study.db") as database:
        sweep(make_plan("search.speed={low: 1, high: 500}", "limits.trials=2"), tmp_path, database, Executed())
        with SharedStudy(plan.folder(tmp_path), plan, database) as study, StopSignal() as stop:
            places = Places(stop, Executed())
            Sweep(plan, study, stop, Quiet(), places).run()
            assert places.most == 3
            assert sorted(record.trial for record in study.records.records) == list(range(6))


def run_in(url: str, plan: Plan, results: Path, executed: Executed) -> list[Any]:
    with Database(url) as database:
        return sweep(plan, results, database, executed)


def sweep(plan: Plan, results: Path, database: Database, executed: Executed) -> list[Any]:
    with SharedStudy(plan.folder(results), plan, database) as study, StopSignal() as stop:
        Sweep(plan, study, stop, Quiet(), LocalEngine(study.machine, stop, executed, in_turns=False)).run()
        return study.records.records


@pytest.mark.parametrize("crash_at", range(4))
def test_a_driver_goes_on_where_another_stopped(make_plan, tmp_path: Path, crash_at: int) -> None:
    """SQLite will do for drivers of one machine."""
    plan = make_plan("measure.repeats=2", "search.speed={low: 1, high: 500}", "limits.trials=2")
    with Database(f"sqlite:///{tmp_path}/study.db") as database:
        with pytest.raises(Crash):
            sweep(plan, tmp_path / "a", database, Executed(crash_at))
        executed = Executed()
        records = sweep(plan, tmp_path / "b", database, executed)
        assert len(executed.specs) == 4 - crash_at
        assert [(r.trial, r.repeat) for r in records] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert sweep(plan, tmp_path / "a", database, Executed(crash_at=0)) == records
    for record in records:
        curves = {(plan.folder(tmp_path / name) / record.log / "curve.jsonl").read_bytes() for name in "ab"}
        assert len(curves) == 1

"""What can be wrong with a database: one line that says so, soon, without a password, and nothing was created."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from harness import cli
from harness.measure.record import read_records
from harness.study.database import database as databases
from harness.study.database import shared_study
from harness.study.database.database import STUDIES, Database, StorageError, masked
from harness.study.database.shared_study import SharedStudy
from tests.postgresql import PASSWORD, PLAIN_PASSWORD, Server

Refused = Callable[..., str]


@pytest.fixture
def refused(suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The error of a run with a database, which is one line without a password; nothing was made of the results."""

    def run(url: str, *options: str, created: bool = False) -> str:
        results = tmp_path / "results"
        assert cli.main(["run", str(suite_file), "--storage", url, "--results", str(results), *options]) == 1
        output, error = capsys.readouterr()
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert PASSWORD not in error and PLAIN_PASSWORD not in error and "secret" not in output + error
        assert results.exists() == created
        return error

    return run


def test_a_wrong_password_is_refused_and_not_shown(refused: Refused, database_server: Server) -> None:
    error = refused(database_server.url("postgres", password="secret"))
    assert "password authentication failed for user" in error and "harness:***@127.0.0.1" in error


def test_a_database_that_is_not_there(refused: Refused, database_server: Server) -> None:
    assert 'database "nowhere" does not exist' in refused(database_server.url("nowhere"))


def test_a_server_that_is_not_there(refused: Refused) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        error = refused(f"postgresql://me:secret@127.0.0.1:{taken.getsockname()[1]}/studies")
    assert "is the server running" in error and "postgresql://me:***@127.0.0.1" in error


def test_a_server_that_does_not_answer(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(databases.PSYCOPG, "connect_timeout", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        error = refused(f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/studies")
    assert "timeout" in error


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("studies", "not a database URL; expected one such as postgresql+psycopg://user@host/database"),
        ("oracel://me:secret@host/studies", "no database is called 'oracel'"),
        ("postgresql+psycopg://me:sec:ret@secret@host:port/studies", "not a database URL"),
        ("sqlite://", "a database in memory has one process"),
        ("sqlite:////nowhere/study.db", "there is no folder /nowhere"),
        ("mysql+pymysql://me:secret@host/studies?password=secret", "the package pymysql is missing"),
    ],
)
def test_an_address_that_cannot_be_one(refused: Refused, url: str, what: str) -> None:
    assert what in refused(url)


def test_a_missing_package_names_the_extra(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install -e '.[postgresql]'" in refused("postgresql://me:secret@host/studies")


def test_a_file_that_is_no_database(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("Remember the milk. " * 100)
    assert "file is not a database" in refused(f"sqlite:///{tmp_path}/notes.db")


@pytest.mark.parametrize("found", ["v3.0.0.a", "v99.0.0.a"])
def test_tables_of_another_optuna_stay_as_they_are(refused: Refused, database_server: Server, found: str) -> None:
    url = database_server.new_database()
    with Database(url) as database, database.engine.begin() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{found}'"))
        connection.execute(text("DROP TABLE unilab_records, trial_heartbeats"))
    error = refused(url)
    assert f"its tables are of another Optuna (schema {found}; here is Optuna" in error
    with database_server.connect(url.rpartition("/")[2]) as connection:
        tables = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables")]
    assert "unilab_records" not in tables and "trial_heartbeats" not in tables


def test_tables_from_before_optuna_had_versions(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "CREATE_SECONDS", 0.0)
    url = f"sqlite:///{tmp_path}/old.db"
    with Database(url) as database, database.engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    assert "its tables are of another Optuna (an old version" in refused(url)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"hardware": "123456", "machine": "big-123456"}, "is measured on other hardware (big-123456; this is"),
        ({"options": "--trace"}, "is measured with --trace, not without options, and numbers of both do not compare"),
    ],
)
def test_what_does_not_compare_is_refused(refused: Refused, make_plan, tmp_path: Path, change: dict, what: str) -> None:
    plan, url = make_plan(), f"sqlite:///{tmp_path}/study.db"
    with Database(url) as database, SharedStudy(tmp_path / "first", plan, database):
        with database.engine.begin() as connection:
            connection.execute(STUDIES.update().values(change))
        assert what in refused(url)
    with Database(url) as database, SharedStudy(tmp_path / "second", plan, database):
        pass  # nothing was measured, and nobody is there: this machine decides


def test_hosts_of_one_kind_have_the_same_hardware() -> None:
    assert shared_study.hardware("node-7-3f9a2c") == shared_study.hardware("node-8-3f9a2c") == "3f9a2c"


def test_a_study_moves_into_a_database_and_not_back(
    suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records that were there first stay the first; files alone would go on beside the database."""
    command = ["run", str(suite_file), "--results", str(tmp_path / "results"), "--set", "search.speed=[20]"]
    assert cli.main(command) == 0
    (records,) = (tmp_path / "results").glob("fake/*/trials.jsonl")
    before = read_records(records)
    url = f"sqlite:///{tmp_path}/study.db"
    assert cli.main([*command, "--storage", url]) == 0 and read_records(records) == before != []
    capsys.readouterr()
    assert cli.main(command) == 1
    assert f"this study is kept in {url}: add --storage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:a@b:c/d@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        (
            "postgresql://host/db?user=me&password=x&sslpassword=y",
            "postgresql://host/db?user=me&password=***&sslpassword=***",
        ),
        (
            "mysql+pymysql://me:a?b=c@host/db?sslmode=require&token=T&Access_Key=K&pass%77ord=x&bare&charset=utf8",
            "mysql+pymysql://me:***@host/db?sslmode=require&token=***&Access_Key=***&pass%77ord=***&***&charset=utf8",
        ),
        ("sqlite:///file:study.db?mode=rwc&uri=true&key=K", "sqlite:///file:study.db?mode=rwc&uri=true&key=***"),
        ("sqlite:///study.db", "sqlite:///study.db"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_errors_of_a_database_that_is_in_use_are_one_line(database_server: Server) -> None:
    url = database_server.new_database()
    with pytest.raises(StorageError) as raised, Database(url) as database, database.engine.connect() as connection:
        connection.execute(text("SELECT * FROM nothing"))
    assert "the database failed: relation" in str(raised.value) and "run the same command" in str(raised.value).lower()
    assert "\n" not in str(raised.value) and PASSWORD not in str(raised.value)


def test_a_database_that_restarts_is_waited_for(database_server: Server) -> None:
    url = database_server.new_database()
    with Database(url) as database:
        with database.engine.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        with database_server.connect("postgres") as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [url.rpartition("/")[2]]
            )
        with database.engine.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        assert database.outages == 1

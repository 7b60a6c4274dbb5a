"""The database of studies that several drivers work on: its address, its tables, and errors that say what to do.

Optuna keeps its trials there in its own tables. Three tables of ours stand beside them: ``unilab_studies`` (what a
study is measured on, and with which options that change its numbers), ``unilab_records`` (the truth: one row a record,
see ``harness.study.database.records``) and ``unilab_leases`` (which driver works on what, see
``harness.study.database.leases``). They are not Optuna's attributes, as writing one of those replaces what another
driver wrote; a row of a table can be added once or not at all.

Any database that Optuna takes will do. A password is never shown: neither in messages nor in a study's files.
"""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from harness.files.writing import RecordError
from harness.measure.stop import StopSignal

CONNECT_SECONDS = 5
"""that a server may take to answer"""
OUTAGE_SECONDS = 60.0
"""that a database may be away while a study runs"""
RETRY_SECONDS = 0.5
CREATE_SECONDS = 15.0
"""for another driver to finish making the tables"""
BUSY_SECONDS = 30
"""that a write waits for another one (SQLite)"""
LONGEST_BLOB = 2**24 - 1
OTHER_OPTUNA = (
    f"its tables are of another Optuna ({{}}; here is Optuna {optuna.__version__}). Take another database, install "
    "that Optuna, or upgrade the tables with 'optuna storage upgrade --storage URL'"
)
SHOWN = (
    "user", "host", "port", "dbname", "sslmode", "connect_timeout", "application_name", "charset", "timeout", "mode",
    "uri",
)  # fmt: skip
"""parts of a URL's query that people may see; of all others, known or not, any may be a password or a token"""
PSYCOPG = {
    "connect_timeout": CONNECT_SECONDS, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}  # fmt: skip
"""a server that is gone without a word is noticed within 30 s"""

METADATA = sa.MetaData()
STUDIES = sa.Table(
    "unilab_studies",
    METADATA,
    sa.Column("study", sa.String(512), primary_key=True),
    sa.Column("hardware", sa.String(64), nullable=False),
    sa.Column("machine", sa.String(255), nullable=False),
    sa.Column("options", sa.String(255), nullable=False),
)
RECORDS = sa.Table(
    "unilab_records",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.String(512), nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("repeat", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("driver", sa.String(64), nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("curve", sa.LargeBinary(LONGEST_BLOB)),
    sa.UniqueConstraint("study", "trial", "phase", "repeat", "attempt"),
)
LEASES = sa.Table(
    "unilab_leases",
    METADATA,
    sa.Column("study", sa.String(512), primary_key=True),
    sa.Column("what", sa.String(128), primary_key=True),
    sa.Column("driver", sa.String(64), nullable=False),
    sa.Column("holder", sa.String(255), nullable=False),
    sa.Column("host", sa.String(128), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.String(32), nullable=False),
    sa.Column("beat", sa.Integer, nullable=False),
)


class StorageError(RecordError):
    """The database of a study cannot be used, in one line that says what to do. Holds no password."""


def masked(url: str) -> str:
    """The URL without its secrets, for people and files; a malformed one as well."""
    shown = re.sub(r"(?<=://)([^/@]*?):.*@", r"\1:***@", url)
    address, mark, query = shown.partition("?")
    return address + mark + re.sub(r"([^&=]+)(=?)[^&]*", _shown_part, query)


def _shown_part(part: re.Match[str]) -> str:
    if part[2] and part[1].lower() in SHOWN:
        return part[0]
    return f"{part[1]}=***" if part[2] else "***"


class Database:
    """An open database with Optuna's tables and ours.

    Args:
        url: as SQLAlchemy takes it; ``postgresql://`` means the driver psycopg.

    Raises:
        StorageError: it is malformed or not reachable, refuses, lacks a package, or has tables of another Optuna.
            Nothing was created.
    """

    def __init__(self, url: str) -> None:
        self.url = masked(url)
        self._secrets = _secrets(url)
        self.outages = 0
        """how often a connection was lost or could not be made"""
        self.stop: StopSignal | None = None
        """a signal ends the waiting for a database that does not answer"""
        self.say: Callable[[str], None] = lambda text: None
        """gets a line while the database is waited for"""
        self._away = False
        self._given_up = threading.Event()
        try:
            self.storage = self._open(url)
        except StorageError:
            raise
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
            raise self._refused(
                f"cannot be used: {self.explain(error)}; is the server running, and are address, user, password and "
                "database right? Nothing was started"
            ) from None
        self.engine: sa.Engine = self.storage.engine
        event.listen(self.engine, "do_connect", self._connect)
        event.listen(self.engine, "handle_error", self._note)

    def _refused(self, problem: str) -> StorageError:
        return StorageError(f"--storage {self.url}: {problem}")

    def _open(self, url: str) -> RDBStorage:
        """Make the tables that are missing, and touch none of another version of Optuna."""
        try:
            parsed = sa.make_url(url)
        except (ArgumentError, ValueError):
            raise self._refused(
                "not a database URL; expected one such as postgresql+psycopg://user@host/database or sqlite:///study.db"
            ) from None
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise self._refused("a database in memory has one process; name a file: sqlite:///study.db")
            if not Path(parsed.database).parent.is_dir():
                raise self._refused(f"there is no folder {Path(parsed.database).parent}")
        options = {"connect_args": _connect_options(parsed), "pool_pre_ping": True}
        try:
            looking = sa.create_engine(parsed, poolclass=NullPool, **options)
        except NoSuchModuleError:
            raise self._refused(
                f"no database is called {parsed.drivername!r}; expected one such as postgresql+psycopg, mysql+pymysql "
                "or sqlite"
            ) from None
        except ImportError as error:
            remedy = f"install {error.name}"
            if parsed.get_backend_name() == "postgresql":
                remedy = "pip install -e '.[postgresql]' in this project's checkout"
            problem = f"the package {error.name} is missing, which talks to this database: {remedy}"
            raise self._refused(problem) from None
        sa.inspect(looking).get_table_names()  # what does not work at all is told at once
        deadline = time.monotonic() + CREATE_SECONDS
        while True:
            version = None
            try:
                tables = {"studies", "version_info", "alembic_version"} & set(sa.inspect(looking).get_table_names())
                if "alembic_version" in tables:
                    with looking.connect() as connection:
                        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
                if version is not None or not tables:
                    address = parsed.render_as_string(hide_password=False)
                    storage = RDBStorage(address, dict(options), skip_table_creation=bool(tables))
                    METADATA.create_all(storage.engine)
                    return storage
                if time.monotonic() > deadline:
                    raise self._refused(OTHER_OPTUNA.format("an old version"))
            except RuntimeError:
                raise self._refused(OTHER_OPTUNA.format(f"schema {version}")) from None
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError, AssertionError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)  # another driver is making the tables, and a database has no way to tell when it has

    def give_up(self) -> None:
        """Wait no longer for a database that does not answer."""
        self._given_up.set()

    def _connect(self, dialect: Dialect, _: object, args: list[Any], options: dict[str, Any]) -> Any:
        """A database that restarts is waited for: any statement that comes meanwhile is only late."""
        deadline = time.monotonic() + OUTAGE_SECONDS
        while True:
            try:
                connection = dialect.connect(*args, **options)
                self._away = False
                return connection
            except dialect.loaded_dbapi.OperationalError as error:
                self.outages += 1
                if not self._away:
                    self._away = True
                    self.say(f"the database does not answer; waiting up to {OUTAGE_SECONDS:g} s: {self.explain(error)}")
                stopped = self.stop is not None and self.stop.signum is not None
                if stopped or time.monotonic() > deadline or self._given_up.wait(RETRY_SECONDS):
                    raise

    def _note(self, context: ExceptionContext) -> None:
        self.outages += context.is_disconnect

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave it.

        Raises:
            StorageError: in place of any error of the database.
        """
        self.storage.remove_session()
        self.engine.dispose()
        if isinstance(error, SQLAlchemyError | optuna.exceptions.StorageInternalError):
            raise StorageError(
                f"{self.url}: the database failed: {self.explain(error)}; all acknowledged records are safe. "
                "Run the same command again: it goes on from here"
            ) from None

    def explain(self, error: BaseException) -> str:
        """The cause in one line, without secrets."""
        while error.__cause__ is not None and not isinstance(error, SQLAlchemyError):
            error = error.__cause__
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _secrets(url: str) -> list[str]:
    """What is secret in a URL, in the forms in which it may turn up in messages of others."""
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        return [url]
    query = parsed.normalized_query
    values = [value for name in query if name.lower() not in SHOWN for value in query[name]]
    hidden = [parsed.password, *(value for value in values if len(value) > 3)]  # of "1" a message is full
    return [form for secret in hidden if secret for form in (str(secret), quote(str(secret)), quote_plus(str(secret)))]


def _connect_options(url: URL) -> dict[str, Any]:
    if url.drivername == "postgresql+psycopg":
        return {name: value for name, value in PSYCOPG.items() if name not in url.query}
    if url.drivername in ("mysql", "mysql+mysqldb", "mysql+pymysql"):
        return {"connect_timeout": CONNECT_SECONDS}
    if url.get_backend_name() == "sqlite":
        return {"timeout": BUSY_SECONDS}
    return {}

"""A PostgreSQL server of the tests' own: a private cluster in a temporary folder, on a free port of the loopback.

Only the server's programs are needed; a service that the system may run is left alone. The server ends with the tests,
also with tests that are killed: a shell beside it waits on a pipe of ours, stops it when the pipe closes, and removes
its folder.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

USER, PASSWORD = "harness", "p%40ss/w:rd"  # as it stands in a URL
PLAIN_PASSWORD = "p@ss/w:rd"
UNPRIVILEGED = ("postgres", "nobody")
"""who runs the server when the tests run as root, which it refuses; the first of them that there is"""
GUARD = """
bin=$1 folder=$2 port=$3
"$bin/postgres" -D "$folder/data" -p "$port" -k "$folder" -h 127.0.0.1 -F >"$folder/log" 2>&1 &
server=$!
until "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; do
  kill -0 $server 2>/dev/null || break
  sleep 0.1
done
echo ready
read line
kill -QUIT $server 2>/dev/null
wait $server
rm -rf "$folder"
"""
"""-F: nothing has to survive this machine; SIGQUIT: at once, connected or not"""


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{uuid4().hex}"
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PLAIN_PASSWORD, dbname=database, autocommit=True
        )


def programs() -> Path | None:
    """The folder of the server's programs: on the path, or where Debian has them, the newest version."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    places = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((place.parent for place in places), key=lambda place: float(place.parent.name), default=None)


@contextmanager
def postgresql() -> Iterator[Server]:
    """A server; skipped where none is installed. With ``REQUIRE_POSTGRESQL``, as in CI, that is a failure instead."""
    binaries = programs()
    if binaries is None:
        end = pytest.fail if os.environ.get("REQUIRE_POSTGRESQL") else pytest.skip
        end("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    account = _unprivileged() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    who = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    secret = folder / "password"
    secret.write_text(PLAIN_PASSWORD)
    subprocess.run(
        [binaries / "initdb", "--pgdata", folder / "data", "--no-sync", "--username", USER, "--pwfile", secret,
         "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"],
        check=True, stdout=subprocess.DEVNULL, cwd=folder, **who,
    )  # fmt: skip
    guard = subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "sh", binaries, folder, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=folder, start_new_session=True, **who,
    )  # fmt: skip
    assert guard.stdin is not None and guard.stdout is not None
    try:
        guard.stdout.readline()
        server = Server(port)
        try:
            server.connect("postgres").close()
        except psycopg.OperationalError:
            pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text()}")
        yield server
    finally:
        guard.stdin.close()
        guard.wait(120)  # it removes its folder, which takes a loaded machine a while
        guard.stdout.close()


def _unprivileged() -> pwd.struct_passwd:
    known = {account.pw_name: account for account in pwd.getpwall()}
    return next(known[name] for name in UNPRIVILEGED if name in known)

"""A cluster that lets anybody in is refused, unless told otherwise: what the two kinds of heads answer is replayed."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli
from unilab.distributed.ray import connection as ray_connection
from unilab.distributed.ray.connection import lets_anybody_in

SETTINGS = b"\0\0\0\4\0\0\0\0\0"
WELCOME = SETTINGS + b"\0\0\2\1\4\0\0\0\1\x88\x88" + b"\0\0\5\0\0\0\0\0\1" + b"\0" * 5
REFUSAL = SETTINGS + b"\0\0\2\1\5\0\0\0\1\x88\x88"


@pytest.fixture
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Answers every client alike; its address, as if it were on the network."""
    monkeypatch.setattr(ray_connection, "_is_loopback", lambda host: False)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # closed
                    return
                with client:
                    client.recv(65536)
                    client.sendall(request.param)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def asks(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return not lets_anybody_in(host, int(port))


@pytest.mark.parametrize(("head", "closed"), [(WELCOME, False), (REFUSAL, True)], indirect=["head"])
def test_who_answers_without_a_token_is_open(head: str, closed: bool) -> None:
    assert asks(head) == closed


@pytest.mark.parametrize("head", [SETTINGS], indirect=True)
def test_who_says_nothing_is_not_taken_for_closed(head: str) -> None:
    with pytest.raises(ConnectionError, match="did not show whether it asks for a token"):
        asks(head)


@pytest.mark.parametrize("head", [WELCOME], indirect=True)
def test_a_study_is_not_measured_on_a_cluster_that_lets_anybody_in(
    head: str, suite_file: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs pip install '.[ray]'")
    command = ["run", str(suite_file), "--results", str(suite_file.parent), "--engine", "ray"]
    assert cli.main([*command, "--address", head]) == 1
    error = capsys.readouterr().err
    assert f"the Ray cluster at {head} asks for no token" in error and "--insecure-cluster" in error
    monkeypatch.setenv("RAY_ADDRESS", head)
    assert cli.main(command) == 1
    assert f"the Ray cluster at {head} asks for no token" in capsys.readouterr().err


def test_a_cluster_of_this_machine_alone_may_be_open() -> None:
    assert ray_connection._is_loopback("127.0.0.5") and ray_connection._is_loopback("localhost")
    assert not ray_connection._is_loopback("192.0.2.1")

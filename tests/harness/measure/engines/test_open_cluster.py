"""A cluster that lets anybody in is refused, unless told otherwise."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness import cli
from unilab.distributed.ray import connection as ray_connection
from unilab.distributed.ray.connection import lets_anybody_in


class Head(grpc.GenericRpcHandler):
    """Of a cluster with a token or without one."""

    def __init__(self, has_token: bool) -> None:
        self._has_token = has_token

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, request: bytes, context: Any) -> bytes:
        if self._has_token:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""


@pytest.fixture
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Answers every client alike; its address, as if it were on the network."""
    monkeypatch.setattr(ray_connection, "_is_loopback", lambda host: False)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Head(request.param)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("head", [False, True], indirect=True)
def test_who_answers_without_a_token_is_open(head: str, request: pytest.FixtureRequest) -> None:
    host, _, port = head.rpartition(":")
    assert lets_anybody_in(host, int(port)) != request.node.callspec.params["head"]


def test_what_is_no_cluster_is_not_taken_for_one_that_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(ConnectionError, match=r"no Ray cluster at 127.0.0.1"):
        lets_anybody_in("127.0.0.1", port)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert not lets_anybody_in("127.0.0.1", port)
    server.stop(None).wait()
    with pytest.raises(ConnectionError, match=r"no Ray cluster at 127.0.0.1"):
        lets_anybody_in("127.0.0.1", port)


@pytest.mark.parametrize("head", [False], indirect=True)
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

"""The connection of this process to a Ray cluster."""

import importlib
import ipaddress
import logging
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
"""for the head of the cluster to answer"""

_HTTP2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _HTTP2_SETTINGS
"""what a client of gRPC, which Ray speaks, begins with; a server answers with settings of its own"""
_HEADERS, _DATA, _RESET, _GOAWAY, _END = 1, 0, 3, 7, 1
"""of HTTP/2: kinds of frames, and the flag of the last one"""


class OpenClusterError(ConnectionError):
    """A cluster takes code from anybody who reaches it."""


def import_ray() -> Any:
    """The package ``ray``.

    Raises:
        ModuleNotFoundError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError(
            "Ray is not installed here: pip install -e '.[ray]' in this project's checkout, on every machine of the "
            "cluster",
            name="ray",
        ) from error


class RayConnection:
    """Connects this process to a Ray cluster, unless it is connected already; Ray's SIGTERM handler is not kept.

    Args:
        address: ``host:port`` of the cluster's head; ``auto``: the one that runs on this machine; ``local``: a new one
            on this machine, for this process alone; None: as ``ray.init()`` does, ``RAY_ADDRESS`` or else the one that
            runs on this machine or else a new one. Of a cluster on several machines this must be one.
        log_to_driver: whether what the cluster's processes print for this one is printed here; None: as Ray's
            environment says.
        refuse_open: whether a cluster on the network is refused that lets anybody in, without a token.

    Attributes:
        ray: the package.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: not such an address, or this process is connected to another cluster.
        ConnectionError: nothing that speaks Ray's protocol answers there within 10 s, or it refuses.
        OpenClusterError: it lets anybody in.
    """

    def __init__(
        self, address: str | None = None, *, log_to_driver: bool | None = None, refuse_open: bool = False
    ) -> None:
        self.ray = import_ray()
        self._log_to_driver = log_to_driver
        self._refuse_open = refuse_open
        self._made = not self.ray.is_initialized()
        if self._made:
            self._connect(address)
        else:
            self._check_same(address)

    def close(self) -> None:
        """Disconnect, if this object connected; ends a cluster that was started for it (idempotent)."""
        if self._made:
            self.ray.shutdown()
            self._made = False

    def _connect(self, address: str | None) -> None:
        chosen = choose_address(address)
        if self._refuse_open:
            _check_asks_for_token(chosen)
        before = signal.getsignal(signal.SIGTERM)
        try:
            self.ray.init(
                address=chosen,
                include_dashboard=False,
                logging_level=logging.WARNING,
                log_to_driver=self._log_to_driver,
            )
        except (ConnectionError, RuntimeError) as error:
            where, why = _named(address) or "this machine", error.__cause__ or error
            raise ConnectionError(
                f"Ray at {where} does not let this process in: {why}. It takes a machine of the cluster (`ray start "
                "--address=HEAD:6379`), the same version of Ray, and RAY_AUTH_MODE=token with the cluster's token if "
                "it has one"
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():  # elsewhere Ray leaves it alone, too
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def _check_same(self, address: str | None) -> None:
        if address in (None, "auto", "local"):
            return
        _, port = _host_and_port(address)
        connected = self.ray.get_runtime_context().gcs_address
        if _host_and_port(connected)[1] != port:
            raise ValueError(
                f"this process is connected to Ray at {connected}, not at {address}: call ray.shutdown() first, or "
                "leave ray_address out"
            )


def choose_address(address: str | None) -> str | None:
    """What to call ``ray.init`` with, which would try for a quarter of an hour to reach a cluster that is not there.

    Raises:
        ValueError: not an address.
        ConnectionError: nothing that speaks Ray's protocol answers there within 10 s.
    """
    named = _named(address)
    if named == "local":
        return named
    if named is not None:
        _check_answers(*_host_and_port(named))
        return address
    try:
        recorded = _record().read_text().strip()
        _check_answers(*_host_and_port(recorded))
    except FileNotFoundError:
        return address
    except ConnectionError:
        if address == "auto":
            raise
        logger.warning("the Ray cluster of this machine, at %s, is gone; a new one is started", recorded)
        return "local"
    return address


def _check_asks_for_token(chosen: str | None) -> None:
    """Of the cluster at a chosen address; what only this machine reaches may be open.

    Raises:
        OpenClusterError: it does not.
    """
    named = _named(chosen)
    if named is None:
        named = _record().read_text().strip() if _record().exists() else "local"
    if named == "local" or os.environ.get("RAY_USE_TLS", "0") != "0":  # with TLS either side has a certificate
        return
    host, port = _host_and_port(named)
    if not _is_loopback(host) and lets_anybody_in(host, port):
        raise OpenClusterError(
            f"the Ray cluster at {named} asks for no token: anybody in the network can run code on its machines, and "
            "read and change what is measured"
        )


def _is_loopback(host: str) -> bool:
    """Whether an address is one of this machine alone."""
    return all(ipaddress.ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))


def lets_anybody_in(host: str, port: int) -> bool:
    """Whether the head of a cluster answers who shows no token.

    It is asked for the cluster's id, which every client begins with: an answer has data, a refusal has headers alone.

    Raises:
        ConnectionError: it says neither.
    """
    names = {
        ":method": "POST", ":scheme": "http", ":path": "/ray.rpc.NodeInfoGcsService/GetClusterId",
        ":authority": f"{host}:{port}", "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    headers = b"".join(
        b"\0%c%s%c%s" % (len(name), name.encode(), len(value), value.encode()) for name, value in names.items()
    )
    no_arguments = b"\0" * 5
    request = _frame(_HEADERS, 4, headers) + _frame(_DATA, _END, no_arguments)
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as connection:
            connection.sendall(_HTTP2_GREETING + request)
            answers = connection.makefile("rb")
            while len(start := answers.read(9)) == 9:
                kind, flags, stream = start[3], start[4], int.from_bytes(start[5:9])
                answers.read(int.from_bytes(start[:3]))
                if stream == 1 and kind == _DATA:
                    return True
                if (stream == 1 and kind == _HEADERS and flags & _END) or kind in (_RESET, _GOAWAY):
                    return False
    except OSError as error:
        raise ConnectionError(f"Ray at {host}:{port} did not show whether it asks for a token: {error}") from error
    raise ConnectionError(f"Ray at {host}:{port} did not show whether it asks for a token: it hung up")


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    """One of HTTP/2's, in the first stream."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + (1).to_bytes(4) + payload


def _named(address: str | None) -> str | None:
    """The address that is given, here or by ``RAY_ADDRESS``; None: the one that runs on this machine."""
    named = address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS")
    return None if named in ("", "auto") else named


def _record() -> Path:
    """Where Ray keeps the address of the cluster that was started last on this machine."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(folder, "ray", "ray_current_cluster")


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise ValueError(
            f"ray_address is {address!r}; give host:port of the head, such as 192.168.0.1:6379, or auto, or local"
        )
    return host.strip("[]"), int(port)


def _check_answers(host: str, port: int) -> None:
    """Greet the server there as Ray would.

    Raises:
        ConnectionError: nothing answers, or not in this way.
    """
    problem = ""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(_HTTP2_GREETING)
                answer = connection.recv(len(_HTTP2_SETTINGS))
                problem = "" if answer[3:4] == b"\4" else "what answers there is not Ray"
    except OSError as error:
        problem = str(error)
    if problem:
        raise ConnectionError(
            f"no Ray cluster at {host}:{port}: {problem}. `ray start --head` starts one and prints its address; "
            "`ray status --address=HOST:PORT` on this machine shows whether it can be reached"
        )

"""The connection of this process to a Ray cluster."""

import importlib
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

    Attributes:
        ray: the package.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: not such an address, or this process is connected to another cluster.
        ConnectionError: nothing that speaks Ray's protocol answers there within 10 s, or it refuses.
    """

    def __init__(self, address: str | None = None, *, log_to_driver: bool | None = None) -> None:
        self.ray = import_ray()
        self._log_to_driver = log_to_driver
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
                problem = "" if answer[3:4] == b"\4" else "something else than Ray answers there"
    except OSError as error:
        problem = str(error)
    if problem:
        raise ConnectionError(
            f"no Ray cluster at {host}:{port}: {problem}. `ray start --head` starts one and prints its address; "
            "`ray status --address=HOST:PORT` on this machine shows whether it can be reached"
        )

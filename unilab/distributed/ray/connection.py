"""The connection of this process to a Ray cluster."""

import importlib
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from unilab.errors import UserError

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
"""for the head of the cluster to answer"""


class OpenClusterError(UserError, ConnectionError):
    """A cluster takes code from anybody who reaches it."""


def connect(
    address: str | None = None, *, log_to_driver: bool | None = None, refuse_open: bool = False
) -> Callable[[], object]:
    """Connect this process to a Ray cluster, unless it is connected already; Ray's SIGTERM handler is not kept.

    Args:
        address: ``host:port`` of the cluster's head; ``auto``: the one that runs on this machine; ``local``: a new one
            on this machine, for this process alone; None: as ``ray.init()`` does, ``RAY_ADDRESS`` or else the one that
            runs on this machine or else a new one. Of a cluster on several machines this must be one.
        log_to_driver: whether what the cluster's processes print for this one is printed here; None: as Ray's
            environment says.
        refuse_open: whether a cluster on the network is refused that lets anybody in, without a token.

    Returns:
        what ends the connection that was made here, and a cluster that was started for it; idempotent.

    Raises:
        ModuleNotFoundError: Ray is not installed; names the extra that brings it.
        ValueError: not such an address, or this process is connected to another cluster.
        ConnectionError: nothing that speaks Ray's protocol answers there within 10 s, or it refuses.
        OpenClusterError: it lets anybody in.
    """
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        where = "pip install -e '.[ray]' in this project's checkout, on every machine of the cluster"
        raise ModuleNotFoundError(f"Ray is not installed here: {where}", name="ray") from error
    if ray.is_initialized():
        connected = ray.get_runtime_context().gcs_address
        if address not in {None, "auto", "local"} and _host_and_port(address)[1] != _host_and_port(connected)[1]:
            raise ValueError(
                f"this process is connected to Ray at {connected}, not at {address}: call ray.shutdown() first, or "
                "leave ray_address out"
            )
        return lambda: None
    chosen = choose_address(address, refuse_open=refuse_open)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=chosen, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=log_to_driver)
    except (ConnectionError, RuntimeError) as error:
        named = os.environ.get("RAY_ADDRESS") if address in (None, "auto") else address
        where, why = named or "this machine", error.__cause__ or error
        raise ConnectionError(
            f"Ray at {where} does not let this process in: {why}. It takes a machine of the cluster (`ray start "
            "--address=HEAD:6379`), the same version of Ray, and RAY_AUTH_MODE=token with the cluster's token if "
            "it has one"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere Ray leaves it alone, too
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
    return ray.shutdown


def choose_address(address: str | None, *, refuse_open: bool = False) -> str | None:
    """What to call ``ray.init`` with, which would try for a quarter of an hour to reach a cluster that is not there.

    Raises:
        ValueError: not an address.
        ConnectionError: nothing that speaks Ray's protocol answers there within 10 s.
        OpenClusterError: ``refuse_open``, and a cluster that others can reach lets anybody in.
    """
    named = address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS")
    if named == "local":
        return named
    of_this_machine = named in (None, "", "auto")
    if of_this_machine:  # Ray keeps the address of the cluster that was started last
        folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
        record = Path(folder, "ray", "ray_current_cluster")
        if not record.exists():
            return address
        named = record.read_text().strip()
    host, port = _host_and_port(named or "")
    try:
        is_open = lets_anybody_in(host, port)
    except ConnectionError:
        if not of_this_machine or address == "auto":
            raise
        logger.warning("the Ray cluster of this machine, at %s, is gone; a new one is started", named)
        return "local"
    if refuse_open and is_open and not _is_loopback(host):
        raise OpenClusterError(
            f"the Ray cluster at {named} asks for no token: anybody in the network can run code on its machines, and "
            "read and change what is measured"
        )
    return address


def lets_anybody_in(host: str, port: int) -> bool:
    """Whether the head of a cluster answers somebody who shows no token.

    It is asked for the cluster's id, which every client begins with.

    Raises:
        ConnectionError: nothing answers, or not as Ray does.
    """
    remedy = (
        "`ray start --head` starts one and prints its address; `ray status --address=HOST:PORT` on this machine shows "
        "whether it can be reached"
    )
    if os.environ.get("RAY_USE_TLS", "0") != "0":  # either side has a certificate
        try:
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
        except OSError as error:
            raise ConnectionError(f"no Ray cluster at {host}:{port}: {error}. {remedy}") from error
        return False
    import grpc  # not in every process that imports this file

    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=_CONNECT_SECONDS)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return False
            raise ConnectionError(f"no Ray cluster at {host}:{port}: {error.details()}. {remedy}") from error
    return True


def _is_loopback(host: str) -> bool:
    return all(ipaddress.ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise ValueError(
            f"ray_address is {address!r}; give host:port of the head, such as 192.168.0.1:6379, or auto, or local"
        )
    return host.strip("[]"), int(port)

"""A real Ray cluster on this machine: several nodes, each with an address of its own on the loopback interface.

No dashboard, no usage statistics, small object stores, and everything that Ray writes in one folder of its own. The
kernel ends Ray's processes with this one, whichever way that goes; the folder of one that was killed is removed by the
next cluster.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
OBJECT_STORE_BYTES = 80 * 2**20
NODES = 2
_FOLDER = "ur-{pid}-"
"""short: the names of Ray's sockets begin with it, and a socket's name has at most 107 characters"""

ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_LOG_TO_DRIVER": "0",
    "RAY_worker_niceness": "0",
    # A node that is lost refuses connections, and is given up after seconds; one that is slow is not.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "6",
}


class RayCluster:
    """Its head takes no work; the other nodes can come and go.

    Attributes:
        address: for ``ray.init``.
    """

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._nodes = 0
        self._cluster: Any = Cluster()
        self._add(num_cpus=0)
        self.address: str = self._cluster.address

    def connect(self) -> None:
        """Connect this process, until ``ray.shutdown()`` or the end of the cluster."""
        import ray

        ray.init(address=self.address, logging_level="WARNING")

    def add_node(self, num_cpus: float = 2, resources: dict[str, float] | None = None, num_gpus: int = 0) -> Any:
        """Start one more node; for ``remove_node``. It may still be starting when this returns: see ``wait``."""
        return self._add(num_cpus=num_cpus, num_gpus=num_gpus, resources=resources or {}, wait=False)

    def wait(self) -> None:
        """Wait until all nodes are there."""
        self._cluster.wait_for_nodes(timeout=60)

    def node(self, node_id: str) -> Any:
        """The node with this id, as ``ray.get_runtime_context().get_node_id()`` gives it."""
        return next(node for node in self._cluster.worker_nodes if node.node_id == node_id)

    def remove_node(self, node: Any) -> None:
        """Kill all processes of a node at once, as if its machine lost power."""
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()

    def _add(self, **arguments: Any) -> Any:
        # Another address than 127.0.0.1, which Ray would replace by that of the network card.
        address = f"127.0.0.{2 + self._nodes}"
        self._nodes += 1
        return self._cluster.add_node(
            node_ip_address=address, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **arguments
        )


@contextmanager
def ray_cluster(nodes: int = NODES, cpus_per_node: float = 2) -> Iterator[RayCluster]:
    """A cluster with so many nodes, and this process's environment set for it; skips where Ray is not installed."""
    pytest.importorskip("ray", reason="needs pip install -e '.[ray]'")
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER.format(pid=os.getpid())))
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "RAY_TMPDIR": str(folder), "PYTHONPATH": path}.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        cluster = RayCluster()
        try:
            for _ in range(nodes):
                cluster.add_node(cpus_per_node)
            cluster.wait()
            yield cluster
        finally:
            import ray

            ray.shutdown()
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers() -> None:
    pattern = re.compile(_FOLDER.format(pid=r"(\d+)"))
    for folder in Path(tempfile.gettempdir()).glob(_FOLDER.format(pid="*") + "*"):
        match = pattern.match(folder.name)
        if match and not psutil.pid_exists(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)

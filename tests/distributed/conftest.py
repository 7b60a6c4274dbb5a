"""The implementations of distributed workers; every test here must leave no process and no shared memory behind."""

from collections.abc import Callable, Iterator

import pytest

from tests.ipc.conftest import nothing_left
from tests.ray_cluster import RayCluster, ray_cluster
from unilab.distributed import BaseDistributedWorkersWithBuffer, ProcessWorkers, RayWorkers, SequentialWorkers

__all__ = ["nothing_left"]

MakeWorkers = Callable[..., BaseDistributedWorkersWithBuffer]

IMPLEMENTATIONS: dict[str, MakeWorkers] = {
    "sequential": SequentialWorkers,
    "processes": ProcessWorkers,
    "ray": RayWorkers,
}


@pytest.fixture(scope="package")
def cluster() -> Iterator[RayCluster]:
    """A Ray cluster of two nodes with two CPUs each, to which this process is connected."""
    with ray_cluster() as cluster:
        cluster.connect()
        yield cluster


@pytest.fixture(params=IMPLEMENTATIONS)
def make_workers(request: pytest.FixtureRequest) -> MakeWorkers:
    """Constructor of one implementation after the other; those that can run freely take ``in_step=False`` too."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return IMPLEMENTATIONS[request.param]

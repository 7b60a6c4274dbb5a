"""The implementations of distributed workers; every test here must leave no process and no shared memory behind."""

import functools
from collections.abc import Callable, Iterator

import pytest

from tests.ipc.conftest import nothing_left
from tests.ray_cluster import RayCluster, ray_cluster
from unilab.distributed import BaseDistributedWorkersWithBuffer, ProcessWorkers, RayWorkers, SequentialWorkers

__all__ = ["nothing_left"]

MakeWorkers = Callable[..., BaseDistributedWorkersWithBuffer]

IMPLEMENTATIONS: dict[str, type[BaseDistributedWorkersWithBuffer]] = {
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
    """Constructor of one implementation after the other."""
    return _implementation(request)


@pytest.fixture(params=[name for name, kind in IMPLEMENTATIONS.items() if kind.runs_freely])
def make_free_workers(request: pytest.FixtureRequest) -> MakeWorkers:
    """The same, of those that take ``in_step=False``."""
    return functools.partial(_implementation(request), in_step=False)


def _implementation(request: pytest.FixtureRequest) -> MakeWorkers:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return IMPLEMENTATIONS[request.param]

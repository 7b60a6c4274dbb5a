"""The implementations of distributed workers; every test here must leave no process and no shared memory behind."""

from collections.abc import Callable

import pytest

from tests.ipc.conftest import nothing_left
from unilab.distributed import BaseDistributedWorkersWithBuffer, ProcessWorkers, SequentialWorkers

__all__ = ["nothing_left"]

MakeWorkers = Callable[..., BaseDistributedWorkersWithBuffer]

IMPLEMENTATIONS: dict[str, MakeWorkers] = {"sequential": SequentialWorkers, "processes": ProcessWorkers}


@pytest.fixture(params=IMPLEMENTATIONS)
def make_workers(request: pytest.FixtureRequest) -> MakeWorkers:
    """Constructor of one implementation after the other; those that can run freely take ``in_step=False`` too."""
    return IMPLEMENTATIONS[request.param]

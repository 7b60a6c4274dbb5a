import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.browser import chromium
from tests.postgresql import Server, postgresql

# how long an example takes says more of the machine than of the code
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

LONG = (
    "test_readme.py",
    "test_benchmarks_page.py",
    "distributed/test_contract.py",
    "harness/measure/engines/test_ray.py",
    "algos/offpolicy/test_worker_source.py",
    "algos/offpolicy/test_runner.py",
)
"""files that take minutes, the longest first"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files are shared out over processes, none is left with a long one when the others have nothing to do."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


def pytest_collection_finish() -> None:
    """Nothing that is imported by now is garbage. A test that has it collected, to see what is left, would look through
    all of it each time, for a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    with postgresql() as server:
        yield server

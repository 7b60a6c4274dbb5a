from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from tests.browser import chromium
from tests.postgresql import Server, postgresql

# how long an example takes says more of the machine than of the code
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    with postgresql() as server:
        yield server

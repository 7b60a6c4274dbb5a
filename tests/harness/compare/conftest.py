from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def importable_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are processes of their own, and find the trainer of these tests in another working directory as well."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

import logging
from pathlib import Path

import pytest

from unilab.machine import user_cache


def test_what_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache.read("one.json") is None
    user_cache.write("one.json", "{}")
    assert user_cache.read("one.json") == "{}"
    assert [path.name for path in user_cache.folder().iterdir()] == ["one.json"]


def test_a_place_that_cannot_be_written_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    user_cache.write("one.json", "{}")
    assert user_cache.read("one.json") is None and "one.json cannot be kept for next time" in caplog.text


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As in a container whose user has no entry in its list of users."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    with caplog.at_level(logging.WARNING):
        user_cache.write("one.json", "{}")
    assert user_cache.read("one.json") is None and "Set XDG_CACHE_HOME to a folder" in caplog.text

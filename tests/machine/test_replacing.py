"""A file is the old version or the new one, and nothing is left beside it."""

from pathlib import Path

import pytest

from unilab.machine.replacing import replacing


def test_the_new_version_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    for text in ("old", "new"):
        with replacing(path) as beside:
            beside.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("written", ["half", None])
def test_an_error_leaves_the_old_version(tmp_path: Path, written: str | None) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="in between"), replacing(path) as beside:
        if written is not None:
            beside.write_text(written)
        raise ValueError("in between")
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["file.txt"]

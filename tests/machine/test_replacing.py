"""A file is the old version or the new one, and nothing is left beside it."""

import os
import platform
import signal
import subprocess
import sys
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


def test_what_a_killed_process_left_goes_with_the_next_version(tmp_path: Path) -> None:
    path, begin = tmp_path / "file.txt", f".file.txt.{platform.node()}"
    killed = """
import os, pathlib, signal, sys
from unilab.machine.replacing import replacing
with replacing(pathlib.Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", killed, str(path)]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    others = [f"{begin}.{os.getppid()}.0a0a0a0a.tmp", left.name.replace(begin, ".file.txt.another-machine")]
    for name in others:  # of a living process, and of a process that this machine cannot know
        (tmp_path / name).write_text("half")
    with replacing(path) as beside:
        beside.write_text("new")
    assert {one.name for one in tmp_path.iterdir()} == {"file.txt", *others}

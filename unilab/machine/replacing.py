"""Files that are replaced as a whole: written beside the old one, and renamed when they are complete."""

import glob
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, written inside of the block, that takes its place when the block has ended.

    Readers, other writers and a crash see the old version or the new one. After an error the old one stays, and nothing
    is left beside it. What a killed process of this machine left goes with the next version.

    Raises:
        OSError: the disk is full or refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = f".{path.name}.{platform.node()}."  # the folder may be on a disk that machines share
    for left in path.parent.glob(glob.escape(begin) + "*.tmp"):
        if not psutil.pid_exists(int(left.name.removeprefix(begin).split(".")[0])):
            left.unlink(missing_ok=True)
    # not one of tempfile's, which nobody but its owner may read
    beside = path.with_name(f"{begin}{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)

"""A lock for the folders that all studies of a machine add to."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Enter alone, among all processes that lock this folder; the folder is made where it is missing.

    A caller that reads, changes and writes back a file inside loses nothing that another study added. The lock is held
    for moments only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

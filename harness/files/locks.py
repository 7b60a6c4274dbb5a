"""Folders that all studies of a machine add to, one after the other."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While entered nobody else who does the same is; the folder is made when it is not there.

    What is read, changed and written back meanwhile loses nothing that another study added. Held for moments only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

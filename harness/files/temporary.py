"""Folders below the system's temporary one; what a killed process leaves there goes when the next one begins."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder whose name begins with ``prefix``, until the end of the block.

    What killed processes left under this prefix goes now. A folder in use is locked, so that of another process stays,
    even if that runs in another container and its id means nothing here.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError), _locked(left, fcntl.LOCK_NB):  # else it is in use
            if any(left.iterdir()):  # else it was just made, and is about to be used
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name, _locked(Path(name)):
        yield Path(name)


@contextmanager
def _locked(folder: Path, how: int = 0) -> Iterator[None]:
    """Hold a folder's lock, which ends with this process at the latest; ``LOCK_NB``: or raise an OSError at once."""
    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(file)

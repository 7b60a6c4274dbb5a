"""Files that are replaced as a whole: written beside the old one, and renamed when they are complete."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path``, written inside of the block, that takes its place when the block has ended.

    Readers, other writers and a crash see the old version or the new one. After an error the old one stays, and nothing
    is left beside it.

    Raises:
        OSError: the disk is full or refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not one of tempfile's, which nobody but its owner may read
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)

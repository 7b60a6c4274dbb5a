"""Writing what a study leaves, on a disk that may be full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unilab.errors import UserError


class RecordError(UserError, OSError):
    """A record could not be written; what was acknowledged before stays valid."""


def is_full(error: BaseException) -> bool:
    """Whether a disk has no room for more; shared memory that is too small for the settings says so itself."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return full and not isinstance(error, UserError)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a file or folder; raises RecordError where the disk is full or refuses."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be written ({error.strerror or error}); records up to here are safe. "
            "Free some space or fix the permissions, then run the same command again: it goes on from here"
        ) from error

"""The one base of errors that a user can mend, and the one that is found before any work is done for a file."""

import os
from pathlib import Path


class UserError(Exception):
    """An error whose text says what is wrong, where, and what to do: the command line shows it without a traceback."""


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written in the end.

    Raises:
        UserError: it is a folder, or there is none for it in which something may be written.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: there is no folder {path.parent} that can be written in; choose another place")

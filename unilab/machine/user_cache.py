"""Text files in the user's cache folder, with what took time to find out and can be found out again."""

import logging
import os
from pathlib import Path

from unilab.machine.replacing import replacing

logger = logging.getLogger(__name__)


def folder() -> Path:
    """``unilab`` in the folder that the XDG base directory specification gives for it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unilab"


def read(name: str) -> str | None:
    """What is kept under a name; None: nothing, or nothing that can be read."""
    try:
        return (folder() / name).read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):  # the last is of a user without a home
        return None


def write(name: str, text: str) -> None:
    """Keep ``text`` for next time, with a warning where there is no place for it.

    Several processes may do so at once: readers see what one of them wrote, whole.
    """
    try:
        kept = folder() / name
    except RuntimeError as error:
        logger.warning("%s cannot be kept for next time: %s Set XDG_CACHE_HOME to a folder.", name, error)
        return
    try:
        with replacing(kept) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        logger.warning("%s cannot be kept for next time: %s", kept, error.strerror or error)

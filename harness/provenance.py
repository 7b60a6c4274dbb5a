"""Which code a measurement belongs to."""

import shlex
import subprocess
from functools import cache
from pathlib import Path

SECONDS = 60
"""that git may take on a busy machine"""


class ProvenanceError(RuntimeError):
    """It cannot be said which code this is."""


@cache
def commit() -> tuple[str, bool]:
    """Commit of the repository this code lies in and whether it has changes; empty outside of one.

    Results that a user keeps in the repository are no change of what was measured.

    Raises:
        ProvenanceError: git does not answer. Without a commit, numbers of different code would mix in one study.
    """
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=SECONDS)
        changed = [*git, "status", "--porcelain", "--", ":/", ":(top,exclude)results"]
        status = subprocess.run(changed, capture_output=True, text=True, timeout=SECONDS)
    except OSError:  # there is no git
        return "", False
    except subprocess.TimeoutExpired as error:
        raise ProvenanceError(
            f"git did not answer within {SECONDS} s, so the commit of this code is not known: try "
            f"'{shlex.join(error.cmd)}'; is the disk slow, or the machine overloaded?"
        ) from None
    if head.returncode != 0:
        return "", False
    return head.stdout.strip(), bool(status.stdout.strip())

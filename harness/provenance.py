"""Which code a measurement belongs to."""

import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> tuple[str, bool]:
    """Commit of the repository this code lies in and whether it has changes; empty outside of one.

    Results that a user keeps in the repository are no change of what was measured.
    """
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = [*git, "status", "--porcelain", "--", ":/", ":(top,exclude)results"]
        status = subprocess.run(changed, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # no git, or a repository that does not answer
        return "", False
    if head.returncode != 0:
        return "", False
    return head.stdout.strip(), bool(status.stdout.strip())

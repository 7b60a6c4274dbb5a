"""Which commit a measurement was made at, for people; ``harness.suite.sources`` says which numbers belong together."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unilab.errors import UserError

SECONDS = 120
"""that git may take on a busy machine"""
REPOSITORY = Path(__file__).resolve().parents[2]
"""the folder that this code lies in"""
PACKAGES = ("harness", "unilab")
"""whose files run in a trial, whether git tracks them or not"""


@dataclass(frozen=True)
class Revision:
    """A state of the repository."""

    commit: str = ""
    """empty outside of one"""
    dirty: bool = False
    """whether there are changes that the commit does not have"""


@cache
def commit() -> Revision:
    """The code of this process, as it was when this was first asked.

    Changes are those of tracked files and files of the packages that are not tracked. What a user keeps beside them,
    such as suites, or results in the repository, is no change of what was measured.

    Raises:
        UserError: git does not answer.
    """
    return revision_of(REPOSITORY)


def revision_of(root: Path) -> Revision:
    """As ``commit``, of the packages below ``root``."""
    try:
        head = git(root, "rev-parse", "HEAD")
        if head.returncode != 0:
            return Revision()
        difference = git(
            root, "diff", "HEAD", "--name-only", "--no-ext-diff", "--no-textconv", "--", ":/", ":(top,exclude)results"
        )
        added = git(root, "ls-files", "--others", "--exclude-standard", "--", *PACKAGES)
    except OSError:  # there is no git
        return Revision()
    for done in (difference, added):
        if done.returncode != 0:
            raise UserError(f"'{shlex.join(done.args)}' failed: {done.stderr.strip()}")
    return Revision(head.stdout.strip(), bool(difference.stdout or added.stdout))


def git(root: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run git in the repository at ``root``, whatever the working directory and the caller's git variables are.

    Ctrl-C, which the terminal sends to all processes, does not reach git.

    Raises:
        OSError: there is no git.
        UserError: git does not answer.
    """
    own = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in own} | variables
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=environment,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"git did not answer within {SECONDS} s, and what it says of this code is not known: try "
            f"'{shlex.join(error.cmd)}'; is the disk slow, or the machine overloaded?"
        ) from None

"""Commits of the repository that this code lies in, each checked out in a folder of its own for as long as needed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from unilab.errors import UserError

PREFIX = "harness-compare-"
"""of temporary folders; the id of the process that made one comes next"""
SECONDS = 120
"""for one git command"""


class CompareError(UserError, ValueError):
    """Two sides that cannot be compared as they were named: what, where, and what to do."""


def revision(name: str) -> str | None:
    """The full hash of a commit; None when git knows no commit of that name here."""
    if name.startswith("-"):
        return None
    try:
        found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except OSError:  # no git here, so no commits
        return None
    return found.stdout.strip() if found.returncode == 0 else None


@contextmanager
def checkouts(commits: Sequence[str]) -> Iterator[dict[str, Path]]:
    """A worktree for each commit, removed afterwards whatever happens.

    The folders' names are equally long: the length of a path may change how fast code runs.

    Raises:
        CompareError: git cannot check one of them out.
    """
    with ExitStack() as stack:
        if commits:
            _remove_leftovers()
        yield {commit: stack.enter_context(_checkout(commit)) for commit in dict.fromkeys(commits)}


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as parent:
        folder = Path(parent) / commit[:12]
        try:
            added = _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
            if added.returncode != 0:
                reason = (added.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise CompareError(f"{commit[:12]}: git cannot check it out into {folder}: {reason}")
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _remove_leftovers() -> None:
    """Worktrees of comparisons that were killed: those whose process is gone."""
    for line in _git("worktree", "list", "--porcelain").stdout.splitlines():
        folder = Path(line.removeprefix("worktree "))
        owner = folder.parent.name.removeprefix(PREFIX).partition("-")[0]
        if line.startswith("worktree ") and folder.parent.name.startswith(PREFIX) and owner.isdigit():
            if psutil.pid_exists(int(owner)):
                continue
            _git("worktree", "remove", "--force", str(folder))
            shutil.rmtree(folder.parent, ignore_errors=True)
    _git("worktree", "prune")  # entries whose folders somebody else has removed


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """In the repository of this code, whatever the working directory and the caller's git variables are.

    Out of the reach of Ctrl-C, which the terminal sends to all: removing a worktree must come to its end.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    folder = str(Path(__file__).resolve().parent)
    return subprocess.run(
        ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=SECONDS, env=environment,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

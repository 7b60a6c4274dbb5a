"""Which code a measurement belongs to."""

import hashlib
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SECONDS = 60
"""that git may take on a busy machine"""
PACKAGES = ("harness", "unilab")
"""whose files run in a trial, whether git tracks them or not"""
SHORT = 7
"""digits of a hash in names"""


class ProvenanceError(RuntimeError):
    """It cannot be said which code this is."""


@dataclass(frozen=True)
class Code:
    """A state of the repository; all empty outside of one."""

    commit: str = ""
    digest: str = ""
    """of what differs from the commit, as hexadecimal; empty when nothing does"""

    @property
    def dirty(self) -> bool:
        """Whether there are changes that the commit does not have."""
        return bool(self.digest)

    @property
    def name(self) -> str:
        """``<commit>`` or ``<commit>-<digest>``, seven digits each: other code has another one; empty without git."""
        return "-".join(part[:SHORT] for part in (self.commit, self.digest) if part)


@cache
def commit() -> Code:
    """The code of this process, as it was when this was first asked.

    Changes are those of tracked files and files of the packages that are not tracked. What a user keeps beside them,
    such as suites, or results in the repository, is no change of what was measured.

    Raises:
        ProvenanceError: git does not answer. Without a commit, numbers of different code would mix in one study.
    """
    return look(Path(__file__).resolve().parents[1])


def look(root: Path) -> Code:
    """As ``commit``, of the packages below ``root``."""
    try:
        head = _git(root, "rev-parse", "HEAD")
        if head.returncode != 0:
            return Code()
        difference = _git(
            root, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--", ":/",
            ":(top,exclude)results",
        )  # fmt: skip
        added = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *PACKAGES)
    except OSError:  # there is no git
        return Code()
    for done in (difference, added):
        if done.returncode != 0:
            raise ProvenanceError(f"'{shlex.join(done.args)}' failed: {done.stderr.decode(errors='replace').strip()}")
    return Code(head.stdout.decode().strip(), _digest(root, difference.stdout, added.stdout))


def _digest(root: Path, difference: bytes, added: bytes) -> str:
    names = sorted(name.decode(errors="surrogateescape") for name in added.split(b"\0") if name)
    if not difference and not names:
        return ""
    digest = hashlib.sha256(difference)
    for name in names:
        path = root / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(b"%s\0%d\0%s" % (name.encode(errors="surrogateescape"), len(content), content))
    return digest.hexdigest()


def _git(root: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ProvenanceError(
            f"git did not answer within {SECONDS} s, so the commit of this code is not known: try "
            f"'{shlex.join(error.cmd)}'; is the disk slow, or the machine overloaded?"
        ) from None

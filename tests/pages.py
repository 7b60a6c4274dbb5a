"""The README and the pages of docs/ as tests see them: blocks, commands, and how a newcomer would run them.

A block of commands runs as it stands, unless a comment in front of it says otherwise: ``tested as`` gives the same
command with smaller limits, ``run by .ci/run`` leaves it to CI, which must have that very line. A block whose first
line is a comment with a file name is that file.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from harness import cli
from unilab.machine import user_cache

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
ORDER = re.search(r"^```\{toctree\}\n(?:.*:\n|\n)*((?:[\w/-]+\n)+)```$", INDEX, re.MULTILINE)[1].split()  # type: ignore[index]
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ORDER}
TEXT = "\n".join([(ROOT / "README.md").read_text(encoding="utf-8"), INDEX, *PAGES.values()])
MEASURED = "measured"
"""the page of benchmarks"""
BLOCK = re.compile(r"(?:<!-- (?P<comment>(?:(?!-->).)+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
SECONDS = 560
"""for one command, however much else the machine does"""
LIMIT = pytest.mark.timeout(600)
"""of a test of one command"""
COPIED = ("suites", "benchmarks", "asv.conf.json", ".gitignore", "Makefile", "pyproject.toml", "constraints.txt")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    comment: str

    @property
    def file(self) -> str | None:
        match = re.match(r"# (\w+\.\w+)\n", self.text)
        return match and match[1]


def blocks_of(text: str) -> list[Block]:
    return [Block(m["language"], m["text"], m["comment"] or "") for m in BLOCK.finditer(text)]


BLOCKS = blocks_of(TEXT)


def commands_of(text: str) -> dict[str, Block]:
    """Each command once, with the block in which it stands first."""
    commands: dict[str, Block] = {}
    for block in blocks_of(text):
        if block.language == "bash":
            for line in block.text.strip().splitlines():
                commands.setdefault(line, block)
    return commands


def checkout(folder: Path) -> Path:
    """A checkout of its own, at one commit, with the files of the pages in it."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for block in BLOCKS:
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    identity = ["-c", "user.name=reader", "-c", "user.email=reader@example.org"]
    for arguments in (
        ["init", "--quiet", "--initial-branch", "main"],
        ["add", "."],
        ["commit", "--quiet", "-m", "first"],
    ):
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)
    return folder


def run(command: str, folder: Path) -> str:
    """Run a line in bash, with this environment's programs first and a home of its own; its output.

    What a surrounding ``make test`` tells its children is left out. What is known of this machine is not found out
    again.
    """
    outside_make = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    environment = outside_make | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(user_cache.folder().parent),
        "RAY_worker_niceness": "0",  # whatever else runs here does not go first
    }
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"{command}: still running after {SECONDS} s\n{output}")
    assert process.returncode == 0, f"{command}\n{output}"
    return output


def run_verb(arguments: Sequence[str], folder: Path) -> None:
    """The same of ``python -m harness``, in this process, which has the libraries already."""
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(user_cache.folder().parent)}
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ, home):
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        try:
            code = cli.main(arguments)
        except SystemExit as end:  # after --help, and wrong usage
            code = end.code
        assert code == 0, arguments


def recipe(command: str, folder: Path) -> str:
    """The last command of a make target, for this environment's Python: the set-up before it is tested by CI."""
    line = run(f"{command} --dry-run", folder).strip().splitlines()[-1]
    return line.replace(".venv/bin/python", "python", 1)


def follow(line: str, block: Block, workspace: Path) -> None:
    """Run a command as its block says.

    Raises:
        AssertionError: it failed.
    """
    if block.comment == "run by .ci/run":
        assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        return
    if block.comment:
        kind, _, shorter = block.comment.partition(": ")
        assert kind == "tested as", f"unknown comment in front of a block: {block.comment}"
        assert shorter.startswith(line), "a shorter run may only add options"
        line = shorter
    # MuJoCo reads how to draw when it is loaded, which it is in this process
    if line.startswith("python -m harness ") and not re.search(r"[|>$]| --video ", line):
        run_verb(shlex.split(line)[3:], workspace)
    else:
        run(recipe(line, workspace) if line.startswith("make ") else line, workspace)

"""The README and the pages of docs/, run as a newcomer would: every command, every file and every script in them.

They run from top to bottom, page by page in the order of docs/index.md: later commands use what earlier ones left. A
command that stands on two pages runs once, where it stands first.

A block of commands runs as it stands, unless a comment in front of it says otherwise: ``tested as`` gives the same
command with smaller limits, ``run by .ci/run`` leaves it to CI, which must have that very line. A block whose first
line is a comment with a file name is that file.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.cli import parser
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.offpolicy.config import SACConfig, TD3Config
from unilab.settings import flatten

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
ORDER = re.search(r"^```\{toctree\}\n(?:.*:\n|\n)*((?:[\w-]+\n)+)```$", INDEX, re.MULTILINE)[1].split()  # type: ignore[index]
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ORDER}
TEXT = "\n".join([(ROOT / "README.md").read_text(encoding="utf-8"), INDEX, *PAGES.values()])
BLOCK = re.compile(r"(?:<!-- (?P<comment>.+?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
SECONDS = 160
"""for one command, below the time limit of a test"""
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


BLOCKS = [Block(m["language"], m["text"], m["comment"] or "") for m in BLOCK.finditer(TEXT)]
COMMANDS: dict[str, Block] = {}
for block in BLOCKS:
    if block.language == "bash":
        for line in block.text.strip().splitlines():
            COMMANDS.setdefault(line, block)
SCRIPTS = [block for block in BLOCKS if block.language == "python"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of its own, at one commit, with the files of the pages in it."""
    folder = tmp_path_factory.mktemp("readme")
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

    What a surrounding ``make test`` tells its children is left out.
    """
    outside_make = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    environment = outside_make | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
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


def recipe(command: str, folder: Path) -> str:
    """The last command of a make target, for this environment's Python: the set-up before it is tested by CI."""
    line = run(f"{command} --dry-run", folder).strip().splitlines()[-1]
    return line.replace(".venv/bin/python", "python", 1)


@pytest.mark.parametrize("line", COMMANDS, ids=str)
def test_commands(line: str, workspace: Path) -> None:
    block = COMMANDS[line]
    if block.comment == "run by .ci/run":
        assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        return
    if block.comment:
        kind, _, shorter = block.comment.partition(": ")
        assert kind == "tested as", f"unknown comment in front of a block: {block.comment}"
        assert shorter.startswith(line), "a shorter run may only add options"
        line = shorter
    run(recipe(line, workspace) if line.startswith("make ") else line, workspace)


@pytest.mark.parametrize("block", SCRIPTS, ids=[block.file or "script" for block in SCRIPTS])
def test_scripts(block: Block, workspace: Path) -> None:
    script = workspace / (block.file or "script_of_the_readme.py")
    script.write_text(block.text, encoding="utf-8")
    run(f"python {script.name}", workspace)


def test_every_verb_and_its_options_are_in_the_reference() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)[^`]*` \| (.+) \|$", PAGES["commands"], re.MULTILINE))
    verbs: dict[str, Any] = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr,assignment]
    assert rows.keys() == verbs.keys()
    for verb, description in rows.items():
        options = verbs[verb]._option_string_actions.keys() - {"-h", "--help", "--json"}  # said of all verbs at once
        assert set(re.findall(r"--[\w-]+", description)) == options, verb


@pytest.mark.parametrize(
    ("page", "trainer", "config"),
    [("suites", "appo", APPOConfig()), ("off-policy", "sac", SACConfig()), ("off-policy", "td3", TD3Config())],
)
def test_settings_are_listed_with_their_defaults(page: str, trainer: str, config: Any) -> None:
    """A default that is another for one trainer is followed by it, as in ``1` (`td3`: `2`)``."""
    text = PAGES[page].split("| Setting | Default | Meaning |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| `(.+?)`(?: \(`(\w+)`: `(.+?)`\))? \|", text, re.MULTILINE)
    known = flatten(config)
    assert len(rows) > 10 and len(rows) == text.count("\n| `")
    for name, default, other, others_default in rows:
        value = known[name]
        stated = YAML(typ="safe").load(others_default if other == trainer else default)
        assert stated == (list(value) if isinstance(value, tuple) else value), name


def test_files_and_folders_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:suites|unilab|harness|benchmarks|\.ci)/[\w./]+)`", TEXT):
        assert (ROOT / name).exists(), name


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    pages = sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")
    assert sorted(re.findall(r"^\| \[.+\]\(docs/([\w-]+)\.md\)", readme, re.MULTILINE)) == sorted(ORDER) == pages
    assert re.findall(r"\]\(([\w-]+)\.md\)", INDEX) == ORDER


def test_links_lead_to_headings_that_exist() -> None:
    """As a forge shows the pages; ``make docs`` checks the same for the site."""
    anchors = {
        name: {
            re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        for name, text in PAGES.items()
    }
    for name, text in PAGES.items():
        for page, anchor in re.findall(r"\]\((?:([\w-]+)\.md)?(?:#([\w-]+))?\)", text):
            assert (page or name) in PAGES, f"{name}: {page}"
            assert not anchor or anchor in anchors[page or name], f"{name}: {page}#{anchor}"

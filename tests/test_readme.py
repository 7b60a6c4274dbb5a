"""The README and the pages of docs/, run as a newcomer would: every command, every file and every script in them.

They run from top to bottom, page by page in the order of docs/index.md: later commands use what earlier ones left. A
command that stands on two pages runs once, where it stands first. The page of benchmarks stands on its own:
``test_benchmarks_page.py``.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.cli import parser
from tests.pages import (
    BLOCKS,
    DOCS,
    INDEX,
    MEASURED,
    ORDER,
    PAGES,
    ROOT,
    TEXT,
    Block,
    checkout,
    commands_of,
    follow,
    run,
)
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.offpolicy.config import SACConfig, TD3Config
from unilab.settings import flatten

COMMANDS = commands_of(TEXT.replace(PAGES[MEASURED], ""))
SCRIPTS = [block for block in BLOCKS if block.language == "python"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("readme"))


@pytest.mark.parametrize("line", COMMANDS, ids=str)
def test_commands(line: str, workspace: Path) -> None:
    follow(line, COMMANDS[line], workspace)


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

"""The README and the pages of docs/, run as a newcomer would: every command, every file and every script in them.

They run from top to bottom, page by page in the order of docs/index.md: later commands use what earlier ones left. A
command that stands on two pages runs once, where it stands first. The page of benchmarks stands on its own:
``test_benchmarks_page.py``.
"""

import json
import re
import runpy
from pathlib import Path

import pytest

from harness import cli
from harness.measure.record import read_records
from tests.pages import (
    BLOCKS,
    DOCS,
    INDEX,
    LIMIT,
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

COMMANDS = commands_of(TEXT.replace(PAGES[MEASURED], ""))
SCRIPTS = [block for block in BLOCKS if block.language == "python"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("readme"))


@LIMIT
@pytest.mark.parametrize("line", COMMANDS, ids=str)
def test_commands(line: str, workspace: Path) -> None:
    follow(line, COMMANDS[line], workspace)


def test_the_small_study_on_real_physics_is_trained_and_evaluated(workspace: Path, monkeypatch, capsys) -> None:
    """The study of the README's command, which has nothing more to do unless this test runs alone."""
    monkeypatch.chdir(workspace)
    assert cli.main(["run", "suites/smoke.yaml", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    records = read_records(Path(content["folder"]) / "trials.jsonl")
    assert {r.state for r in records} == {"complete"}
    assert {r.params["mode"] for r in records} == {"async", "sync"}
    for record in (r for r in records if not r.in_turns):  # of others nobody knows when they were busy
        assert record.env_steps_per_second > 0 and record.updates_per_second > 0
        assert 0 < record.learner_busy_fraction <= 1.01 and record.peak_host_bytes > 2**27
        assert record.budget_host_bytes > 2**27 and record.steady_seconds >= 1.5
    best = content["best_config"]
    assert cli.main(["train", best, "--iterations", "3", "--out", "runs/of the small study", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["progress"]["iteration"] == 3
    assert cli.main(["eval", trained["checkpoint"], "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2


@pytest.mark.parametrize("block", SCRIPTS, ids=[block.file or "script" for block in SCRIPTS])
def test_scripts(block: Block, workspace: Path) -> None:
    script = workspace / (block.file or "script_of_the_readme.py")
    script.write_text(block.text, encoding="utf-8")
    run(f"python {script.name}", workspace)


def test_the_reference_is_what_the_code_says() -> None:
    """Otherwise ``make docs`` writes it again."""
    made = runpy.run_path(str(DOCS / "reference.py"))["pages"]()
    assert sorted(made) == sorted(path.stem for path in (DOCS / "reference").glob("*.md"))
    for name, text in made.items():
        assert (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8") == text, name
        assert not re.search(r"<[a-z]", text.replace("<!--", "")), "would be taken for HTML"


def test_files_and_folders_that_are_named_exist() -> None:
    for name in re.findall(r"`((?:suites|unilab|harness|benchmarks|\.ci)/[\w./]+)`", TEXT):
        assert (ROOT / name).exists(), name


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    written = [path for path in DOCS.rglob("*.md") if "_build" not in path.parts and path.stem != "index"]
    pages = sorted(str(path.relative_to(DOCS).with_suffix("")) for path in written)
    assert sorted(re.findall(r"^\| \[.+\]\(docs/([\w/-]+)\.md\)", readme, re.MULTILINE)) == sorted(ORDER) == pages
    assert re.findall(r"\]\(([\w/-]+)\.md\)", INDEX) == ORDER

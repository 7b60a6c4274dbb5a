"""The page of benchmarks, run as the others are (``test_readme.py``): it needs nothing that other pages leave."""

from pathlib import Path

import pytest

from tests.pages import LIMIT, MEASURED, PAGES, TEXT, checkout, commands_of, follow

ELSEWHERE = commands_of(TEXT.replace(PAGES[MEASURED], ""))
COMMANDS = {line: block for line, block in commands_of(PAGES[MEASURED]).items() if line not in ELSEWHERE}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("benchmarks_page"))


@LIMIT
@pytest.mark.parametrize("line", COMMANDS, ids=str)
def test_commands(line: str, workspace: Path) -> None:
    follow(line, COMMANDS[line], workspace)

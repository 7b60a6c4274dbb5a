"""The page on the architecture is the code: what it names is there, and calls what it is said to call."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALKS = {
    title: re.findall(r"^\d+\. `([\w/]+\.py):([\w.]+)` (.+)$", text, re.MULTILINE)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
HOPS = [(title, *hop) for title, hops in WALKS.items() for hop in hops]
LARGEST_ROOM = 10


def function(file: str, name: str) -> ast.AST:
    """The definition of a function, or of a method by ``Class.method``."""
    found: ast.AST = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for part in name.split("."):
        found = next(
            node
            for node in ast.iter_child_nodes(found)
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        )
    return found


def calls(node: ast.AST) -> set[str]:
    called = (one.func for one in ast.walk(node) if isinstance(one, ast.Call))
    names = {one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in called}
    # what is handed on to be called counts too
    return names | {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


@pytest.mark.parametrize(("title", "file", "name", "text"), HOPS, ids=[f"{t}: {f}:{n}" for t, f, n, _ in HOPS])
def test_a_hop_is_there_and_calls_what_the_page_says(title: str, file: str, name: str, text: str) -> None:
    wanted = set(re.findall(r"`(\w+)`", text.partition("calls ")[2]))
    assert wanted <= calls(function(file, name))


def test_a_walk_has_at_most_nine_hops() -> None:
    walks = {title: hops for title, hops in WALKS.items() if hops}
    assert len(walks) == 3
    for title, hops in walks.items():
        assert 5 <= len(hops) <= 9, title


def test_no_files_import_one_another_in_a_circle() -> None:
    """Those of packages' ``__init__`` and for type checking count too."""
    graph = grimp.build_graph("unilab", "harness")
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()  # raises CycleError with the circle


def test_every_room_is_on_the_page_and_none_is_crowded() -> None:
    for package in ("unilab", "harness"):
        for folder in sorted(path.parent for path in (ROOT / package).rglob("*.py")):
            files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= LARGEST_ROOM, folder
        rooms = [path for path in (ROOT / package).iterdir() if path.is_dir() and path.name != "__pycache__"]
        for room in rooms:
            assert f"`{room.relative_to(ROOT)}/" in PAGE, room

"""The page on the architecture is the code: what it names is there, and each line of a walk is called by one before."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALKS = {
    title: re.findall(r"^\d+\. `([\w/]+\.py):([\w.]+)`,? (.+)$", text, re.MULTILINE)
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


def called(name: ast.AST) -> str:
    return name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")


def calls(node: ast.AST) -> set[str]:
    """What is called in a function, or handed over in a call to be called: the last parts of the names."""
    found = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
    handed = (value for one in found for value in (*one.args, *(keyword.value for keyword in one.keywords)))
    return {called(one.func) for one in found} | {called(value) for value in handed}


def said(text: str) -> set[str]:
    """What a line says that its function calls."""
    return set(re.findall(r"`(\w+)`", text.partition("calls ")[2]))


def starts(file: str, name: str, module: str) -> bool:
    """Whether this code has the name of a module whose process it starts."""
    constants = (one.value for one in ast.walk(function(file, name)) if isinstance(one, ast.Constant))
    return module in constants


@pytest.mark.parametrize(("title", "file", "name", "text"), HOPS, ids=[f"{t}: {f}:{n}" for t, f, n, _ in HOPS])
def test_a_hop_is_there_and_calls_what_the_page_says(title: str, file: str, name: str, text: str) -> None:
    assert said(text)
    assert said(text) <= calls(function(file, name))
    for there in re.findall(r"`([\w/]+\.py):([\w.]+)`", text):
        assert function(*there)


@pytest.mark.parametrize("title", [title for title, hops in WALKS.items() if hops])
def test_a_hop_is_called_by_an_earlier_one(title: str) -> None:
    """By itself; or by a short function that the line names, or in a process that it says who starts."""
    (_, _, first), *others = WALKS[title]
    known = said(first)
    for file, name, text in others:
        own = name.rpartition(".")[2]
        if between := re.match(r"by way of `([\w/]+\.py):([\w.]+)`", text):
            assert own in calls(function(*between.groups())), name
            own = between[2].rpartition(".")[2]
        if starter := re.match(r"in the process that `([\w/]+\.py):(\w+)` starts", text):
            assert starts(*starter.groups(), file.removesuffix(".py").replace("/", ".")), name
            own = starter[2]
        assert own in known, f"no earlier line of the walk calls {own}"
        known |= said(text)


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

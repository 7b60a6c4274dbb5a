"""The code that decides a trial's numbers, as a digest: the modules that it loads, and the packages that compute in it.

Loaded are ``harness.measure.repeat`` and what it imports of this project, the user's modules that a suite names, and
what those import of their own package or folder; what is imported inside of functions, and what a string names as
``module:attribute``, too. They count by what Python reads in them: a comment, a docstring or a line break is no other
code. Nothing is imported to find them. To read a hundred modules takes half a second, so what was found in each is kept
for next time, by its content.
"""

import ast
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec
from itertools import islice
from pathlib import Path
from typing import Any

from unilab.machine import user_cache

TRIAL = "harness.measure.repeat"
PROJECT = ("harness", "unilab")
PACKAGES = ("torch", "mujoco", "numpy")
"""whose versions count"""
NOT_LEARNING = (
    "unilab.envs",
    "unilab.machine",
    "unilab.tracing",
    "unilab.algos.torch.evaluate",
    "unilab.algos.torch.policy",
)
"""rooms and modules of this project whose code a learner uses without learning otherwise by it"""
INSTALLED = ("site-packages", "dist-packages")
"""names of folders in which everything is a package of its own"""
SHORT = 8
"""digits of the digest in names"""
KEPT = 500
"""modules of which it is kept what was found in them"""


@cache
def digest(*modules: str) -> str:
    """The digest of a trial that also loads ``modules``, as this process finds them at its first call; hexadecimal."""
    content = hashlib.sha256()
    for package in PACKAGES:
        content.update(f"{package} {_version(package)}\n".encode())
    for name, code in sorted(sources(modules).items()):
        content.update(f"{name} {code}\n".encode())
    return content.hexdigest()


@cache
def learning_digest(*modules: str) -> str:
    """Of what ``modules``, a trainer's learner and the like, compute, whatever trains with them on whichever machine.

    Environments are not part of it, nor are evaluations and the versions of packages: they are the same on either side
    of a comparison. What is loaded by them alone does not count, either.
    """
    code = sources((), modules, NOT_LEARNING)
    counted = (f"{name} {code[name]}\n" for name in sorted(code))
    return hashlib.sha256("".join(counted).encode()).hexdigest()[:SHORT]


def sources(
    modules: Iterable[str] = (), roots: Iterable[str] = (TRIAL,), without: tuple[str, ...] = ()
) -> dict[str, str]:
    """Digests of the modules that a trial loads, by their names; those that are not there are left out.

    ``without``: beginnings of names that are left out with all that they alone load.
    """
    own = {*PROJECT, *(name.partition(".")[0] for name in modules)}
    beside = [_folder_of(spec) for name in own - {*PROJECT} if (spec := _find(name)) is not None]
    folders = [folder for folder in beside if folder is not None and folder.name not in INSTALLED]

    def is_own(name: str) -> bool:
        """Whether there is such a module, in a package of this project's or the user's, or in the folder of one."""
        if name.startswith(without):
            return False
        named = name.partition(".")[0] in own
        if not named and not folders:
            return False
        spec = _find(name)
        if spec is None or named:
            return spec is not None
        home = _folder_of(spec)
        return home is not None and any(
            home.is_relative_to(folder) and not {*INSTALLED} & {*home.relative_to(folder).parts} for folder in folders
        )

    # what is found in a module depends on the version of Python and on this file
    made_by = hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes())
    cache_file = f"code-{made_by.hexdigest()[:16]}.json"
    known: dict[str, Any] = {}
    with suppress(ValueError):  # nothing is kept, or something else
        kept = json.loads(user_cache.read(cache_file) or "{}")
        known = kept if isinstance(kept, dict) else {}
    read: dict[str, Any] = {}

    def module(name: str) -> _Module:
        spec = _find(name)
        if spec is None or spec.origin is None or not spec.has_location:  # a package without a file of its own
            return _Module("")
        content, suffix = Path(spec.origin).read_bytes(), Path(spec.origin).suffix
        package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        key = hashlib.sha256(f"{package} {suffix}\n".encode() + content).hexdigest()
        made = _Module(**known[key]) if key in known else _parsed(content, package, suffix)
        read[key] = asdict(made)
        return made

    found: dict[str, _Module] = {}
    used: set[str] = set()
    missing = [*roots, *modules]
    while missing:
        names = missing.pop().split(".")
        # of a.b.c all of a, a.b and a.b.c are loaded
        parts = [part for part in (".".join(names[: count + 1]) for count in range(len(names))) if is_own(part)]
        for part in parts:
            if part not in found:
                found[part] = module(part)
                missing += found[part].imports
        # of a package that is only on the way to a module no function is called
        if parts and parts[-1] not in used:
            used.add(parts[-1])
            missing += found[parts[-1]].later_imports
    if not read.keys() <= known.keys():
        user_cache.write(cache_file, json.dumps(dict(islice((read | known).items(), KEPT))))
    return {name: one.code for name, one in found.items()}


@dataclass
class _Module:
    """A digest of what it says to Python, and names of what it imports; some of them are of attributes."""

    code: str
    imports: list[str] = field(default_factory=list)
    later_imports: list[str] = field(default_factory=list)
    """inside of functions, and of a package that loads its names when they are asked for all of them"""


def _parsed(content: bytes, package: str, suffix: str) -> _Module:
    """A module from its source; relative imports begin from ``package``."""
    try:
        tree = ast.parse(content) if suffix == ".py" else None
    except (SyntaxError, ValueError):  # the trial will say so
        tree = None
    if tree is None:
        return _Module(hashlib.sha256(content).hexdigest())
    for node in ast.walk(tree):  # strings that stand alone say nothing to Python
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [line for line in body if not _is_docstring(line)]
    module = _Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest())
    is_lazy = any(isinstance(line, ast.FunctionDef) and line.name == "__getattr__" for line in tree.body)

    def add(node: ast.AST, names: list[str]) -> None:
        """Add what ``node`` imports, or may import, to ``names``; what its functions import, to the later ones."""
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            above = ".".join(part for part in (base, node.module) if part)
            names += [f"{above}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name, colon, attribute = node.value.partition(":")
            if colon and all(map(str.isidentifier, [*name.split("."), attribute or "_"])):
                names.append(name)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).rpartition(".")[2] == "TYPE_CHECKING":
                for line in child.body if is_lazy and node is tree else []:
                    add(line, module.later_imports)
                for line in child.orelse:
                    add(line, names)
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                add(child, module.later_imports if is_function else names)

    add(tree, module.imports)
    return module


@cache
def _find(name: str) -> ModuleSpec | None:
    """Where Python would load a module from; unlike ``importlib.util.find_spec`` its packages are not imported."""
    path: Any = None
    package = name.rpartition(".")[0]
    if package:
        above = _find(package)
        if above is None or above.submodule_search_locations is None:
            return None
        path = above.submodule_search_locations
    return next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, path)) is not None), None)


def _folder_of(spec: ModuleSpec) -> Path | None:
    """The folder in which a module or package lies."""
    if spec.submodule_search_locations is not None:
        return next((Path(folder).resolve().parent for folder in spec.submodule_search_locations), None)
    return Path(spec.origin).resolve().parent if spec.origin is not None and spec.has_location else None


def _is_docstring(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"

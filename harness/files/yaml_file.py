"""A YAML file as plain values that still know their lines, and the error that names them."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from unilab.errors import UserError

Key = tuple[str | int, ...]
MAX_DEPTH = 20
MAX_VALUES = 10_000
"""values of a file at most; what an alias repeats counts again"""


class InputError(UserError, ValueError):
    """A file or option that cannot be used as it is written: where, and what to do."""

    def __init__(self, file: str, line: int | None, key: str, problem: str) -> None:
        where = f"{file}:{line}" if line else file
        super().__init__(f"{where}: {key}: {problem}" if key else f"{where}: {problem}")
        self.file, self.line, self.key, self.problem = file, line, key, problem
        self.parts: tuple[InputError, ...] = (self,)
        """the single mistakes, ordered by line, where this error has several"""

    @classmethod
    def together(cls, errors: Sequence["InputError"]) -> "InputError":
        """One error with all of these, at the place of the first."""
        different = {str(part): part for error in errors for part in error.parts}
        parts = sorted(different.values(), key=lambda part: (part.file, part.line or 0))
        if len(parts) == 1:
            return parts[0]
        made = cls(parts[0].file, parts[0].line, parts[0].key, parts[0].problem)
        made.args = ("\n  ".join([f"{len(parts)} mistakes:", *map(str, parts)]),)
        made.parts = tuple(parts)
        return made


class Mistakes:
    """Collects mistakes, so that one error names all of them."""

    def __init__(self, found: Sequence[InputError] = ()) -> None:
        self.found = list(found)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep an error that the block raises; the rest of the block is skipped."""
        try:
            yield
        except InputError as error:
            self.found.append(error)

    def check(self) -> None:
        """Raises ``InputError`` if anything was found."""
        if self.found:
            raise InputError.together(self.found)


@dataclass(frozen=True)
class Document:
    """Keys and values of a file, with what ``--set`` changed in them."""

    file: str
    raw: Any
    """as read, with line numbers"""
    content: dict[str, Any]
    overridden: tuple[str, ...] = ()
    """dotted names that ``--set`` gave"""

    @classmethod
    def load(cls, path: Path | str, overrides: Sequence[str] = (), flat_groups: Sequence[str] = ()) -> "Document":
        """Read a file; ``flat_groups`` are top-level groups whose keys contain dots.

        Raises:
            InputError: it cannot be read, or is no YAML with keys and values.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InputError(str(path), None, "", f"cannot be read: {reason}") from None
        return cls.parse(text, str(path), overrides, flat_groups)

    @classmethod
    def parse(cls, text: str, file: str, overrides: Sequence[str] = (), flat_groups: Sequence[str] = ()) -> "Document":
        """As ``load``, from text."""
        raw = _read(text, file)
        if not isinstance(raw, Mapping):
            raise InputError(file, 1, "", "expected keys and values, as in 'name: value'")
        content = _plain(raw, file, raw, ())
        overridden = tuple(_apply(content, override, flat_groups) for override in overrides)
        return cls(file, raw, content, overridden)

    def error(self, key: Key, problem: str) -> InputError:
        """An error at the deepest part of ``key`` that is in the file, or at the option that set it."""
        name = ".".join(map(str, key))
        for given in self.overridden:
            if f"{name}.".startswith(f"{given}.") or (given.startswith(f"{name}.") and key[0] not in self.raw):
                return InputError("--set", None, max(name, given, key=len), problem)
        return _error(self.file, self.raw, key, problem)


def to_yaml(content: dict[str, Any]) -> str:
    """YAML text that reads back as ``content``."""
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 110
    text = StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def _read(text: str, file: str) -> Any:
    yaml = YAML()
    yaml.max_depth = MAX_DEPTH + 2  # of values; each level costs the reader time, and stack
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"is not valid YAML: {(error.problem or str(error)).splitlines()[0]}"
        if isinstance(error, MaxDepthExceededError):
            problem = f"nested deeper than {MAX_DEPTH} levels"
        raise InputError(file, mark.line + 1 if mark else None, "", problem) from None
    except (YAMLError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(file, None, "", f"is not valid YAML: {reason}") from None


def _plain(value: Any, file: str, raw: Any, key: Key, seen: Iterator[int] | None = None) -> Any:
    """Plain dicts, lists and scalars out of the reader's own types; nothing else is allowed.

    ``seen`` counts the values of the whole file.
    """
    seen = itertools.count(1) if seen is None else seen
    if next(seen) > MAX_VALUES:
        raise _error(file, raw, key[:3], f"more than {MAX_VALUES:,} values, with those that aliases repeat")
    if len(key) > MAX_DEPTH:
        raise _error(file, raw, key[:3], f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise _error(file, raw, key, f"expected names as keys, got {name!r}")
        return {str(name): _plain(inner, file, raw, (*key, name), seen) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, file, raw, (*key, index), seen) for index, inner in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            if isinstance(value, float) and not math.isfinite(value):
                raise _error(file, raw, key, f"expected a finite number, got {value}")
            return kind(value)
    raise _error(file, raw, key, f"expected text, a number, true, false, a list or keys, got {type(value).__name__}")


def _apply(content: dict[str, Any], override: str, flat_groups: Sequence[str]) -> str:
    """Set what ``override`` says, and return its key."""
    name, separator, text = override.partition("=")
    file = "--set"
    if not separator or not name:
        raise InputError(file, None, override, "expected key=value, as in limits.trials=5")
    value = _plain(_read(text, file), file, None, ())
    depth = 1 if name.split(".")[0] in flat_groups else -1
    *path, last = name.split(".", depth)
    for part in path:
        inner = content.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(file, None, name, f"'{part}' is a value, not a group")
        content = inner
    if depth == 1:
        _forget(content, last)
    content[last] = value
    return name


def _forget(group: dict[str, Any], name: str) -> None:
    """Remove a setting, whether it is written with dots or nested."""
    for known in list(group):
        inner = group[known]
        if known == name or known.startswith(f"{name}."):
            del group[known]
        elif name.startswith(f"{known}.") and isinstance(inner, dict):
            _forget(inner, name.removeprefix(f"{known}."))
            if not inner:
                del group[known]


def _line(raw: Any, key: Key) -> int | None:
    line: int | None = None
    for number, part in enumerate(key):
        if isinstance(raw, Mapping) and isinstance(part, str) and part not in raw and "." in part:
            first, _, rest = part.partition(".")  # a dotted name that the file has nested
            return _line(raw, (first, rest, *key[number + 1 :])) or line
        if isinstance(raw, Mapping) and part in raw and hasattr(raw, "lc"):
            if part in (raw.lc.data or {}):  # what came by a merge (<<) has no line of its own
                line = raw.lc.key(part)[0] + 1
            raw = raw[part]
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw) and hasattr(raw, "lc"):
            line, raw = raw.lc.item(part)[0] + 1, raw[part]
    return line


def _error(file: str, raw: Any, key: Key, problem: str) -> InputError:
    return InputError(file, _line(raw, key), ".".join(map(str, key)), problem)

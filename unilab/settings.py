"""Settings: frozen dataclasses inside the program, plain dictionaries at its edges.

A dataclass states each default once. ``parse`` turns a nested dictionary (from YAML, from the command line or
from a caller's ``rl_cfg``) into one and answers a bad key or value with what, where and the nearest valid name.
``flatten`` gives the dotted names (``algorithm.learning_rate``) under which suites and records know the settings.
"""

import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, TypeVar

import pydantic

from unilab.errors import UserError

T = TypeVar("T")

PLACEMENT, LEARNING, OUTPUT = "placement", "learning", "output"
"""what a setting may change, see ``changes``"""
Placement = Annotated[T, PLACEMENT]
"""type of a setting that says where and how the same learning is computed, but for rounding and policy lag"""
Output = Annotated[T, OUTPUT]
"""type of a setting that says what a run writes beside its learning: timelines, checkpoints, evaluations"""


class SettingsError(UserError, ValueError):
    """A setting that is unknown, of the wrong type or impossible.

    ``key`` is its dotted name, so that a caller who knows the file can add the line.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the closest known one, or all of them when none is close.

    Known names that only say more than it are the closest: ``actor_learning_rate`` and ``critic_learning_rate`` of
    ``learning_rate``.
    """
    known = sorted(known)
    last = name.rpartition(".")[2]
    longer = [one for one in known if re.search(rf"(^|[._]){re.escape(last)}$", one)]
    if longer:
        *others, final = (f"'{one}'" for one in longer)
        return f"did you mean {', '.join(others)}{' or ' if others else ''}{final}?"
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"algorithm.gamma": 0.99}`` to ``{"algorithm": {"gamma": 0.99}}``; nested input stays as it is."""
    result: dict[str, Any] = {}
    for dotted, value in flat.items():
        *path, last = dotted.split(".")
        inner = result
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise SettingsError(dotted, f"'{part}' is given both as a value and as a group of settings")
        if isinstance(value, Mapping):
            value = nest(value)
        if isinstance(value, dict) and isinstance(inner.get(last), dict):
            inner[last] = _merged(inner[last], value)
        else:
            inner[last] = value
    return result


def _merged(group: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """A group with the settings of another one, which count where both have one."""
    groups = {
        name: _merged(group[name], value)
        for name, value in more.items()
        if isinstance(value, dict) and isinstance(group.get(name), dict)
    }
    return group | more | groups


def flatten(settings: Any) -> dict[str, Any]:
    """Dotted names and values of a dataclass instance; a dictionary-valued field is one value, not a group."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            result |= {f"{field.name}.{name}": inner for name, inner in flatten(value).items()}
        else:
            result[field.name] = value
    return result


def changed(settings: Any) -> dict[str, Any]:
    """The dotted names and values of a dataclass instance that differ from the defaults, or from its preset's."""
    defaults = flatten(type(settings)()) | _preset(type(settings), getattr(settings, "preset", None))
    return {name: value for name, value in flatten(settings).items() if value != defaults[name]}


def names(cls: type) -> list[str]:
    """The dotted names of all settings of a dataclass type."""
    return list(flatten(cls()))


def changes(cls: type) -> dict[str, str]:
    """What each setting of a dataclass type may change, by its dotted name: as its type is marked, else learning."""
    found: dict[str, str] = {}
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            found |= {f"{name}.{inner}": changed for inner, changed in changes(kind).items()}
        else:
            marks = getattr(kind, "__metadata__", ())
            found[name] = next((mark for mark in (PLACEMENT, OUTPUT) if mark in marks), LEARNING)
    return found


def meanings(cls: type) -> dict[str, str]:
    """What each field of a dataclass means: the text below its default in the source, those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            definition = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            assert isinstance(definition, ast.ClassDef)
            for field, below in pairwise(definition.body):
                text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else 0
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, str):
                    found[field.target.id] = " ".join(text.split())
    return found


_ADAPTERS: dict[type, pydantic.TypeAdapter[Any]] = {}
"""of the types parsed so far: building one takes milliseconds, and a plan parses thousands of configurations"""


def parse(cls: type[T], given: Mapping[str, Any]) -> T:
    """Build ``cls`` from a nested or dotted dictionary.

    ``cls`` may have ``__presets__``: dotted settings by the name of a preset. The setting ``preset`` chooses one, which
    is used instead of the defaults.

    Raises:
        SettingsError: an unknown key, a wrong type or a value out of range, by its dotted name.
    """
    nested = nest(given)
    nested = nest({**_preset(cls, nested.get("preset")), **nested})
    try:
        if cls not in _ADAPTERS:
            _ADAPTERS[cls] = pydantic.TypeAdapter(cls)
        parsed = _ADAPTERS[cls].validate_python(nested)
    except pydantic.ValidationError as error:
        found, known = error.errors(), names(cls)
        keys = [".".join(part for part in one["loc"] if isinstance(part, str)) for one in found]
        if found[0]["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise SettingsError(keys[0], f"unknown setting; {nearest(keys[0], known)}") from None
        # of a setting that may be of several types there is an error for each, whose key ends with the type
        key = next((name for name in known if f"{keys[0]}.".startswith(f"{name}.")), keys[0])
        problems = [one["msg"] for one, full in zip(found, keys, strict=True) if f"{full}.".startswith(f"{key}.")]
        raise SettingsError(key, f"{' or '.join(dict.fromkeys(problems))}, got {found[0]['input']!r}") from None
    _refuse_text(nested, parsed, "")
    return parsed


def _preset(cls: type, name: Any) -> dict[str, Any]:
    """Dotted settings of a preset; of None, or one that there is not, none."""
    presets: dict[str, dict[str, Any]] = getattr(cls, "__presets__", {})
    return presets.get(name, {}) if isinstance(name, str) else {}


def _refuse_text(given: Any, parsed: Any, key: str) -> None:
    """Refuse text for a number or a flag: pydantic would convert it, but elsewhere it would stay text."""
    if isinstance(given, str) and isinstance(parsed, int | float):
        wanted = {bool: "true or false", int: "a whole number"}.get(type(parsed), "a number")
        raise SettingsError(key, f"expected {wanted}, got the string '{given}': write it unquoted")
    if isinstance(given, Mapping) and dataclasses.is_dataclass(parsed):
        for name, value in given.items():
            _refuse_text(value, getattr(parsed, name), f"{key}.{name}" if key else name)
    elif isinstance(given, list | tuple) and isinstance(parsed, list | tuple):
        for value, one in zip(given, parsed, strict=True):
            _refuse_text(value, one, key)


def combine(cls: type[T], sources: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]) -> T:
    """Build ``cls`` from several sources that agree where they state the same setting.

    Args:
        sources: nested or dotted dictionaries, by what they are called in an error.
        defaults: dotted; of the settings that no source states, nor a preset that one of them names.

    Raises:
        SettingsError: two sources state different values, both of which it names; or as ``parse``.
    """
    stated: dict[str, tuple[str, Any]] = {}
    for source, theirs in sources.items():
        nested, values = nest(theirs), flatten(parse(cls, theirs))
        for name in [name for name in values if _states(nested, name)]:
            first, value = stated.setdefault(name, (source, values[name]))
            if values[name] != value:
                raise SettingsError(
                    name, f"{first} says {value!r}, {source} says {values[name]!r}; leave one of them out"
                )
    given = {name: value for name, (_, value) in stated.items()}
    return parse(cls, {**defaults, **_preset(cls, given.get("preset")), **given})


def _states(nested: Any, dotted: str) -> bool:
    """Whether a nested dictionary has the dotted name."""
    for part in dotted.split("."):
        if not isinstance(nested, Mapping) or part not in nested:
            return False
        nested = nested[part]
    return True


def from_arguments(
    call: Callable[..., Any], arguments: Mapping[str, Any], settings_of: Callable[[str, Any], dict[str, Any]]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, Any]]:
    """The settings that the arguments of a call stand for: sources of ``combine``, and its defaults, which are those of
    arguments that are equal to their own defaults and so state nothing.

    Args:
        arguments: by name.
        settings_of: the dotted settings that an argument of this name and value stands for.
    """
    sources: dict[str, Mapping[str, Any]] = {}
    defaults: dict[str, Any] = {}
    parameters = inspect.signature(call).parameters
    for name, value in arguments.items():
        if value == parameters[name].default:
            defaults |= settings_of(name, value)
        else:
            sources[f"the argument {name}"] = settings_of(name, value)
    return sources, defaults

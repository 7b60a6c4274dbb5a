"""What suites, settings and records may hold, with meanings and defaults: read from the code that checks them."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from harness.measure.record import Record
from harness.suite.metrics import METRICS
from harness.suite.schema import PLACEMENT, Suite
from harness.trainers import trainer as trainers
from unilab.settings import meanings

Schema = dict[str, Any]
TYPES = {
    "integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null",
    "object": "keys and values", "array": "list",
}  # fmt: skip
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A setting, a key of the suite file, or a field of the record."""

    name: str
    """dotted"""
    values: str
    """what it may be, in words"""
    default: Any
    """``dataclasses.MISSING`` where there is none"""
    meaning: str
    changes: str = ""
    """what a setting may change: placement, learning or output; see ``unilab.settings.changes``"""


class _WithMeanings(GenerateJsonSchema):
    """JSON schemas of dataclasses in which the text below a field is its description, as Markdown has it."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # it would be the name once more, in capitals

    def dataclass_schema(self, schema: Any) -> Schema:
        made = super().dataclass_schema(schema)
        if "description" in made:
            made["description"] = _markdown(made["description"])
        for name, meaning in meanings(schema["cls"]).items():
            made["properties"][name]["description"] = _markdown(meaning)
        return made


def _markdown(docstring: str) -> str:
    return docstring.replace("``", "`")


def schema_of(cls: type) -> Schema:
    """JSON schema of a dataclass as pydantic parses it."""
    return TypeAdapter(cls).json_schema(schema_generator=_WithMeanings)


def entries(schema: Schema) -> list[Entry]:
    """The leaves of a schema, groups by dotted names."""
    return [
        Entry(name, _values(one), one.get("default", {} if one.get("additionalProperties") else dataclasses.MISSING),
              one.get("description", ""))
        for name, one in _leaves(schema, schema)
    ]  # fmt: skip


def default_text(value: Any) -> str:
    """A default as YAML has it; empty where there is none."""
    return "" if value is dataclasses.MISSING or value == "" else json.dumps(value).replace('"', "")


def settings(trainer: str) -> list[Entry]:
    """Every setting of a trainer. One that is no dataclass tells its defaults alone.

    Raises:
        TrainerError: there is no such trainer.
    """
    found = trainers.get(trainer)
    if isinstance(found, trainers.ConfiguredTrainer):
        known = entries(schema_of(found.config_type))
    else:
        kinds = {name: _values(TypeAdapter(type(value)).json_schema()) for name, value in found.defaults().items()}
        known = [Entry(name, kinds[name], value, "") for name, value in found.defaults().items()]
    changes = found.changes()
    return [dataclasses.replace(one, changes=changes.get(one.name, "")) for one in known]


def suite_keys() -> list[Entry]:
    """Every key of the suite file, and by their names the keys of what it may hold several of."""
    whole = schema_of(Suite)
    keys = [dataclasses.replace(one, name=one.name.replace(".metrics", ".METRIC")) for one in entries(whole)]
    inner = {"trainers.NAME": "Variant", "search.SETTING": "Range", "objectives": "Objective",
             "constraints.METRIC": "Bounds"}  # fmt: skip
    for place, name in inner.items():
        keys += [dataclasses.replace(one, name=f"{place}.{one.name}") for one in entries(whole["$defs"][name])]
    return keys


def record_fields() -> list[Entry]:
    """Every field of a line of ``trials.jsonl``."""
    meaning, types = meanings(Record), typing.get_type_hints(Record)
    return [
        Entry(name, _values(TypeAdapter(types[name]).json_schema()), dataclasses.MISSING, _markdown(meaning[name]))
        for name in (field.name for field in dataclasses.fields(Record))
    ]


def suite_schema() -> Schema:
    """JSON schema of the suite file, for editors. With a trainer of ours it knows the trainer's settings too.

    It takes what ``validate`` takes as far as a schema can say it: not, say, which settings contradict each other.
    """
    made = schema_of(Suite)
    defined, properties = made["$defs"], made["properties"]
    metric = {"enum": list(METRICS)}
    defined["Objective"]["properties"]["metric"] |= metric
    properties["objectives"]["items"] = {"anyOf": [metric, {"$ref": "#/$defs/Objective"}]}
    bounds = defined["Constraints"]["properties"].pop("metrics")["additionalProperties"]
    defined["Constraints"]["properties"] |= dict.fromkeys(METRICS, bounds)
    del properties["constraints"]["default"]
    defined["Dimension"] = properties["search"]["additionalProperties"]
    defined["Dimension"]["oneOf"][0]["minItems"] = 1
    defined["Group"] = {"type": "object", "additionalProperties": _or_group({"$ref": "#/$defs/Dimension"})}
    properties["search"]["additionalProperties"] = _or_group({"$ref": "#/$defs/Dimension"})
    auto = {"const": "auto", "description": "all settings of the trainer that change placement alone"}
    properties["search"]["properties"] = {PLACEMENT: auto}
    made["allOf"] = []
    for name in trainers.REGISTRY:  # what a suite of this trainer may have; its settings are definitions of the schema
        found = trainers.get(name)
        assert isinstance(found, trainers.ConfiguredTrainer)
        own = schema_of(found.config_type)
        given = {key: one for key, one in _leaves(own, own) if key != "env"}
        searched = {key: {"$ref": "#/$defs/Dimension", "description": one["description"]} for key, one in given.items()}
        searched[PLACEMENT] = auto
        defined |= {f"settings of {name}": _group(given), f"search of {name}": _group(searched)}
        fixed, search = ({"$ref": f"#/$defs/{kind} of {name}"} for kind in ("settings", "search"))
        keys = {"fixed": fixed, "baseline": fixed, "pinned": {"additionalProperties": fixed}, "search": search}
        only = {"properties": {"trainer": {"const": name}}, "required": ["trainer"]}
        made["allOf"].append({"if": only, "then": {"properties": keys}})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A suite of unilab-harness", **made}


def _or_group(one: Schema) -> Schema:
    return {"anyOf": [one, {"$ref": "#/$defs/Group"}]}


def _group(flat: dict[str, Schema]) -> Schema:
    """An object that takes dotted names as well as groups."""

    groups: dict[str, dict[str, Schema]] = {}
    for name, one in flat.items():
        head, _, rest = name.partition(".")
        if rest:
            groups.setdefault(head, {})[rest] = one
    properties = flat | {name: _group(group) for name, group in groups.items()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _leaves(schema: Schema, whole: Schema, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    for name, one in schema["properties"].items():
        # the group that a property is, or that it is where it is not null
        named = next((choice["$ref"] for choice in (one, *one.get("anyOf", ())) if "$ref" in choice), None)
        if named is None or "anyOf" in one:
            yield f"{prefix}{name}", one
        if named is not None:
            yield from _leaves(whole["$defs"][named.rpartition("/")[2]], whole, f"{prefix}{name}.")


def _values(one: Schema) -> str:
    """What a property may be: ``whole number ≥ 1 or null``."""
    if "enum" in one or "const" in one:
        return ", ".join(f"`{value}`" for value in one.get("enum", [one.get("const")]))
    if choices := one.get("anyOf") or one.get("oneOf"):
        return " or ".join(dict.fromkeys(_values(choice) for choice in choices))
    if "$ref" in one:
        return TYPES["object"]
    if "type" not in one:
        return "anything"
    text = TYPES[one["type"]]
    if one["type"] == "array" and "type" in one.get("items", {}):
        text += f" of {_values(one['items']).replace('number', 'numbers', 1)}"
    return " ".join([text, *(f"{sign} {one[bound]:g}" for bound, sign in BOUNDS.items() if bound in one)])

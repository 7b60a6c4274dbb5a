"""The reference is complete, and an editor that knows the schema takes what ``validate`` takes."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from harness.report import reference
from harness.suite import shipped
from harness.trainers.trainer import REGISTRY

SUITE: dict[str, Any] = {"name": "a", "trainer": "appo", "env": "Ant"}
EDITOR = jsonschema.Draft202012Validator(reference.suite_schema())


@pytest.mark.parametrize("trainer", REGISTRY)
def test_every_setting_of_a_trainer_has_a_meaning(trainer: str) -> None:
    """Write it below the setting's default in the dataclass."""
    found = reference.settings(trainer)
    assert len(found) > 40
    assert [one.name for one in found if not one.meaning] == []


def test_every_key_of_a_suite_and_every_field_of_a_record_has_a_meaning() -> None:
    assert [one.name for one in [*reference.suite_keys(), *reference.record_fields()] if not one.meaning] == []


def test_values_are_told_in_words() -> None:
    by_name = {one.name: one for one in reference.settings("td3")}
    assert by_name["algorithm.tau"].values == "number > 0 ≤ 1"
    assert by_name["env_threads"].values == "whole number ≥ 1 or null"
    assert by_name["network.actor"].values == "list of whole numbers ≥ 1 or text or keys and values"
    assert reference.default_text(by_name["network.actor"].default) == "[256, 256]"
    assert by_name["pipeline"].values == "`auto`, `direct`, `prefetch`, `device`"


@pytest.mark.parametrize("name", shipped.names())
def test_the_schema_takes_every_shipped_suite(name: str) -> None:
    content = YAML(typ="safe").load(Path(shipped.located(name)).read_text(encoding="utf-8"))
    assert [error.message for error in EDITOR.iter_errors(content)] == []


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"confrim": {}}, "confrim"),
        ({"limits": {"trials": 0}}, "less than the minimum"),
        ({"fixed": {"algorithm.gama": 0.9}}, "algorithm.gama"),
        ({"fixed": {"algorithm": {"gamma": 2}}}, "greater than the maximum"),
        ({"search": {"num_env": [1, 2]}}, "num_env"),
        ({"objectives": ["speed"]}, "not valid under any"),
        ({"constraints": {"policy_lag": {"max": 3}}}, "policy_lag"),
    ],
)
def test_the_schema_refuses_what_is_wrong(more: dict[str, Any], word: str) -> None:
    assert any(word in error.message for error in EDITOR.iter_errors(SUITE | more))


def test_the_schema_leaves_other_trainers_their_settings() -> None:
    assert EDITOR.is_valid(SUITE | {"trainer": "own:Class", "fixed": {"anything": 1}})
    assert EDITOR.is_valid(SUITE | {"search": {"algorithm": {"gamma": [0.9, 0.99]}, "num_envs": {"low": 1, "high": 4}}})

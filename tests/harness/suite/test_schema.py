import dataclasses
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.files.yaml_file import InputError, to_yaml
from harness.suite import schema as suites
from harness.suite.schema import Objective

MINIMAL = "name: a\ntrainer: appo\nenv: HalfCheetah\n"


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("name: a\ntrainer: appo\nenvironment: Ant\n", 3, "environment", ["unknown key", "env"]),
        ("name: a\ntrainer: appo\n", None, "env", ["missing"]),
        (MINIMAL + "limit: {trials: 3}\n", 4, "limit", ["did you mean 'limits'?"]),
        (MINIMAL + "metrics: [episode_return]\n", 4, "metrics", ["unknown key"]),
        (MINIMAL + "sampler: {predict: false}\n", 4, "sampler.predict", ["no key any more", "tpe"]),
        (MINIMAL + "measure: {list: 3}\n", 4, "measure.list", ["unknown key"]),
        (MINIMAL + "limits:\n  minutes: 3\n  trails: 3\n", 6, "limits.trails", ["did you mean 'trials'?"]),
        (MINIMAL + "limits: {trials: 0}\n", 4, "limits.trials", ["greater than or equal to 1", "got 0"]),
        (MINIMAL + "limits: {trials: many}\n", 4, "limits.trials", ["integer", "'many'"]),
        (MINIMAL + "measure: {seconds: .inf}\n", 4, "measure.seconds", ["finite"]),
        (MINIMAL + "search:\n  num_envs: 5\n", 5, "search.num_envs", ["list of values or {low, high"]),
        (MINIMAL + "search:\n  num_envs: {low: 5, hi: 9}\n", 5, "search.num_envs.hi", ["did you mean 'high'?"]),
        (MINIMAL + "search:\n  num_envs: {low: 9, high: 5}\n", 5, "search.num_envs", ["low <= high"]),
        (MINIMAL + "search:\n  num_envs: {low: 0, high: 5, log: true}\n", 5, "search.num_envs", ["low >= 1"]),
        (MINIMAL + "search:\n  num_envs: []\n", 5, "search.num_envs", ["at least one value"]),
        (MINIMAL + "search:\n  num_envs: [1, 2, 1]\n", 5, "search.num_envs", ["twice"]),
        (MINIMAL + "search:\n  layers: ['[8]', [8]]\n", 5, "search.layers", ["write it unquoted"]),
        (MINIMAL + "search:\n  num_envs: {low: 1, high: 9, step: 0.5}\n", 5, "search.num_envs", ["whole step"]),
        (MINIMAL + "search:\n  num_envs: {low: 1, high: 9, step: 2, log: true}\n", 5, "search.num_envs", ["not both"]),
        (MINIMAL + "objectives: [env_step_per_second]\n", 4, "objectives", ["did you mean 'env_steps_per_second'?"]),
        (MINIMAL + "constraints: {policy_lag: {max: 4}}\n", 4, "constraints", ["did you mean 'policy_lag_mean'?"]),
        (MINIMAL + "constraints: {policy_lag_mean: {maximum: 4}}\n", 4, "constraints", ["unknown key", "max"]),
        (MINIMAL + "measure: {return_at: {env_step: 5}}\n", 4, "measure.return_at.env_step", ["mean 'env_steps'?"]),
        (MINIMAL + "measure:\n  return_at: {seconds: 9, env_steps: 5}\n", 5, "measure.return_at", ["either"]),
        (
            MINIMAL + "measure:\n  return_at: {env_steps: 5}\n  seconds: 3\n",
            6,
            "measure.seconds",
            ["leave 'seconds' out"],
        ),
        (MINIMAL + "measure: {return_at: {seconds: 3}}\n", 4, "measure.warmup_seconds", ["shorter", "got 5 s"]),
        (MINIMAL + "measure: {target_return: much}\n", 4, "measure.target_return", ["valid number", "'much'"]),
        (
            MINIMAL + "measure: {disturbed_retries: -1}\n",
            4,
            "measure.disturbed_retries",
            ["greater than or equal to 0"],
        ),
        (MINIMAL + "objectives: [seconds_to_success]\n", 4, "objectives", ["only with measure.judge: {every_"]),
        (
            MINIMAL + "measure: {judge: {every: 3}}\n",
            4,
            "measure.judge.every",
            ["unknown key; known: episodes, every_seconds"],
        ),
        (MINIMAL + "objectives: [seconds_to_return]\n", 4, "objectives", ["only with measure.target_return: R"]),
        (
            MINIMAL + "constraints: {return_at_budget: {min: 4}}\n",
            4,
            "constraints",
            ["only with measure.return_at: {env_"],
        ),
        (MINIMAL + "sampler: {name: bayes}\n", 4, "sampler.name", ["'tpe'", "'bayes'"]),
        (MINIMAL + "name: b\n", 4, "", ["not valid YAML", "duplicate key"]),
        ("name: [a\n", 2, "", ["not valid YAML"]),
        ("- a\n", 1, "", ["expected keys and values"]),
        ("name: a/b\ntrainer: appo\nenv: Ant\n", 1, "name", ["pattern"]),
        (MINIMAL + "fixed:\n  1: 2\n", 4, "fixed", ["names as keys"]),
    ],
)
def test_error_names_file_line_key_and_remedy(text: str, line: int | None, key: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        suites.parse(text, "some.yaml")
    error = caught.value
    assert error.file == "some.yaml"
    assert error.line == line
    assert error.key.startswith(key)
    for word in words:
        assert word in str(error)


def test_missing_file_and_binary_file_are_input_errors(tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        suites.read(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        suites.read(tmp_path / "binary.yaml")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-{}[]&*!|>'\"%@`#\n \t01.,?<=~"), max_size=60))
def test_no_text_makes_anything_but_an_input_error(text: str) -> None:
    with pytest.raises(InputError):
        suites.parse(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text("abc", max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "bc"]), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [f.name for f in dataclasses.fields(suites.Suite)]


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, "nmae"]), VALUES, max_size=6))
def test_wrong_values_give_an_input_error_or_a_suite(content: dict) -> None:
    try:
        suite = suites.parse(to_yaml(content)).suite
    except InputError as error:
        assert error.file == "<suite>"
    else:
        assert suites.parse(to_yaml(suite.to_dict())).suite == suite


SCALARS = st.integers(1, 100) | st.text("abcd", min_size=1, max_size=4) | st.booleans()
DIMENSIONS = st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True) | st.tuples(
    st.integers(1, 9), st.integers(10, 20), st.booleans()
).map(lambda t: {"low": t[0], "high": t[1], "log": t[2]})


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {"name": st.from_regex(r"\A[a-z][a-z0-9_]{0,8}\Z"), "trainer": st.just("appo"), "env": st.just("Ant")},
        optional={
            "fixed": st.dictionaries(st.text("abc.", min_size=1, max_size=5), SCALARS, max_size=3),
            "search": st.dictionaries(st.sampled_from(["num_envs", "algorithm.tau"]), DIMENSIONS, max_size=2),
            "objectives": st.lists(st.sampled_from(["episode_return", "policy_lag_mean"]), min_size=1, max_size=2),
            "constraints": st.just({"policy_lag_mean": {"max": 4}}),
            "measure": st.fixed_dictionaries({"seconds": st.floats(0.1, 99), "repeats": st.integers(1, 9)}),
            "confirm": st.fixed_dictionaries({"top": st.integers(1, 4)}),
        },
    )
)
def test_a_suite_survives_being_written_and_read(content: dict) -> None:
    suite = suites.parse(to_yaml(content)).suite
    again = suites.parse(to_yaml(suite.to_dict())).suite
    assert again == suite
    assert again.study_id() == suite.study_id()
    json.dumps(suite.to_dict())


def test_defaults_and_kinds() -> None:
    text = MINIMAL + "search:\n  a: [1, two]\n  b: {low: 1, high: 9}\n  c: {low: 1.0e-4, high: 1, log: true}\n"
    suite = suites.parse(text + "objectives: [policy_lag_mean, {metric: episode_return, direction: minimize}]\n").suite
    assert suite.search == {
        "a": CategoricalDistribution([1, "two"]), "b": IntDistribution(1, 9), "c": FloatDistribution(1e-4, 1, log=True)
    }  # fmt: skip
    assert suite.objectives == (Objective("policy_lag_mean", "minimize"), Objective("episode_return", "minimize"))
    assert suite.constraints.host_memory_fraction == 0.8
    assert suite.confirm is None


def test_a_budget_replaces_the_length_of_the_window_and_survives_being_written() -> None:
    text = MINIMAL + "measure: {return_at: {env_steps: 500}, target_return: 3, disturbed_retries: 0}\n"
    suite = suites.parse(text + "objectives: [return_at_budget, seconds_to_return]\n").suite
    assert suite.measure.return_at is not None and suite.measure.return_at.to_dict() == {"env_steps": 500}
    assert [objective.direction for objective in suite.objectives] == ["maximize", "minimize"]
    assert suites.parse(to_yaml(suite.to_dict())).suite == suite
    assert suites.parse(MINIMAL).suite.measure.steady_seconds == suites.STEADY_SECONDS
    assert suites.parse(MINIMAL + "measure: {seconds: 3}\n").suite.measure.steady_seconds == 3


def test_set_changes_values_by_name() -> None:
    overrides = ["limits.trials=7", "fixed.algorithm.gamma=0.9", "search.num_envs=[1, 2]"]
    overrides += ["confirm={top: 1, repeats: 2}"]
    suite = suites.parse(MINIMAL, overrides=overrides).suite
    assert suite.limits.trials == 7
    assert suite.fixed == {"algorithm.gamma": 0.9}
    assert suite.search == {"num_envs": CategoricalDistribution([1, 2])}
    assert suite.confirm == suites.Confirm(1, 2)
    wrong = {"limits.trials": "expected key=value", "name.x=1": "is a value", "a=[": "not valid YAML"}
    for override, words in wrong.items():
        with pytest.raises(InputError, match=words):
            suites.parse(MINIMAL, overrides=[override])


def test_study_changes_with_the_space_but_not_with_its_limits() -> None:
    def study(*overrides: str) -> str:
        return suites.parse(MINIMAL, overrides=overrides).suite.study_id()

    assert study("limits.trials=5") == study() == study("confirm={top: 1}")
    different = ["search.num_envs=[1]", "fixed.num_envs=1", "objectives=[episode_return]", "measure.seconds=3"]
    assert len({study(), *(study(change) for change in different)}) == 5


def laughs(levels: int, values: int) -> str:
    """A small file whose aliases stand for ``values ** levels`` values."""
    lines = ["a0: &a0 [" + "x, " * values + "]"]
    lines += [f"a{n}: &a{n} [" + f"*a{n - 1}, " * values + "]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (laughs(9, 10), r"<suite>:\d+: a\d.*: more than 10,000 values, with those that aliases repeat"),
        ("a: " + "[" * 5000, r"<suite>:1: nested deeper than 20 levels"),
        ("a: [" * 30, r"<suite>:1: nested deeper than 20 levels"),
        ("".join(" " * depth + "a:\n" for depth in range(2000)), r"<suite>:22: nested deeper than 20 levels"),
        ("a: &a {b: *a}\n", r"unknown key|nested deeper"),
    ],
)
def test_what_a_file_makes_is_bounded_before_it_is_made(text: str, problem: str) -> None:
    began = time.process_time()
    with pytest.raises(InputError, match=problem):
        suites.parse(text)
    assert time.process_time() - began < 3


def test_aliases_may_repeat_settings() -> None:
    text = MINIMAL + "fixed: &fixed {threads: 2}\nbaseline: {<<: *fixed, speed: 3}\n"
    assert suites.parse(text).suite.baseline == {"threads": 2, "speed": 3}

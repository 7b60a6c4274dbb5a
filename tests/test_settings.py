"""Settings from dictionaries: every mistake is named with its key and remedy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unilab.algos.torch.appo.config import AlgorithmConfig, APPOConfig
from unilab.algos.torch.offpolicy.config import CONFIGS, SACConfig, check
from unilab.settings import SettingsError, changed, combine, flatten, names, nest, parse


def test_dotted_and_nested_mean_the_same():
    dotted = parse(APPOConfig, {"algorithm.gamma": 0.9, "network.actor": [3, 4]})
    nested = parse(APPOConfig, {"algorithm": {"gamma": 0.9}, "network": {"actor": [3, 4]}})
    assert dotted == nested
    assert dotted.algorithm.gamma == 0.9
    assert dotted.network.actor == (3, 4)


@pytest.mark.parametrize(
    ("given", "key", "problem"),
    [
        ({"num_env": 3}, "num_env", "did you mean 'num_envs'"),
        ({"algorithm": {"learningrate": 1.0}}, "algorithm.learningrate", "did you mean 'algorithm.learning_rate'"),
        ({"zzz": 1}, "zzz", "known: "),
        ({"num_envs": 0}, "num_envs", "greater than or equal to 1, got 0"),
        ({"num_envs": 2.5}, "num_envs", "got 2.5"),
        ({"num_envs": "many"}, "num_envs", "got 'many'"),
        ({"algorithm.gamma": 1.5}, "algorithm.gamma", "less than or equal to 1"),
        ({"learner_dtype": "float16"}, "learner_dtype", "'float32' or 'bfloat16'"),
        ({"algorithm": 3}, "algorithm", "dictionary"),
        ({"algorithm.gamma": 0.9, "algorithm.gamma.x": 1}, "algorithm.gamma.x", "both as a value and as a group"),
    ],
)
def test_mistakes(given, key, problem):
    with pytest.raises(SettingsError) as raised:
        parse(APPOConfig, given)
    assert raised.value.key == key
    assert problem in raised.value.problem


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "num_envs": st.integers(1, 10**6),
            "algorithm.learning_rate": st.floats(1e-6, 1),
            "algorithm.num_learning_epochs": st.integers(1, 20),
            "network.actor": st.lists(st.integers(1, 512), max_size=3).map(tuple),
            "mode": st.sampled_from(["async", "sync"]),
        },
    )
)
def test_flatten_gives_back_what_was_parsed(given_settings):
    config = parse(APPOConfig, given_settings)
    flat = flatten(config)
    assert {key: flat[key] for key in given_settings} == given_settings
    assert parse(APPOConfig, flat) == config


def test_names_are_dotted_and_complete():
    known = names(APPOConfig)
    assert {"num_envs", "algorithm.learning_rate", "network.activation"} <= set(known)
    assert len(known) == len(set(known))
    assert sum(name.startswith("algorithm.") for name in known) == len(AlgorithmConfig.__dataclass_fields__)


def test_nest_merges_groups():
    assert nest({"a.b": 1, "a": {"c": 2}, "a.d.e": 3}) == {"a": {"b": 1, "c": 2, "d": {"e": 3}}}
    deep = {"a.b.c": 1, "a": {"b": {"d": 2}, "e": 3}}
    assert nest(deep) == nest(dict(reversed(deep.items()))) == {"a": {"b": {"c": 1, "d": 2}, "e": 3}}


@pytest.mark.parametrize(
    ("setting", "value", "problems"),
    [
        ("network.layer_norm", "critic", ("valid boolean", "'critics'")),
        ("algorithm.reward_scale", "Auto", ("valid number", "'auto'")),
    ],
)
def test_a_setting_of_several_types_is_named_once_with_what_it_may_be(setting, value, problems) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(SACConfig, {setting: value})
    assert caught.value.key == setting
    assert all(problem in str(caught.value) for problem in problems), str(caught.value)


def test_text_is_no_number() -> None:
    for wrong, key in (
        ({"num_envs": "8"}, "num_envs"), ({"network": {"actor": [8, "16"]}}, "network.actor"),
        ({"algorithm.gamma": "0.9"}, "algorithm.gamma"), ({"trace_enabled": "true"}, "trace_enabled"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=r"got the string .* write it unquoted") as caught:
            parse(APPOConfig, wrong)
        assert caught.value.key == key


def test_a_network_is_widths_or_a_factory_or_one_with_settings() -> None:
    for described in ((8, 4), (), "package.module:factory", {"factory": "package.module:factory", "width": 8}):
        assert parse(APPOConfig, {"network.actor": described}).network.actor == described
    assert parse(APPOConfig, {"network.actor.factory": "a:b"}).network.actor == {"factory": "a:b"}
    with pytest.raises(SettingsError, match=r"network\.actor"):
        parse(APPOConfig, {"network.actor": 8})


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_a_preset_replaces_defaults_and_no_setting_that_is_stated(algorithm: str) -> None:
    cls = CONFIGS[algorithm]
    plain, fast = flatten(parse(cls, {})), flatten(parse(cls, {"preset": "fast"}))
    check(parse(cls, {"preset": "fast"}))
    assert {name for name in fast if fast[name] != plain[name]} <= {"preset", *cls.__presets__["fast"]}
    assert fast | cls.__presets__["fast"] == fast
    stated = {"num_envs": plain["num_envs"], "algorithm": {"n_step": 2}, "algorithm.num_atoms": 1}
    mixed = flatten(parse(cls, {"preset": "fast", **stated}))
    assert mixed == fast | {"num_envs": plain["num_envs"], "algorithm.n_step": 2, "algorithm.num_atoms": 1}


def test_what_a_preset_made_is_read_back_whole_or_by_its_changes() -> None:
    config = parse(SACConfig, {"preset": "fast", "algorithm.n_step": 1, "algorithm.tau": 0.01})
    assert parse(SACConfig, flatten(config)) == config
    assert changed(config) == {"preset": "fast", "algorithm.n_step": 1, "algorithm.tau": 0.01}
    assert parse(SACConfig, changed(config)) == config


def test_a_preset_that_one_source_names_replaces_defaults_and_nothing_that_another_states() -> None:
    sources = {"an argument": {"num_envs": 8}, "rl_cfg": {"preset": "fast"}}
    config = combine(SACConfig, sources, {"num_envs": 4096, "batch_size": 8192, "seed": 3})
    assert config == parse(SACConfig, {"preset": "fast", "num_envs": 8, "seed": 3})


@pytest.mark.parametrize(("cls", "problem"), [(SACConfig, "Input should be 'fast'"), (APPOConfig, "unknown setting")])
@pytest.mark.parametrize("name", ["fats", ["fast"], 3])
def test_an_unknown_preset_is_refused(cls: type, name: object, problem: str) -> None:
    with pytest.raises(SettingsError, match=f"^preset: {problem}"):
        parse(cls, {"preset": name})

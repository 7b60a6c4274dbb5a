"""The mistakes of a first own environment: which method gave what, and what was expected."""

import sys
from pathlib import Path

import pytest

from tests.envs.robots.here import tried
from unilab.envs import EnvironmentMistake, make, names
from unilab.envs.check import check

MISTAKES = [
    ("WrongShape", "step() returned as the observation an array of shape (3,) and type float32; expected one of its "),
    (
        "OldStep",
        "step() returned a tuple of 4: (an array, 0.0, False, {}); expected (observation, reward, terminated, tr",
    ),
    ("OldReset", "reset() returned an array of shape (1,) and type float32; expected (observation, info)"),
    ("NoSeed", "reset() takes no seed; expected reset(self, *, seed=None, options=None)"),
    ("NoSpaces", "observation_space is None; expected a space, such as gymnasium.spaces.Box(-1, 1, (3,))"),
    ("ArrayReward", "step() returned as the reward an array of shape (1,) and type float64; expected one number"),
    ("NoReward", "step() returned as the reward None; expected one number"),
    ("NanReward", "env step 1: reward: nan"),
    ("NoEnd", "step() returned as terminated None; expected True or False"),
    ("NoAttribute", "AttributeError: 'NoAttribute' object has no attribute 'forgotten' ("),
    ("DictObservation", "observation_space is a Dict: observations of several parts are not supported, because"),
    (
        "Image",
        "observation_space is an image (8, 8, 3): images are not supported, because the policies take one vector",
    ),
    ("NoObservation", "NoObservation: observe() returned None; expected an array of shape (2, numbers of a row)"),
    ("RewardAlone", "evaluate() returned an array of shape (2,) and type float64; expected a tuple (reward, term"),
    ("RewardColumn", "evaluate() returned as reward an array of shape (2, 1) and type float64; expected an array of "),
    ("NoTerminated", "evaluate() returned as terminated None; expected an array of shape (2,)"),
    ("AllRows", "observe() returned an array of shape (2, 1) and type float64; expected an array of shape (1, 1)"),
    ("NoSuchField", "AttributeError: 'State' object has no attribute 'qacc' ("),
    (
        "OneState",
        "initial_state(2) returned arrays of shapes [(1,), (1,)]; expected positions (2, 1) and velocities (2, 1)",
    ),
    ("takes_nothing", "tests.envs.mistaken:takes_nothing() cannot be a factory; expected "),
    ("no_environment", "tests.envs.mistaken:no_environment() returned 'three'; expected a VecEnv"),
]


@pytest.mark.parametrize(("name", "words"), MISTAKES, ids=[name for name, _ in MISTAKES])
def test_a_mistake_is_named(name: str, words: str) -> None:
    problems = check(f"tests.envs.mistaken:{name}").problems
    assert [problem for problem in problems if words in problem], problems
    if words.endswith("("):
        assert "mistaken.py:" in problems[0]


@pytest.mark.parametrize("name", tried([*names(), "tests.envs.cart:Cart", "tests.envs.cart:Countdown", "CartPole-v1"]))
def test_nothing_is_found_in_a_sound_environment(name: str) -> None:
    findings = check(name)
    assert findings.problems == [] and findings.notes == []


def test_without_a_time_limit_returns_may_never_come() -> None:
    findings = check("tests.envs.mistaken:Endless")
    assert findings.problems == [] and "it has no time limit" in findings.notes[0]
    assert check("tests.envs.mistaken:Endless", {"max_episode_steps": 5}).notes == []


def test_a_mistake_is_an_error_wherever_the_environment_is_used() -> None:
    with make("tests.envs.mistaken:ArrayReward", 1) as env, pytest.raises(EnvironmentMistake, match="as the reward"):
        env.reset()
        env.step(env.action_low[None])


def test_names_and_modules_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_module.py").write_text("import numpy\n\nnumpy.no_such_thing\n")
    (problem,) = check("broken_module:Env").problems
    assert problem.startswith("AttributeError: module 'numpy' has no attribute") and "broken_module.py:3" in problem
    assert "broken_module" not in sys.modules
    assert "no module 'nowhere'" in check("nowhere:Env").problems[0]
    assert "did you mean 'Ant'?" in check("Antt").problems[0]
    assert "frame_skp: unknown setting" in check("Ant", {"frame_skp": 3}).problems[0]

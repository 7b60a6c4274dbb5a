"""Actions in [-1, 1] for environments with other bounds."""

import numpy as np
import pytest

from tests.envs.contract import check_vec_env
from unilab.envs import VecEnv, make
from unilab.envs.unit_actions import UnitActions


def pendulum(num_envs: int, *, num_threads: int, seed: int, max_episode_steps: int | None) -> VecEnv:
    cfg = {"max_episode_steps": max_episode_steps}
    return UnitActions(make("Pendulum-v1", num_envs, env_cfg_override=cfg, seed=seed, num_threads=num_threads))


def test_it_keeps_the_contract_of_environments() -> None:
    check_vec_env(pendulum)


def test_actions_are_scaled_to_the_bounds_of_the_environment() -> None:
    with make("Pendulum-v1", 2, seed=0) as env, UnitActions(make("Pendulum-v1", 2, seed=0)) as unit:
        assert env.action_high.tolist() == [2.0] and unit.action_high.tolist() == [1.0]
        env.reset(3)
        unit.reset(3)
        actions = np.array([[-1.0], [0.25]], np.float32)
        expected = env.step(actions * 2).obs.copy()
        np.testing.assert_array_equal(unit.step(actions).obs, expected)
        np.testing.assert_array_equal(unit.obs, expected)


def test_unbounded_actions_are_refused() -> None:
    env = make("tests.algos.appo.counting_env:CountingEnv", 2, env_cfg_override={})
    env.action_high = np.array([np.inf], np.float32)
    with pytest.raises(ValueError, match="give the environment's actions bounds"):
        UnitActions(env)

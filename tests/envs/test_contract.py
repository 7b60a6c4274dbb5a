from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.envs.contract import check_vec_env
from tests.envs.robots.here import tried
from unilab.envs import VecEnv, make, names

GYMNASIUM_IDS = ["Pendulum-v1", "CartPole-v1", "HalfCheetah-v5"]
OWN = ["tests.envs.cart:Cart"]
SLOWER = {"InvertedDoublePendulum": {"frame_skip": 1}, "InvertedPendulum": {"frame_skip": 1}}
"""settings with which random actions do not end an episode within the few steps of the check"""


def from_registry(name: str, num_envs: int, *, num_threads: int, seed: int, **cfg: Any) -> VecEnv:
    return make(name, num_envs, env_cfg_override=cfg, seed=seed, num_threads=num_threads)


@pytest.mark.parametrize("name", tried([*names(), *OWN, *GYMNASIUM_IDS]))
def test_environment_keeps_the_contract(name: str) -> None:
    check_vec_env(partial(from_registry, name, **SLOWER.get(name, {})))


def test_privileged_observation_follows_resets() -> None:
    with make("tests.envs.cart:Cart", 4, seed=0, env_cfg_override={"max_episode_steps": 3}) as env:
        _, critic = env.reset()
        assert critic is not None and critic.shape == (4, 2)
        for _ in range(3):
            result = env.step(np.ones((4, 1), dtype=np.float32))
            assert result.critic is not None and result.final_critic is not None
            np.testing.assert_array_equal(result.critic[:, 0], result.obs[:, 0])
        assert result.final_ids.tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(result.final_critic[:, 0], result.final_obs[:, 0])
        assert (result.final_critic[:, 1] != result.critic[:, 1]).all()


def test_random_rows_end_as_the_loop_over_single_environments_does() -> None:
    """Rows that terminate at different times keep the others' episodes as they are."""
    with make("Hopper", 16, seed=0, num_threads=2) as env:
        env.reset()
        lengths = np.zeros(16, dtype=int)
        rng = np.random.default_rng(0)
        ended = 0
        for _ in range(120):
            result = env.step(rng.uniform(-1, 1, (16, 3)).astype(np.float32))
            lengths += 1
            lengths[result.final_ids] = 0
            ended += result.final_ids.size
            np.testing.assert_array_equal(env.elapsed_steps, lengths)
            # Hopper starts within 5e-3 of height 1.25: a fresh observation is near it, a final one is not
            assert (np.abs(result.obs[result.final_ids, 0] - 1.25) <= 5e-3 + 1e-6).all()
        assert ended > 16

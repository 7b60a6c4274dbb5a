from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from unilab.envs import make
from unilab.envs.gymnasium_adapter import adapter_of_class
from unilab.settings import SettingsError


def test_rows_are_gymnasium_environments_step_for_step() -> None:
    """Pendulum with its own time limit of 200, so that every row resets once."""
    rows = 2
    singles = [gymnasium.make("Pendulum-v1") for _ in range(rows)]
    seeds = np.random.default_rng(3)

    def begin(row: int) -> np.ndarray:
        return singles[row].reset(seed=int(seeds.integers(2**31)))[0]

    with make("Pendulum-v1", rows, seed=3) as env:
        obs, _ = env.reset()
        np.testing.assert_array_equal(obs, [begin(row) for row in range(rows)])
        assert (env.max_episode_steps, env.action_low, env.action_high) == (200, -2, 2)
        rng = np.random.default_rng(0)
        for step in range(1, 251):
            actions = rng.uniform(-2, 2, (rows, 1)).astype(np.float32)
            result = env.step(actions)
            for row, single in enumerate(singles):
                obs, reward, terminated, truncated, _ = single.step(actions[row])
                assert result.reward[row] == np.float32(reward)
                assert (result.terminated[row], result.truncated[row]) == (terminated, truncated)
                assert truncated == (step == 200)
                if truncated:
                    np.testing.assert_array_equal(result.final_obs[row], obs)
                    obs = begin(row)
                np.testing.assert_array_equal(result.obs[row], obs)
    for single in singles:
        single.close()


@pytest.mark.parametrize("truncate", [False, True])
def test_episodes_that_end_by_themselves(truncate: bool) -> None:
    with make("tests.envs.cart:Countdown", 2, env_cfg_override={"steps": 4, "truncate": truncate}, seed=0) as env:
        start = env.reset()[0][:, 0].copy()
        for step in range(1, 5):
            result = env.step(np.full((2, 1), 0.5, dtype=np.float32))
            assert result.terminated.tolist() == [step == 4 and not truncate] * 2
            assert result.truncated.tolist() == [step == 4 and truncate] * 2
            assert result.reward.tolist() == [0.5, 0.5]
        np.testing.assert_allclose(result.final_obs[:, 0], start - 4, rtol=1e-6)
        assert ((result.obs >= 10) & (result.obs <= 20)).all()
        assert env.elapsed_steps.tolist() == [0, 0]


class ZeroDimensional(gymnasium.Env[Any, Any]):
    """Returns arrays without dimensions, as environments that compute with arrays do."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), np.array(2.5), np.array(True), np.array(False), {}


def test_numbers_may_be_arrays_without_dimensions() -> None:
    with make("tests.envs.test_gymnasium_adapter:ZeroDimensional", 2, seed=0) as env:
        env.reset()
        result = env.step(np.zeros((2, 1), np.float32))
        assert (result.reward.tolist(), result.terminated.tolist()) == ([2.5, 2.5], [True, True])
        assert not result.truncated.any()


def test_an_error_of_an_environment_names_its_row_and_step() -> None:
    with make("tests.envs.cart:Countdown", 2, env_cfg_override={"break_at": 1}, seed=0) as env:
        env.reset()
        actions = np.zeros((2, 1), dtype=np.float32)
        env.step(actions)
        env.step(actions)
        with pytest.raises(ZeroDivisionError) as caught:
            env.step(actions)
        assert caught.value.__notes__ == ["Countdown: environment 0, env step 3, action [0.]"]


class Grid(ZeroDimensional):
    """Takes whole numbers in two dimensions, and changes what it is given."""

    action_space = spaces.Box(0, 9, (1, 2), dtype=np.int64)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        reward = float(action[0] @ [10, 1])
        action[:] = 0
        return np.zeros(1, np.float32), reward, False, False, {}


def test_a_box_of_whole_numbers_gets_such_and_an_array_of_its_own() -> None:
    with make("tests.envs.test_gymnasium_adapter:Grid", 2, seed=0) as env:
        env.reset()
        actions = np.array([[1.4, 2.6], [7.0, 0.2]], np.float32)
        assert env.step(actions).reward.tolist() == [13, 70]
        assert actions.all()


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Dict({"a": spaces.Box(0, 1, (2,))})]
)
def test_actions_of_several_parts_are_refused(space: spaces.Space[Any]) -> None:
    class Acts(ZeroDimensional):
        action_space = space  # type: ignore[assignment]

    with pytest.raises(ValueError, match=f"Acts: action_space is a {type(space).__name__}: only Box and Discrete"):
        adapter_of_class(Acts)(1, num_threads=1, seed=0)


class Choice(ZeroDimensional):
    """Rewards each of its actions, 5, 6 and 7, with itself."""

    action_space = spaces.Discrete(3, start=5)

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return np.zeros(1, np.float32), float(action), False, False, {}


def test_a_discrete_action_is_given_by_its_index() -> None:
    with make("tests.envs.test_gymnasium_adapter:Choice", 3, seed=0) as env:
        assert (env.num_actions, env.action_dim, env.action_low, env.action_high) == (3, 1, 0, 2)
        assert env.dims.num_actions == 3
        env.reset()
        assert env.step(np.array([[0], [1], [2]], np.float32)).reward.tolist() == [5, 6, 7]


@pytest.mark.parametrize("limit", [-1, 0, True, 2.5, "abc"])
def test_a_limit_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(SettingsError, match="max_episode_steps: expected a whole number of at least 1, or null"):
        make("Pendulum-v1", 1, env_cfg_override={"max_episode_steps": limit})


def test_a_space_without_a_fixed_size_is_refused() -> None:
    class Lists(gymnasium.Env[Any, Any]):
        observation_space = spaces.Sequence(spaces.Discrete(3))
        action_space = spaces.Discrete(2)

    with pytest.raises(ValueError, match=r"Lists: the observation space .* has no fixed size"):
        adapter_of_class(Lists)(2, num_threads=1, seed=0)

"""Whatever is done to an environment, in whatever order, its results stay consistent."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unilab.envs import VecEnv, make

ROWS, LIMIT = 5, 7
events = st.one_of(
    st.tuples(st.just("step"), st.floats(-1, 1), st.just(0)),
    st.tuples(st.just("bad action"), st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, ROWS - 1)),
    st.tuples(st.just("bad state"), st.sampled_from([np.nan, np.inf, 1e11]), st.integers(0, ROWS - 1)),
    st.tuples(st.sampled_from(["reset", "stagger", "save", "load"]), st.just(0.0), st.just(0)),
)


@pytest.fixture(scope="module")
def env() -> Iterator[VecEnv]:
    override = {"max_episode_steps": LIMIT}
    with make("tests.envs.cart:Cart", ROWS, env_cfg_override=override, seed=0, num_threads=2) as env:
        yield env


def check_step(env: VecEnv, actions: np.ndarray, broken: int | None) -> None:
    before, elapsed = env.obs.copy(), env.elapsed_steps.copy()
    result = env.step(actions)
    assert [fault.env_id for fault in result.faults] == ([] if broken is None else [broken])
    for array in (result.obs, result.critic, result.reward, result.final_obs, result.final_critic):
        assert array is not None and np.isfinite(array).all()
    ended = result.terminated | result.truncated
    np.testing.assert_array_equal(result.final_ids, np.flatnonzero(ended))
    np.testing.assert_array_equal(env.elapsed_steps, np.where(ended, 0, elapsed + 1))
    due = elapsed + 1 >= LIMIT
    if broken is not None:
        due[broken] = False
        assert result.terminated[broken] and result.reward[broken] == 0
        np.testing.assert_array_equal(result.final_obs[result.final_ids == broken][0], before[broken])
    np.testing.assert_array_equal(result.truncated, due)


@settings(max_examples=60, deadline=None)
@given(st.lists(events, min_size=1, max_size=25))
def test_any_order_of_events(env: VecEnv, order: list[tuple[str, float, int]]) -> None:
    env.reset(seed=0)
    saved = env.state_dict()
    for event, value, row in order:
        actions = np.zeros((ROWS, 1), dtype=np.float32)
        match event:
            case "step":
                actions[:] = value
                check_step(env, actions, None)
            case "bad action":
                actions[row] = value
                check_step(env, actions, row)
            case "bad state":
                env.qvel[row] = value
                check_step(env, actions, row)
            case "reset":
                env.reset()
            case "stagger":
                env.stagger()
            case "save":
                saved = env.state_dict()
            case "load":
                env.load_state_dict(saved)
                np.testing.assert_array_equal(env.obs, saved["obs"])
                np.testing.assert_array_equal(env.elapsed_steps, saved["elapsed_steps"])

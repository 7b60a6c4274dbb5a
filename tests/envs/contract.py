"""What every batched environment must do, as one check that a new environment's test can call.

    check_vec_env(partial(make_my_environment))

``factory(num_envs, *, num_threads, seed, max_episode_steps)`` makes the environment; ``max_episode_steps`` is small.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch

from unilab.envs import StepResult, VecEnv
from unilab.envs.check import random_actions, steps_problems

Factory = Callable[..., VecEnv]
ROWS = 3
LIMIT = 6


def check_vec_env(factory: Factory) -> None:
    """Run all checks on environments that ``factory`` makes."""
    check_shapes_and_buffers(factory)
    check_seeds(factory)
    check_threads_change_nothing(factory)
    check_final_observations(factory)
    check_stagger(factory)
    check_state(factory)
    check_bad_actions(factory)
    check_nan_action(factory)
    check_close(factory)


def new(factory: Factory, *, seed: int = 0, limit: int | None = LIMIT, threads: int = 1) -> VecEnv:
    return factory(ROWS, num_threads=threads, seed=seed, max_episode_steps=limit)


def copied(result: StepResult) -> list[np.ndarray]:
    """The arrays of a result, copied; a missing critic is an empty array."""
    return [np.array([] if array is None else array) for array in result[:8]]


def run(env: VecEnv, steps: int, seed: int = 7) -> list[list[np.ndarray]]:
    return [copied(env.step(actions)) for actions in random_actions(env, steps, seed)]


def assert_same(one: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> None:
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def check_shapes_and_buffers(factory: Factory) -> None:
    with new(factory) as env:
        assert env.num_envs == ROWS
        assert steps_problems(env, 3 * LIMIT) == []
        addresses = set()
        for actions in random_actions(env, 3 * LIMIT):
            result = env.step(actions)
            assert np.isfinite(result.obs).all() and np.isfinite(result.reward).all()
            np.testing.assert_array_equal(env.obs, result.obs)
            addresses.add((result.obs.ctypes.data, result.reward.ctypes.data, result.terminated.ctypes.data))
        assert len(addresses) <= 2, "the buffers are used again"


def check_seeds(factory: Factory) -> None:
    with new(factory, seed=1) as env, new(factory, seed=1) as same, new(factory, seed=2) as other:
        first = env.reset()[0].copy()
        for row in range(1, ROWS):
            assert not np.array_equal(first[0], first[row]), "rows start in different states"
        np.testing.assert_array_equal(first, same.reset()[0])
        assert not np.array_equal(first, other.reset()[0])
        assert_same(run(env, 3 * LIMIT), run(same, 3 * LIMIT))
        assert not np.array_equal(first, env.reset()[0]), "a reset without a seed goes on with the stream"
        once = env.reset(seed=5)[0].copy(), run(env, 2 * LIMIT)
        again = env.reset(seed=5)[0].copy(), run(env, 2 * LIMIT)
        np.testing.assert_array_equal(once[0], again[0])
        assert_same(once[1], again[1])


def check_threads_change_nothing(factory: Factory) -> None:
    with new(factory, threads=1) as one, new(factory, threads=2) as two:
        np.testing.assert_array_equal(one.reset()[0], two.reset()[0])
        assert_same(run(one, 3 * LIMIT), run(two, 3 * LIMIT))


def check_final_observations(factory: Factory) -> None:
    """An episode that is cut has the same observations as one that is not, up to and including its final one."""
    with new(factory) as cut, new(factory, limit=None) as uncut:
        cut.reset()
        uncut.reset()
        for step, actions in enumerate(random_actions(cut, LIMIT), start=1):
            expected, result = uncut.step(actions), cut.step(actions)
            assert not expected.terminated.any(), f"episodes must last {LIMIT} steps for this check"
            np.testing.assert_array_equal(result.truncated, np.full(ROWS, step == LIMIT))
            np.testing.assert_array_equal(result.reward, expected.reward)
            now = result.final_obs if step == LIMIT else result.obs
            np.testing.assert_array_equal(now, expected.obs)
        assert cut.elapsed_steps.tolist() == [0] * ROWS
        assert not (result.obs == result.final_obs).all(axis=1).any(), "obs is of the next episode"


def check_stagger(factory: Factory) -> None:
    with new(factory) as env:
        env.reset()
        env.stagger()
        assert env.elapsed_steps.tolist() == [row * LIMIT // ROWS for row in range(ROWS)]
        ends = [list(result[4]) for result in run(env, LIMIT)]
        expected: list[list[int]] = [[] for _ in range(LIMIT)]
        for row in range(ROWS):
            expected[LIMIT - row * LIMIT // ROWS - 1].append(row)
        assert ends == expected


def through_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a checkpoint gives it back: arrays as tensors, loaded with ``weights_only``."""

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tensors(inner) for key, inner in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    file = BytesIO()
    torch.save(tensors(state), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def check_state(factory: Factory) -> None:
    with new(factory, seed=1) as env, new(factory, seed=2) as resumed:
        env.reset()
        env.stagger()
        run(env, LIMIT + 2)
        state = through_checkpoint(env.state_dict())
        resumed.load_state_dict(state)
        if env.exact_resume:
            np.testing.assert_array_equal(resumed.obs, env.obs)
            np.testing.assert_array_equal(resumed.elapsed_steps, env.elapsed_steps)
            assert_same(run(env, 3 * LIMIT, seed=3), run(resumed, 3 * LIMIT, seed=3))
        else:
            once = resumed.obs.copy(), run(resumed, 2 * LIMIT)
            resumed.load_state_dict(state)
            np.testing.assert_array_equal(resumed.obs, once[0])
            assert_same(run(resumed, 2 * LIMIT), once[1])
        larger = factory(ROWS + 1, num_threads=1, seed=0, max_episode_steps=LIMIT)
        with larger, pytest.raises(ValueError, match="make the same one"):
            larger.load_state_dict(state)


def check_bad_actions(factory: Factory) -> None:
    with new(factory) as env:
        good = random_actions(env, 1)[0]
        with pytest.raises(RuntimeError, match=r"call reset\(\) before step\(\)"):
            env.step(good)
        env.reset()
        for bad in (good[:-1], good[:, :-1], good[0], good[None]):
            with pytest.raises(ValueError, match=r"actions must have shape \[3, "):
                env.step(bad)
        env.step(good.astype(np.float64))


def check_nan_action(factory: Factory) -> None:
    with new(factory) as env, new(factory) as healthy:
        env.reset()
        healthy.reset()
        first, second, third = random_actions(env, 3)
        before = env.step(first).obs.copy()
        healthy.step(first)
        bad = second.copy()
        bad[1, 0] = np.nan
        result, expected = env.step(bad), healthy.step(second)
        (fault,) = result.faults
        assert (fault.env_id, fault.step, fault.field) == (1, 2, "action")
        assert "environment 1" in fault.message and "step 2" in fault.message
        assert result.reward[1] == 0 and result.terminated[1] and not result.truncated[1]
        assert result.final_ids.tolist() == [1]
        np.testing.assert_array_equal(result.final_obs[0], before[1])
        assert np.isfinite(result.obs).all()
        assert env.elapsed_steps.tolist() == [2, 0, 2]
        others = [0, 2]
        for actions in (None, third):
            if actions is not None:
                result, expected = env.step(actions), healthy.step(actions)
                assert result.faults == ()
            np.testing.assert_array_equal(result.obs[others], expected.obs[others])
            np.testing.assert_array_equal(result.reward[others], expected.reward[others])


def check_close(factory: Factory) -> None:
    env = new(factory)
    env.reset()
    actions = random_actions(env, 1)[0]
    result = env.step(actions)
    obs = result.obs.copy()
    env.close()
    env.close()
    np.testing.assert_array_equal(result.obs, obs)
    for use in (lambda: env.step(actions), env.reset, env.state_dict):
        with pytest.raises(RuntimeError, match="is closed; make a new environment"):
            use()

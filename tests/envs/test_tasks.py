"""A task's functions take numpy's arrays and torch's alike, and give the same numbers."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from tests.envs.robots.here import tried
from unilab.envs import make, names
from unilab.envs.mujoco_env import MujocoVecEnv, State

ENDING = ("Ant", "Hopper", "Humanoid", "Inverted", "Velocity-G", "Velocity-H1", "Velocity-Spot", "Walker2d")
"""parts of the names of tasks of which an episode may end within 60 random steps"""


def tensors(argument: Any, dtype: torch.dtype) -> Any:
    if not isinstance(argument, State):
        return torch.tensor(argument)  # actions are float32
    return type(argument)(*(torch.tensor(getattr(argument, field.name), dtype=dtype) for field in fields(argument)))


@pytest.mark.parametrize("name", tried([*names(), "tests.envs.cart:Cart"]))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_functions_of_numpy_and_of_torch_arrays_agree(name: str, dtype: torch.dtype) -> None:
    calls = {"observe": 0, "observe_critic": 0, "evaluate": 0}
    ended = 0

    def both(method: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which compares what it gives for either kind of arrays wherever the environment calls it."""

        def compared(*arguments: Any) -> Any:
            nonlocal ended
            ours, theirs = function(*arguments), function(*(tensors(argument, dtype) for argument in arguments))
            if method == "evaluate":
                terms = [reward if isinstance(reward, dict) else {"reward": reward} for reward, _ in (ours, theirs)]
                assert terms[0].keys() == terms[1].keys()
                pairs = [(ours[1], theirs[1]), *((terms[0][name], terms[1][name]) for name in terms[0])]
            else:
                pairs = [(ours, theirs)]
            for one, other in pairs:
                assert isinstance(other, torch.Tensor) or other is False
                assert np.shape(one) == np.shape(other)
                # actions are float32; speed is a difference of positions over a short time, which rounds coarsely
                close = 1e-6 if dtype == torch.float64 else 1e-3
                np.testing.assert_allclose(one, other, rtol=close, atol=close)
            ended += int(np.sum(ours[1])) if method == "evaluate" else 0
            calls[method] += 1
            return ours

        return compared

    with make(name, 16, env_cfg_override={"max_episode_steps": 50}, seed=0, num_threads=1) as env:
        assert isinstance(env, MujocoVecEnv)
        for method in calls:
            setattr(env, method, both(method, getattr(env, method)))
        env.reset()
        random = np.random.default_rng(0)
        for _ in range(60):
            env.step(random.uniform(-1, 1, (16, env.action_dim)).astype(np.float32))
    assert calls["evaluate"] == 60 and calls["observe"] > 61
    assert bool(calls["observe_critic"]) == (name == "tests.envs.cart:Cart" or name.startswith("Velocity-"))
    assert (ended > 0) == (any(part in name for part in ENDING) and "Standup" not in name), "both answers are compared"

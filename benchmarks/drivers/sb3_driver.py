"""Measures Stable-Baselines3's SAC and TD3. Run by offpolicy_vs_others.py, in that package's environment, with one
JSON argument.

As many gradient updates as env steps, and the package's own hyperparameters but for those that its RL Zoo gives for
HalfCheetah: 10,000 random env steps before the first update, and for TD3 exploring noise of 0.1 (by default it has
none at all). Settings other than ``num_envs`` and ``threads`` go to the algorithm's constructor.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from curve import Curve
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from steady_window import SteadyWindow


class Until(BaseCallback):
    """Asks ``over`` before each rollout, when all updates so far are done and counted; ends training once it is."""

    def __init__(self, over: Callable[[OffPolicyAlgorithm], bool]) -> None:
        super().__init__()
        self._ask = over
        self._over = False

    def _on_rollout_start(self) -> None:
        assert isinstance(self.model, OffPolicyAlgorithm)
        self._over = self._over or self._ask(self.model)

    def _on_step(self) -> bool:
        return not self._over


def build(job: dict[str, Any]) -> OffPolicyAlgorithm:
    settings = dict(job["settings"])
    torch.set_num_threads(settings.pop("threads"))
    env = make_vec_env("HalfCheetah-v5", n_envs=settings.pop("num_envs"), seed=settings.get("seed", 0))
    assert env.action_space.shape is not None
    actions = env.action_space.shape[0]
    noise = {"action_noise": NormalActionNoise(np.zeros(actions), np.full(actions, 0.1))}
    return {"sac": SAC, "td3": TD3}[job["algorithm"]](
        "MlpPolicy",
        env,
        **{
            "policy_kwargs": {"net_arch": job["hidden_dims"]},
            "batch_size": job["batch_size"],
            "learning_starts": 10_000,
            "train_freq": 1,
            "gradient_steps": -1,
            "device": "cpu",
            "seed": 0,
            **(noise if job["algorithm"] == "td3" else {}),
            **settings,
        },
    )


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def measure(model: OffPolicyAlgorithm, window: SteadyWindow) -> None:
    """Updates and env steps a second, the first update awaited."""

    def over(model: OffPolicyAlgorithm) -> bool:
        return model._n_updates > 0 and window.report(updates=model._n_updates, env_steps=model.num_timesteps)

    model.learn(sys.maxsize, callback=Until(over))
    window.print_result()


def record(model: OffPolicyAlgorithm, curve: Curve) -> None:
    """The learning curve; the latest return is that of as many episodes as there are environments."""

    def over(model: OffPolicyAlgorithm) -> bool:
        returns = [episode["r"] for episode in model.ep_info_buffer or ()]
        return curve.report(model.num_timesteps, model._n_updates, mean(returns), mean(returns[-model.n_envs :]))

    model.learn(sys.maxsize, callback=Until(over))


def main(job: dict[str, Any]) -> None:
    model = build(job)
    if "curve" in job:
        record(model, Curve(job["curve"], job["seconds"]))
    else:
        measure(model, SteadyWindow(job["warmup_seconds"], job["seconds"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

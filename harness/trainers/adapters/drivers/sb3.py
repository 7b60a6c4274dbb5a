"""Trains Stable-Baselines3's PPO, SAC and TD3."""

import functools
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from harness.trainers.adapters.foreign import Act, Report, UpdateCounter, in_turns
from harness.trainers.adapters.sb3 import constructor_arguments, gymnasium_id
from unilab.envs import make
from unilab.run.acting import EpisodeCounter

ACTIVATIONS = {
    "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "elu": torch.nn.ELU, "leaky_relu": torch.nn.LeakyReLU,
    "silu": torch.nn.SiLU,
}  # fmt: skip


def train(algorithm: type[BaseAlgorithm], settings: dict[str, Any], report: Report, log_dir: Path) -> Act:
    """Train until ``report`` returns False, then save ``model.zip``, which the algorithm's ``load`` takes.

    Where observations are normalized, ``normalize.pkl`` is saved beside it, which ``VecNormalize.load`` takes.
    """
    torch.set_num_threads(settings["threads"])
    env = make_env(settings)
    try:
        model = build(algorithm, settings, env)
        model.learn(sys.maxsize, callback=Counting(report, settings["batch_size"], env))
        model.save(log_dir / "model.zip")
        if isinstance(env, VecNormalize):
            env.save(str(log_dir / "normalize.pkl"))
    finally:
        env.close()
    return acting(model, env)


train_ppo = functools.partial(train, PPO)
train_sac = functools.partial(train, SAC)
train_td3 = functools.partial(train, TD3)


def acting(model: BaseAlgorithm, env: VecEnv) -> Act:
    """What the policy does now without noise, however it goes on learning."""
    normalized = normalizer(env)
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are replaced
        policy = type(model.policy)(**model.policy._get_constructor_parameters())
    policy.load_state_dict(model.policy.state_dict())

    def act(obs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(policy.predict(normalized(obs), deterministic=True)[0], np.float32)

    return act


def normalizer(env: VecEnv) -> Act:
    """What ``VecNormalize`` makes of observations now; without it nothing."""
    if not isinstance(env, VecNormalize):
        return lambda obs: obs
    assert isinstance(env.obs_rms, RunningMeanStd)
    mean, scale, most = env.obs_rms.mean.copy(), np.sqrt(env.obs_rms.var + env.epsilon), env.clip_obs
    return lambda obs: np.clip((obs - mean) / scale, -most, most).astype(np.float32)


class BatchedEnv(VecEnv):
    """An environment of this project behind Stable-Baselines3's interface; its physics threads are ``threads``."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._env = make(
            settings["env"], settings["n_envs"], env_cfg_override=settings["env_cfg"], seed=settings["seed"],
            num_threads=settings["threads"],
        )  # fmt: skip
        self._episodes = EpisodeCounter(self._env.num_envs)
        everything = spaces.Box(-np.inf, np.inf, (self._env.obs_dim,), np.float32)
        super().__init__(self._env.num_envs, everything, spaces.Box(self._env.action_low, self._env.action_high))

    def reset(self) -> Any:
        return self._env.reset()[0].copy()

    def step_async(self, actions: NDArray[np.float32]) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        result = self._env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = self._episodes.step(result.reward, result.final_ids)
        for row, final, (total, length) in zip(result.final_ids, result.final_obs, ended, strict=True):
            infos[row] = {
                "terminal_observation": final.copy(),
                "TimeLimit.truncated": bool(result.truncated[row] and not result.terminated[row]),
                "episode": {"r": float(total), "l": int(length)},
            }
        return result.obs.copy(), result.reward.copy(), result.terminated | result.truncated, infos

    def close(self) -> None:
        self._env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self._env, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("its environments have no attributes of their own")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("its environments have no methods of their own")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def make_env(settings: dict[str, Any]) -> VecEnv:
    name = gymnasium_id(settings["env"])
    if name is None:
        env: VecEnv = BatchedEnv(settings)
    else:
        kind = SubprocVecEnv if settings["vec_env"] == "subproc" else DummyVecEnv
        env = make_vec_env(
            name, settings["n_envs"], settings["seed"], env_kwargs=settings["env_cfg"], vec_env_cls=kind
        )  # fmt: skip
    normalize = settings["normalize"]
    return VecNormalize(env, norm_reward=normalize is True, gamma=settings["gamma"]) if normalize else env


def build(algorithm: type[BaseAlgorithm], settings: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
    given = constructor_arguments(settings)
    if settings.get("action_noise"):
        assert env.action_space.shape is not None
        size = env.action_space.shape[0]
        given["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, settings["action_noise"]))
    policy = {name: value for name, value in settings["policy"].items() if value is not None}
    if "activation_fn" in policy:
        policy["activation_fn"] = ACTIVATIONS[policy["activation_fn"]]
    return algorithm("MlpPolicy", env, policy_kwargs=policy, **given)


class Counting(BaseCallback):
    """Reports before each rollout, when all env steps so far were trained on; the first updates awaited."""

    def __init__(self, report: Report, batch_size: int, env: VecEnv) -> None:
        super().__init__()
        self._report, self._batch_size, self._env = report, batch_size, env
        self._more = True
        self._iteration = self._episodes = 0
        self._collecting = self._learning = 0.0

    def _on_training_start(self) -> None:
        self._changed = time.monotonic()
        if isinstance(self.model, PPO):
            self._updates = UpdateCounter(self.model.policy.optimizer)

    def _on_step(self) -> bool:
        self._episodes += sum("episode" in info for info in self.locals["infos"])
        return self._more and not self._report.stopping  # a rollout may take longer than a stop

    def _on_rollout_end(self) -> None:
        self._collecting += self._since_change()

    def _on_rollout_start(self) -> None:
        self._learning += self._since_change()
        if isinstance(self.model, PPO):  # what it calls updates are epochs
            updates, samples = self._updates.count, self.model._n_updates * self.model.n_steps * self.model.n_envs
        else:
            assert isinstance(self.model, OffPolicyAlgorithm)
            updates, samples = self.model._n_updates, self.model._n_updates * self._batch_size
        if updates == 0:
            return
        self._iteration += 1
        episodes = list(self.model.ep_info_buffer or ())
        returns, lengths = ([episode[key] for episode in episodes] for key in ("r", "l"))
        self._more = self._more and self._report(
            lambda: acting(self.model, self._env),
            **in_turns(self.model.num_timesteps, self._collecting, self._learning),
            iteration=self._iteration,
            updates=updates,
            samples=samples,
            episodes=self._episodes,
            episode_return=_mean(returns),
            episode_length=_mean(lengths),
            metrics={"latest_return": _mean(returns[-self.model.n_envs :])},
        )

    def _since_change(self) -> float:
        now = time.monotonic()
        spent, self._changed = now - self._changed, now
        return spent


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan

"""Trains unilab-rl's APPO in this project's environments.

The package trains again on rollouts that it keeps in a pool. Each rollout is counted once: at the end of an update,
those of the pool's rollouts that were not in an earlier update. Rollouts that its ring or its pool gives up before an
update saw them are not trained on and not counted.
"""

import math
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from uni_rl.algos.appo import runner as appo
from uni_rl.algos.appo.staging import TensorRolloutStagingPool

from harness.trainers.adapters.foreign import Act, Report, StopTraining, UpdateCounter
from harness.trainers.adapters.rsl_rl import acting, networks
from unilab.envs import make


class TensorEnv:
    """An environment of this project behind the tensor contract of ``uni_rl.env_contract``."""

    device = torch.device("cpu")
    produces_completion_receipts = False
    play_capabilities = SimpleNamespace(supports_physics_state_playback=False)

    def __init__(self, num_envs: int, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._env = make(
            settings["env"], num_envs, env_cfg_override=settings["env_cfg"], seed=settings["seed"],
            num_threads=settings["env_threads"],
        )  # fmt: skip
        self._low, self._high = torch.from_numpy(self._env.action_low), torch.from_numpy(self._env.action_high)
        self.num_envs = num_envs
        self.cfg = SimpleNamespace(max_episode_seconds=float(self._env.max_episode_steps or 0), ctrl_dt=1.0)
        self.obs_groups_spec = {"obs": self._env.obs_dim}
        self.observation_space = SimpleNamespace(shape=(self._env.obs_dim,))
        self.action_space = SimpleNamespace(shape=(self._env.action_dim,))
        self.state: SimpleNamespace | None = None

    def init_state(self) -> SimpleNamespace:
        obs, _ = self.reset(None)
        idle = torch.zeros(self.num_envs)
        self.state = SimpleNamespace(
            obs=obs, reward=idle, terminated=idle.bool(), truncated=idle.bool(), info={}, final_observation=None
        )
        return self.state

    def reset(self, env_indices: torch.Tensor | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        if env_indices is not None:
            raise NotImplementedError("environments reset themselves")
        obs, _ = self._env.reset(seed=self._settings["seed"])
        if self._settings["stagger_episodes"]:
            self._env.stagger()
        return {"obs": torch.from_numpy(obs)}, {}

    def step(self, actions: torch.Tensor) -> SimpleNamespace:
        result = self._env.step(actions.clamp(self._low, self._high).numpy())
        obs, final = torch.from_numpy(result.obs), None
        if len(result.final_ids):
            final = {"obs": obs.clone()}
            final["obs"][torch.from_numpy(result.final_ids)] = torch.from_numpy(result.final_obs)
        timed_out = result.truncated & ~result.terminated
        flags = {"reward": result.reward, "terminated": result.terminated, "truncated": timed_out}
        tensors = {name: torch.from_numpy(array) for name, array in flags.items()}
        self.state = SimpleNamespace(obs={"obs": obs}, info={}, final_observation=final, **tensors)
        return self.state

    def set_nan_guard(self, guard: object) -> None:
        """The environment has its own."""

    def close(self) -> None:
        self._env.close()


def make_env(num_envs: int, _cfg: Mapping[str, Any] | None, *, settings: dict[str, Any]) -> TensorEnv:
    """Called by the runner to learn the dimensions (one environment) and by its collector process."""
    if num_envs > 1:
        torch.set_num_threads(settings["inference_threads"])
    return TensorEnv(num_envs, settings)


class CountingPool(TensorRolloutStagingPool):
    """The staging pool, knowing how many of its rollouts no update has seen yet."""

    instance: "CountingPool"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        CountingPool.instance = self
        self._newest_seen = -1

    def take_new(self) -> int:
        new = sum(version > self._newest_seen for version in self.slot_versions)
        self._newest_seen = max(self.slot_versions)
        return new


class CountingRunner(appo.APPORunner):
    """APPORunner that reports after each update."""

    report: Report
    episode_return = math.nan
    episodes = 0
    """at least so many: readings of the return that differ"""

    def _build_learner(self) -> Any:
        self._learner = learner = super()._build_learner()
        self._update, self._updates = learner.update, UpdateCounter(learner.optimizer)
        self._iteration = self._env_steps = self._samples = 0
        self._began, self._busy = time.monotonic(), 0.0
        learner.update = self._update_and_report
        return learner

    def _update_and_report(self, batch: Any) -> Any:
        before = time.monotonic()
        metrics = self._update(batch)
        pool, now = CountingPool.instance, time.monotonic()
        rollout = self.num_envs * self.steps_per_env
        self._busy += now - before
        self._iteration += 1
        self._env_steps += pool.take_new() * rollout
        filled = sum(version >= 0 for version in pool.slot_versions)
        self._samples += filled * rollout * self._learner.num_learning_epochs
        more = self.report(
            self.act,
            iteration=self._iteration,
            updates=self._updates.count,
            samples=self._samples,
            env_steps=self._env_steps,
            collected_env_steps=self._env_steps,
            learner_busy_seconds=self._busy,
            learner_wait_seconds=now - self._began - self._busy,
            episodes=self.episodes,
            episode_return=self.episode_return,
        )
        if not more:
            raise StopTraining
        return metrics

    def _drain_metrics(self, queue: Any, reward_history: Any, *others: Any) -> None:
        super()._drain_metrics(queue, reward_history, *others)
        if reward_history and reward_history[-1] != self.episode_return:
            self.episode_return = float(reward_history[-1])
            self.episodes += 1

    def save(self, path: Path) -> None:
        torch.save(self._learner.get_state_dict(), path)

    def act(self) -> Act:
        return acting(self._learner.actor)


def train(settings: dict[str, Any], report: Report, log_dir: Path) -> Act:
    """Train until ``report`` returns False, then save the learner's state as ``model.pt``."""
    appo.TensorRolloutStagingPool = CountingPool  # its runner has no other way to say it
    torch.set_num_threads(settings["threads"])
    runner = CountingRunner(
        settings["env"],
        {},
        {**networks(settings), "algorithm": settings["algorithm"]},
        partial(make_env, settings=settings),
        device=settings["device"],
        collector_device=settings["collector_device"],
        num_envs=settings["num_envs"],
        steps_per_env=settings["steps_per_env"],
        replay_queue_size=settings["replay_queue_size"],
        seed=settings["seed"],
        log_interval=1000,
    )
    runner.report = report
    try:
        runner.learn(max_iterations=sys.maxsize, save_interval=0, log_dir=str(log_dir))
    except StopTraining:
        runner.save(log_dir / "model.pt")
    finally:
        runner.close()
    return runner.act()

"""Measures the package unilab-rl. Run by appo_vs_others.py, in that package's environment, with one JSON argument.

The package trains again on rollouts that it keeps in a pool. Counted here is each rollout once: at the end of an
update, those of the pool's rollouts that were not in an earlier update. Rollouts that its ring or its pool gives up
before an update saw them are not trained on and not counted.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from steady_window import SteadyWindow
from uni_rl.algos.appo import runner as appo
from uni_rl.algos.appo.staging import TensorRolloutStagingPool

from unilab.envs import make


class WindowOver(Exception):
    """Ends the training loop, which has no other way out than its number of iterations."""


class TensorEnv:
    """This project's HalfCheetah behind the tensor contract of ``uni_rl.env_contract``."""

    device = torch.device("cpu")
    produces_completion_receipts = False
    cfg = SimpleNamespace(max_episode_seconds=50.0, ctrl_dt=0.05)
    play_capabilities = SimpleNamespace(supports_physics_state_playback=False)

    def __init__(self, num_envs: int, env_threads: int) -> None:
        self._env = make("HalfCheetah", num_envs, seed=0, num_threads=env_threads)
        self.num_envs = num_envs
        self.obs_groups_spec = {"obs": self._env.obs_dim}
        self.observation_space = SimpleNamespace(shape=(self._env.obs_dim,))
        self.action_space = SimpleNamespace(shape=(self._env.action_dim,))
        self.state: SimpleNamespace | None = None

    def init_state(self) -> SimpleNamespace:
        obs, _ = self.reset(None)
        idle = torch.zeros(self.num_envs)
        self.state = _state(obs["obs"], idle, idle.bool(), idle.bool(), None)
        return self.state

    def reset(self, env_indices: torch.Tensor | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        if env_indices is not None:
            raise NotImplementedError("environments reset themselves")
        obs, _ = self._env.reset(seed=0)
        self._env.stagger()
        return {"obs": torch.from_numpy(obs)}, {}

    def step(self, actions: torch.Tensor) -> SimpleNamespace:
        result = self._env.step(actions.numpy())
        obs = torch.from_numpy(result.obs)
        final = None
        if len(result.final_ids):
            final = obs.clone()
            final[torch.from_numpy(result.final_ids)] = torch.from_numpy(result.final_obs)
        reward, terminated, truncated = map(_tensor, (result.reward, result.terminated, result.truncated))
        self.state = _state(obs, reward, terminated, truncated, final)
        return self.state

    def set_nan_guard(self, guard: object) -> None:
        """The environment has its own."""

    def close(self) -> None:
        self._env.close()


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


def _state(
    obs: torch.Tensor, reward: torch.Tensor, terminated: torch.Tensor, truncated: torch.Tensor, final: Any
) -> SimpleNamespace:
    final = None if final is None else {"obs": final}
    return SimpleNamespace(
        obs={"obs": obs}, reward=reward, terminated=terminated, truncated=truncated, info={}, final_observation=final
    )


def make_env(num_envs: int, _cfg: Mapping[str, Any] | None, *, env_threads: int, inference_threads: int) -> TensorEnv:
    """Called by the runner to learn the dimensions (one environment) and by its collector process."""
    if num_envs > 1:
        torch.set_num_threads(inference_threads)
    return TensorEnv(num_envs, env_threads)


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


class MeasuredRunner(appo.APPORunner):
    """APPORunner that reports to a steady window after each update."""

    window: SteadyWindow

    def _build_learner(self) -> Any:
        learner = super()._build_learner()
        update, trained = learner.update, 0

        def update_and_report(batch: Any) -> Any:
            nonlocal trained
            metrics = update(batch)
            trained += CountingPool.instance.take_new() * self.num_envs * self.steps_per_env
            if self.window.report(env_steps=trained):
                raise WindowOver
            return metrics

        learner.update = update_and_report
        return learner


def rl_config(job: dict[str, Any]) -> dict[str, Any]:
    network = {
        "class_name": "rsl_rl.models.MLPModel",
        "hidden_dims": job["hidden_dims"],
        "activation": job["activation"],
        "obs_normalization": True,
    }
    gaussian = {"class_name": "rsl_rl.modules.distribution.GaussianDistribution", "init_std": 1.0}
    return {
        "actor": network | {"distribution_cfg": gaussian},
        "critic": network,
        "algorithm": {
            "num_learning_epochs": job["epochs"],
            "num_mini_batches": job["minibatches"],
            "schedule": "adaptive",
            "enable_compile": False,
        },
    }


def main(job: dict[str, Any]) -> None:
    settings = job["settings"]
    appo.TensorRolloutStagingPool = CountingPool
    torch.set_num_threads(settings["learner_threads"])
    factory = partial(make_env, env_threads=settings["env_threads"], inference_threads=settings["inference_threads"])
    runner = MeasuredRunner(
        "HalfCheetah",
        {},
        rl_config(job),
        factory,
        device="cpu",
        num_envs=settings["num_envs"],
        steps_per_env=job["steps_per_env"],
        replay_queue_size=settings["replay_queue_size"],
        seed=0,
        log_interval=1000,
    )
    runner.window = SteadyWindow(job["warmup_seconds"], job["seconds"])
    with tempfile.TemporaryDirectory() as log_dir:
        try:
            runner.learn(max_iterations=sys.maxsize, save_interval=0, log_dir=log_dir)
        except WindowOver:
            pass
        finally:
            runner.close()
    runner.window.print_result()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""Trains rsl_rl's PPO in this project's environments."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

from harness.trainers.adapters.foreign import Act, Report, StopTraining, UpdateCounter, in_turns
from harness.trainers.adapters.rsl_rl import acting, networks
from unilab.envs import make
from unilab.run.acting import EpisodeCounter


class UnilabEnv(VecEnv):
    """An environment of this project behind rsl_rl's interface.

    Its observations and rewards are copies: rsl_rl keeps them beyond the next step.
    """

    device = "cpu"

    def __init__(self, settings: dict[str, Any]) -> None:
        self._env = make(
            settings["env"], settings["num_envs"], env_cfg_override=settings["env_cfg"], seed=settings["seed"],
            num_threads=settings["env_threads"],
        )  # fmt: skip
        self.num_envs, self.num_actions = self._env.num_envs, self._env.action_dim
        self.privileged = self._env.critic_dim > 0
        self.max_episode_length = self._env.max_episode_steps or sys.maxsize
        self.cfg = settings
        self.episodes = EpisodeCounter(self.num_envs)
        self._low, self._high = torch.from_numpy(self._env.action_low), torch.from_numpy(self._env.action_high)
        self._env.reset(seed=settings["seed"])
        if settings["stagger_episodes"]:
            self._env.stagger()
            self.episodes.discard_running()

    @property
    def episode_length_buf(self) -> torch.Tensor:
        return torch.from_numpy(self._env.elapsed_steps.copy())

    def get_observations(self) -> TensorDict:
        seen = {"policy": self._env.obs} | ({} if self._env.critic is None else {"critic": self._env.critic})
        copies = {name: torch.from_numpy(array).clone() for name, array in seen.items()}
        return TensorDict(copies, batch_size=self.num_envs)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        result = self._env.step(actions.clamp(self._low, self._high).numpy())
        self.episodes.step(result.reward, result.final_ids)
        done = torch.from_numpy(result.terminated | result.truncated)
        extras = {"time_outs": torch.from_numpy(result.truncated & ~result.terminated)}
        return self.get_observations(), torch.from_numpy(result.reward).clone(), done, extras

    def close(self) -> None:
        self._env.close()


def train(settings: dict[str, Any], report: Report, log_dir: Path) -> Act:
    """Train until ``report`` returns False, then save ``model.pt``, which ``OnPolicyRunner.load`` takes."""
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    env = UnilabEnv(settings)
    try:
        config = {
            **networks(settings),
            "algorithm": {"class_name": "rsl_rl.algorithms.PPO", **settings["algorithm"]},
            "num_steps_per_env": settings["num_steps_per_env"],
            "obs_groups": {
                "actor": ["policy"],
                "critic": ["critic" if env.privileged else "policy"],
            },
            "save_interval": sys.maxsize,
        }
        with (log_dir / "rsl_rl.log").open("w") as printed, redirect_stdout(printed):  # it prints its networks
            runner = OnPolicyRunner(env, config, log_dir=None, device=settings["device"])
        updates, collecting, learning = UpdateCounter(runner.alg.optimizer), 0.0, 0.0

        def log(*, it: int, collect_time: float, learn_time: float, loss_dict: dict[str, float], **_: Any) -> None:
            """Takes the place of what the runner calls after each iteration."""
            nonlocal collecting, learning
            collecting, learning = collecting + collect_time, learning + learn_time
            env_steps = (it + 1) * settings["num_envs"] * settings["num_steps_per_env"]
            more = report(
                lambda: acting(runner.alg.get_policy()),
                **in_turns(env_steps, collecting, learning),
                iteration=it + 1,
                updates=updates.count,
                samples=env_steps * settings["algorithm"]["num_learning_epochs"],
                episodes=env.episodes.finished,
                episode_return=env.episodes.mean_return,
                episode_length=env.episodes.mean_length,
                metrics={name: float(loss) for name, loss in loss_dict.items()},
            )
            if not more:
                raise StopTraining

        runner.logger.log = log
        try:
            runner.learn(sys.maxsize)
        except StopTraining:
            runner.save(str(log_dir / "model.pt"))
        return acting(runner.alg.get_policy())
    finally:
        env.close()

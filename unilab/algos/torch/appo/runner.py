"""The runner of asynchronous PPO: starts the collector, then learns from one rollout after another."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unilab.algos.torch.appo.actor_critic import build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.learner import APPOLearner
from unilab.algos.torch.appo.rollout_source import InProcessSource, ProcessSource, Rollout, RolloutSource, Weights
from unilab.algos.torch.evaluate import mean_return
from unilab.envs import EnvDims, env_dims
from unilab.ipc import AsyncRunner
from unilab.machine.devices import check_device, current_device, split_threads, usable_cores
from unilab.machine.thread_team import torch_threads_kept
from unilab.run.checkpoint import PARTS, Checkpoints, continue_learner, load_checkpoint, save_checkpoint
from unilab.run.loop import Check, OnIteration, TrainingRun, check_resumable, train
from unilab.run.progress import Progress, Summary
from unilab.run.seeding import derive_seed
from unilab.settings import combine, split_arguments
from unilab.tracing.spans import place, span, timeline

RENAMED = {"device": "learner_device"}
"""arguments that have other names than their settings"""
ALWAYS_FIXED = ("mode", "env", "sim_backend", "network", "obs_normalization", "seed")
FIXED = {
    "async": ALWAYS_FIXED,
    "sync": (*ALWAYS_FIXED, "num_envs", "env_cfg", "stagger_episodes"),
}
"""settings that a run which goes on cannot change; sync goes on in the very same environments"""


class APPORunner(AsyncRunner):
    """Trains with asynchronous PPO, or with the same parts in one process (``mode: sync``).

    ``rl_cfg`` holds settings of ``APPOConfig``, nested or dotted. An argument that is equal to its default, or an empty
    ``env_cfg_overrides``, states nothing: ``rl_cfg`` decides then, and where it has no such setting, the default.

    Raises:
        SettingsError: an unknown or impossible setting; or an argument and ``rl_cfg`` state different values.
        DeviceError: a device that this machine does not have.
    """

    def __init__(
        self,
        env_name: str,
        env_cfg_overrides: Mapping[str, Any] | None,
        rl_cfg: Mapping[str, Any],
        *,
        device: str | None = None,
        collector_device: str | None = None,
        sim_backend: str = "mujoco",
        num_envs: int = 4096,
    ) -> None:
        arguments = {
            "device": device,
            "collector_device": collector_device,
            "sim_backend": sim_backend,
            "num_envs": num_envs,
        }
        stated, unstated = split_arguments(APPORunner, arguments)
        sources: dict[str, Mapping[str, Any]] = {"the argument env_name": {"env": env_name}}
        if env_cfg_overrides:
            sources["the argument env_cfg_overrides"] = {"env_cfg": dict(env_cfg_overrides)}
        sources |= {f"the argument {name}": {RENAMED.get(name, name): value} for name, value in stated.items()}
        defaults = {name: value for name, value in unstated.items() if value is not None}
        config = combine(APPOConfig, sources | {"rl_cfg": rl_cfg}, defaults)
        check_device(config.learner_device, "learner_device")
        check_device(config.collector_device, "collector_device")
        self.threads = split_threads(config, usable_cores())
        self.config = dataclasses.replace(
            config,
            env_threads=self.threads.env,
            inference_threads=self.threads.inference,
            learner_threads=self.threads.learner,
        )
        super().__init__(
            config.env,
            config.env_cfg,
            dataclasses.asdict(self.config),
            device=config.learner_device,
            collector_device=config.collector_device,
            sim_backend=config.sim_backend,
            num_envs=config.num_envs,
        )

    @classmethod
    def from_config(cls, config: APPOConfig) -> "APPORunner":
        """A runner for a complete configuration."""
        return cls(config.env, None, dataclasses.asdict(config))

    def learn(
        self,
        max_iterations: int,
        save_interval: int = 50,
        log_dir: str | Path | None = "logs",
        *,
        logger_type: str = "tensorboard",
        max_seconds: float | None = None,
        on_iteration: OnIteration | None = None,
        resume: str | Path | None = None,
    ) -> Summary:
        """Train until ``max_iterations``, ``max_seconds``, a signal or ``on_iteration`` returning False.

        Args:
            max_iterations: in total, those before a resume included.
            save_interval: iterations between checkpoints; 0: only the last one, which is always saved. The default is
                thinned to one every ``save_seconds``. One is due after so many seconds in any case.
            log_dir: for checkpoints and metrics; None writes neither. A run that resumes nothing replaces the
                checkpoints that are there, with its first one.
            logger_type: where metrics go: tensorboard (events), wandb (if it is installed) or csv (``curve.csv``).
            max_seconds: wall time in total, that before a resume included.
            on_iteration: called with the progress after each iteration.
            resume: a checkpoint to continue, with every setting that was changed since; see ``FIXED`` for those
                that cannot change.

        Raises:
            SettingsError: another ``logger_type``.
            CheckpointError: ``resume`` cannot be read, or was saved with another value of a fixed setting.
            CollectorError: the collector failed or died; the last checkpoint is on disk.
            FloatingPointError: the update became non-finite; likewise.
        """
        config = place(self.config, log_dir)
        checkpoints = Checkpoints.of(config, log_dir, save_interval, resume)
        with torch_threads_kept(), current_device(config.learner_device), timeline("learner", config):
            return train(
                APPORun(self, config, log_dir, None if resume is None else Path(resume), logger_type),
                self,
                checkpoints,
                max_iterations=max_iterations,
                max_seconds=max_seconds,
                on_iteration=on_iteration,
            )


class APPORun(TrainingRun):
    """One call of ``APPORunner.learn``."""

    _config: APPOConfig

    def __init__(
        self,
        runner: APPORunner,
        config: APPOConfig,
        log_dir: str | Path | None,
        resume: Path | None,
        logger_type: str,
    ) -> None:
        saved = None if resume is None else load_checkpoint(resume, PARTS)
        if saved is not None and resume is not None:
            check_resumable(saved, config, FIXED[config.mode], resume)
        super().__init__(config, log_dir, saved, logger_type)
        torch.set_num_threads(runner.threads.inference)
        dims = env_dims(config.env, config.sim_backend, config.env_cfg)
        self._learner = build_learner(config, dims)
        if saved is not None and resume is not None:
            continue_learner(self._learner, saved["learner"], resume)
        state = None if saved is None else saved["collection"]
        self._source: RolloutSource
        if config.mode == "sync":
            self._source = InProcessSource(config, runner.threads, state, self.faults_path)
        else:
            log = None if self.directory is None else self.directory / "collector.log"
            self._source = ProcessSource(runner, config, dims, self._weights(), state, log, self.faults_path)
        self._version = self._source.publish(self._weights())

    def iterate(self, check: Check) -> Progress:
        """Learn from the next rollout and publish what was learned."""
        before = self.progress
        waiting_since = time.monotonic()
        rollout = self._source.next_rollout(check)
        learning_since = time.monotonic()
        lag = self._version - rollout.policy_version
        metrics = self._update(rollout, check)
        with span("weight_publish"):
            self._version = self._source.publish(self._weights())
        new = self._config.num_envs * self._config.steps_per_env
        self.advance(
            self._source.counters(),
            waiting_since=waiting_since,
            learning_since=learning_since,
            updates=self._learner.updates,
            samples=before.samples + new * self._config.algorithm.num_learning_epochs,
            env_steps=before.env_steps + new,
            policy_lag=lag,
            metrics=metrics,
        )
        return self.progress

    def _weights(self) -> Weights:
        return {"actor": self._learner.get_weights(), "critic": self._learner.get_critic_weights()}

    def play(self, check: Check) -> float:
        return mean_return(self._config, self._learner.get_weights(), check)

    def content(self) -> dict[str, Any]:
        return {"learner": self._learner.state_dict(), "collection": self._source.state_dict()}

    def _update(self, rollout: Rollout, check: Check) -> dict[str, float]:
        """Learn from the rollout; one that makes the update non-finite is kept beside the checkpoint."""
        try:
            return self._learner.update(rollout.fields, on_minibatch=check)
        except FloatingPointError as error:
            if self.directory is not None:
                path = self.directory / "failed_update.pt"
                save_checkpoint(path, self.checkpoint(rollout=rollout.fields))
                error.add_note(f"the rollout and the learner as they were are in {path}")
            raise

    def close(self) -> None:
        self._source.close()
        self._learner.close()


def build_learner(config: APPOConfig, dims: EnvDims) -> APPOLearner:
    """The learner that ``config`` describes, its networks drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "networks"))
        actor, critic = build_networks(config, dims)
    return APPOLearner(
        actor,
        critic,
        **dataclasses.asdict(config.algorithm),
        device=config.learner_device,
        num_threads=config.learner_threads or 1,
        dtype=config.learner_dtype,
        seed=derive_seed(config.seed, "minibatches"),
    )

"""The runner of asynchronous PPO: starts the collector, then learns from one rollout after another."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from unilab.algos.torch.appo.collection import (
    Collection,
    EnvDims,
    InProcessCollection,
    ProcessCollection,
    Rollout,
)
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.learner import APPOLearner
from unilab.algos.torch.appo.worker import build_networks
from unilab.envs import make
from unilab.ipc import AsyncRunner
from unilab.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from unilab.training.devices import check_device, split_threads, usable_cores
from unilab.training.fault_log import FaultLog
from unilab.training.metric_writer import MetricWriter
from unilab.training.progress import Progress, Summary
from unilab.training.seeding import derive_seed
from unilab.training.settings import parse
from unilab.training.signals import StopRequested, stop_on_signals

OnIteration = Callable[[Progress], bool]


class APPORunner(AsyncRunner):
    """Trains with asynchronous PPO, or with the same parts in one process (``mode: sync``).

    ``rl_cfg`` holds the settings of ``APPOConfig``, nested or dotted; the other arguments win over it.

    Raises:
        SettingsError: an unknown or impossible setting.
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
        given = {
            "env": env_name,
            "env_cfg": dict(env_cfg_overrides or {}),
            "sim_backend": sim_backend,
            "num_envs": num_envs,
        }
        if device is not None:
            given["learner_device"] = device
        if collector_device is not None:
            given["collector_device"] = collector_device
        config = parse(APPOConfig, {**rl_cfg, **given})
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
            env_name,
            env_cfg_overrides,
            dataclasses.asdict(self.config),
            device=config.learner_device,
            collector_device=config.collector_device,
            sim_backend=sim_backend,
            num_envs=num_envs,
        )

    @classmethod
    def from_config(cls, config: APPOConfig) -> "APPORunner":
        """A runner for a complete configuration."""
        return cls(
            config.env,
            config.env_cfg,
            dataclasses.asdict(config),
            sim_backend=config.sim_backend,
            num_envs=config.num_envs,
        )

    def learn(
        self,
        max_iterations: int,
        save_interval: int = 50,
        log_dir: str | Path | None = "logs",
        *,
        max_seconds: float | None = None,
        on_iteration: OnIteration | None = None,
        resume: str | Path | None = None,
    ) -> Summary:
        """Train until ``max_iterations``, ``max_seconds``, a signal or ``on_iteration`` returning False.

        Args:
            max_iterations: in total, those before a resume included.
            save_interval: iterations between checkpoints; the last one is always saved.
            log_dir: for checkpoints and TensorBoard events; None writes neither.
            max_seconds: wall time in total, that before a resume included.
            on_iteration: called with the progress after each iteration.
            resume: a checkpoint to continue; its networks must be those of this configuration.

        Raises:
            CheckpointError: ``resume`` cannot be read, or is of another mode, environment or network.
            CollectorError: the collector failed or died; the last checkpoint is on disk.
            FloatingPointError: the update became non-finite; likewise.
        """
        stopped_by = "iterations"
        with TrainingRun(self, log_dir, resume) as run, stop_on_signals(self.interrupt) as signals:

            def check() -> None:
                self.check_collectors()
                signals.check()

            try:
                while run.progress.iteration < max_iterations:
                    progress = run.iterate(check)
                    if progress.iteration % save_interval == 0:
                        run.save()
                    if on_iteration is not None and not on_iteration(progress):
                        stopped_by = "callback"
                        break
                    if max_seconds is not None and progress.wall_seconds >= max_seconds:
                        stopped_by = "seconds"
                        break
            except StopRequested as request:
                stopped_by = request.signal_name
            run.save()
        return Summary(run.progress, stopped_by, run.checkpoint_path)


class TrainingRun:
    """One call of ``learn``: the learner, its source of rollouts and the progress so far."""

    def __init__(self, runner: APPORunner, log_dir: str | Path | None, resume: str | Path | None) -> None:
        self._began = time.monotonic()
        saved = None if resume is None else load_checkpoint(Path(resume))
        self._config = runner.config
        if saved is not None:
            _check_resumable(saved["config"], _plain(self._config), Path(str(resume)))
        self.progress = Progress() if saved is None else Progress(**saved["progress"])
        self._wall_seconds_before = self.progress.wall_seconds
        directory = None if log_dir is None else Path(log_dir)
        self.checkpoint_path = None if directory is None else directory / "checkpoint.pt"
        torch.set_num_threads(runner.threads.inference)
        dims = env_dims(self._config)
        self._learner = build_learner(self._config, dims)
        if saved is not None:
            self._learner.load_state_dict(saved["learner"])
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        log = None if directory is None else directory / "collector.log"
        self._collection = self._collect(runner, dims, None if saved is None else saved["collection"], log)
        self._version = self._collection.publish(self._learner.get_weights())
        self._writer = MetricWriter(directory)
        self._faults = FaultLog(None if directory is None else directory / "faults.jsonl")

    def iterate(self, check: Callable[[], None]) -> Progress:
        """Learn from the next rollout and publish what was learned."""
        before = self.progress
        waiting_since = time.monotonic()
        rollout = self._collection.next_rollout(check)
        learning_since = time.monotonic()
        lag = self._version - rollout.policy_version
        metrics = self._update(rollout, check)
        self._version = self._collection.publish(self._learner.get_weights())
        now = time.monotonic()
        collector = self._collection.counters()
        iteration = before.iteration + 1
        self.progress = Progress(
            iteration=iteration,
            updates=self._learner.updates,
            env_steps=before.env_steps + self._config.num_envs * self._config.steps_per_env,
            collected_env_steps=collector.env_steps,
            wall_seconds=self._wall_seconds_before + now - self._began,
            learner_busy_seconds=before.learner_busy_seconds + now - learning_since,
            learner_wait_seconds=before.learner_wait_seconds + learning_since - waiting_since,
            collector_busy_seconds=collector.busy_seconds,
            collector_wait_seconds=collector.wait_seconds,
            episodes=collector.episodes,
            episode_return=collector.episode_return,
            episode_length=collector.episode_length,
            policy_lag=lag,
            policy_lag_mean=before.policy_lag_mean + (lag - before.policy_lag_mean) / iteration,
            dropped_rollouts=collector.dropped_rollouts,
            metrics=metrics | {"simulation_faults": float(collector.fault_count)},
        )
        self._writer.write(self.progress)
        self._faults.report(collector.fault_count, collector.faults)
        return self.progress

    def save(self) -> None:
        """Write the checkpoint, if this run has a directory."""
        if self.checkpoint_path is None:
            return
        save_checkpoint(self.checkpoint_path, self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "config": _plain(self._config),
            "learner": self._learner.state_dict(),
            "collection": self._collection.state_dict(),
            "progress": dataclasses.asdict(self.progress),
        }

    def _update(self, rollout: Rollout, check: Callable[[], None]) -> dict[str, float]:
        """Learn from the rollout; one that makes the update non-finite is kept beside the checkpoint."""
        try:
            return self._learner.update(rollout.fields, on_minibatch=check)
        except FloatingPointError as error:
            if self.checkpoint_path is not None:
                path = self.checkpoint_path.with_name("failed_update.pt")
                save_checkpoint(path, self._content() | {"rollout": rollout.fields})
                error.add_note(f"the rollout and the learner as they were are in {path}")
            raise

    def _collect(
        self, runner: APPORunner, dims: EnvDims, state: Mapping[str, Any] | None, log: Path | None
    ) -> Collection:
        if self._config.mode == "sync":
            return InProcessCollection(self._config, runner.threads, state)
        return ProcessCollection(runner, self._config, runner.rl_cfg, dims, self._learner.get_weights(), state, log)

    def __enter__(self) -> "TrainingRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._collection.close()
        self._learner.close()
        self._writer.close()


def env_dims(config: APPOConfig) -> EnvDims:
    """Sizes of the environment's observations and actions, from one instance that is closed again."""
    with make(config.env, 1, config.sim_backend, config.env_cfg, num_threads=1) as env:
        return EnvDims(env.obs_dim, env.action_dim, env.critic_dim)


def build_learner(config: APPOConfig, dims: EnvDims) -> APPOLearner:
    """The learner that ``config`` describes, its networks drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "networks"))
        actor, critic = build_networks(config, dims.obs, dims.action, dims.critic)
    return APPOLearner(
        actor,
        critic,
        **dataclasses.asdict(config.algorithm),
        device=config.learner_device,
        num_threads=config.learner_threads or 1,
        dtype=config.learner_dtype,
        seed=derive_seed(config.seed, "minibatches"),
    )


def _check_resumable(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    names = ["mode", "env", "policy", "obs_normalization"]
    if wanted["mode"] == "sync":  # which goes on in the very same environments
        names += ["num_envs", "env_cfg"]
    for name in names:
        if saved[name] != wanted[name]:
            raise CheckpointError(
                f"{path}: saved with {name} = {saved[name]}, this run has {wanted[name]}; "
                "use the saved value or start anew"
            )


def _plain(config: APPOConfig) -> dict[str, Any]:
    """The configuration in types that a checkpoint can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))

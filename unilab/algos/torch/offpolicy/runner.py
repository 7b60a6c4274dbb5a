"""The runner of SAC and TD3: a collector fills the replay buffer while the learner trains from it."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unilab.algos.torch.evaluate import mean_return
from unilab.algos.torch.offpolicy.arguments import check_learner, check_workers, divide_threads, settle
from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.learner import OffPolicyLearner
from unilab.algos.torch.offpolicy.sac import SAC
from unilab.algos.torch.offpolicy.td3 import TD3
from unilab.algos.torch.offpolicy.transition_source import CollectorSource, TransitionSource
from unilab.algos.torch.offpolicy.worker_source import WorkerSource
from unilab.envs import EnvDims, env_dims
from unilab.envs.unit_actions import require_continuous
from unilab.ipc import AsyncRunner
from unilab.ipc.replay_pipelines import build_pipeline
from unilab.machine.devices import check_device, current_device, usable_cores
from unilab.machine.thread_team import torch_threads_kept
from unilab.run.checkpoint import (
    PARTS,
    CheckpointError,
    Checkpoints,
    continue_learner,
    load_checkpoint,
    save_checkpoint,
)
from unilab.run.loop import Check, OnIteration, TrainingRun, check_resumable, train, trainer_name
from unilab.run.progress import Progress, Summary
from unilab.run.seeding import derive_seed
from unilab.settings import SettingsError
from unilab.tracing.spans import place, span, timeline

LEARNERS: dict[str, type[OffPolicyLearner]] = {"sac": SAC, "td3": TD3}
FIXED = (
    *("env", "env_cfg", "sim_backend", "num_envs", "sync_collection", "network", "obs_normalization", "seed"),
    *(f"algorithm.{name}" for name in ("n_step", "reward_scale", "num_critics", "num_atoms", "value_min", "value_max")),
)
"""settings that a run which goes on cannot change: its environments, networks and transitions are made for them"""


def compute_train_start_threshold(batch_size: int, learning_starts: int, num_envs: int) -> int:
    """Transitions that the replay buffer must hold before the first update: a batch, and ``learning_starts`` steps of
    all environments."""
    return max(batch_size, learning_starts * num_envs)


def replay_buffer_ready_for_learning(
    replay_buffer_size: int, *, batch_size: int, learning_starts: int, num_envs: int
) -> bool:
    """Whether the replay buffer holds enough transitions for the first update."""
    return replay_buffer_size >= compute_train_start_threshold(batch_size, learning_starts, num_envs)


def build_reward_comparison_metrics(reward_history: Sequence[float], smoothed_reward: float) -> dict[str, float]:
    """The metric that runs are compared by: the newest mean return of the last 100 episodes, as ``mean_ep100``.

    Args:
        reward_history: that mean after each iteration, at least the newest; empty before the first episode ended.
        smoothed_reward: what a display shows, perhaps smoothed over iterations. Without effect: a value that mixes
            episodes of different age with a display's settings must not decide between runs.
    """
    return {"mean_ep100": float(reward_history[-1])} if reward_history else {}


class OffPolicyRunner(AsyncRunner):
    """Trains SAC or TD3, with the collector in a process of its own, or with workers (``rl_cfg``'s ``workers``).

    ``from_config`` takes a complete configuration. Here, the arguments are the settings of that name in
    ``OffPolicyConfig``, with

    Args:
        learner: a ``SAC`` or ``TD3``, which stays the caller's to close; None: it is built.
        algo_type: sac or td3.
        replay_buffer_n: transitions that the replay buffer holds for each environment.
        device: the learner's; None: cpu.
        actor_hidden_dim: width of the two hidden layers of the actor; the critics' as well unless ``rl_cfg`` says.
        use_layer_norm: ``network.layer_norm``.
        actor_kwargs: other settings of ``network``, such as ``critic``.
        rl_cfg: settings, nested or dotted.

    An argument that is equal to its default states nothing: ``rl_cfg`` decides then; where it has no such setting, the
    learner's configuration; without a learner, the default. What the learner's configuration leaves at its own default
    may be stated otherwise, unless the learner was built with it.

    Raises:
        SettingsError: an unknown or impossible setting; or two of these state different values.
        DeviceError: a device that this machine does not have.
        ValueError: the learner was made for an environment of other sizes.
    """

    def __init__(
        self,
        learner: OffPolicyLearner | None,
        env_name: str,
        algo_type: str,
        num_envs: int = 4096,
        replay_buffer_n: int = 1024,
        batch_size: int = 8192,
        learning_starts: int = 0,
        updates_per_step: int = 8,
        policy_frequency: int = 4,
        sync_collection: bool = True,
        env_steps_per_sync: int = 1,
        device: str | None = None,
        actor_hidden_dim: int = 512,
        use_layer_norm: bool = True,
        obs_normalization: bool = False,
        sim_backend: str = "mujoco",
        env_cfg_override: Mapping[str, Any] | None = None,
        actor_kwargs: Mapping[str, Any] | None = None,
        seed: int | None = None,
        trace_enabled: bool = False,
        trace_output_dir: str | None = None,
        trace_thread_time: bool = False,
        trace_cuda_events: bool = True,
        *,
        rl_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = {
            "env_name": env_name,
            "num_envs": num_envs,
            "replay_buffer_n": replay_buffer_n,
            "batch_size": batch_size,
            "learning_starts": learning_starts,
            "updates_per_step": updates_per_step,
            "policy_frequency": policy_frequency,
            "sync_collection": sync_collection,
            "env_steps_per_sync": env_steps_per_sync,
            "device": device,
            "actor_hidden_dim": actor_hidden_dim,
            "use_layer_norm": use_layer_norm,
            "obs_normalization": obs_normalization,
            "sim_backend": sim_backend,
            "env_cfg_override": env_cfg_override or None,
            "actor_kwargs": actor_kwargs,
            "seed": seed,
            "trace_enabled": trace_enabled,
            "trace_output_dir": trace_output_dir,
            "trace_thread_time": trace_thread_time,
            "trace_cuda_events": trace_cuda_events,
        }
        theirs = None if learner is None else learner.config
        self._prepare(settle(OffPolicyRunner, algo_type, arguments, rl_cfg or {}, theirs), algo_type, learner)

    @classmethod
    def from_config(cls, config: OffPolicyConfig) -> "OffPolicyRunner":
        """A runner for a complete configuration, which builds its learner."""
        runner = cls.__new__(cls)
        algo_type = next(name for name, kind in CONFIGS.items() if isinstance(config, kind))
        runner._prepare(config, algo_type, None)
        return runner

    def _prepare(self, config: OffPolicyConfig, algo_type: str, learner: OffPolicyLearner | None) -> None:
        check_device(config.learner_device, "learner_device")
        check_device(config.collector_device, "collector_device")
        check_replay_capacity(config)
        check_workers(config)
        self.threads = divide_threads(config, usable_cores())
        self.algo_type = algo_type
        self.learner = learner
        self.config = dataclasses.replace(
            config,
            env_threads=self.threads.env,
            inference_threads=self.threads.inference,
            learner_threads=self.threads.learner,
        )
        if learner is not None:
            check_learner(learner, self.config)
        super().__init__(
            config.env,
            config.env_cfg,
            dataclasses.asdict(self.config),
            device=config.learner_device,
            collector_device=config.collector_device,
            sim_backend=config.sim_backend,
            num_envs=config.num_envs,
        )

    def learn(
        self,
        max_iterations: int = 1500,
        save_interval: int = 50,
        log_dir: str | Path | None = "logs",
        logger_type: str = "tensorboard",
        *,
        max_seconds: float | None = None,
        on_iteration: OnIteration | None = None,
        resume: str | Path | None = None,
    ) -> Summary:
        """Train until ``max_iterations``, ``max_seconds``, a signal or ``on_iteration`` returning False.

        An iteration is ``updates_per_step`` updates; steps with random actions before the first belong to the first.

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
            CollectorError, WorkerError: a collector or worker failed or died; the last checkpoint is on disk.
            FloatingPointError: the update became non-finite; likewise.
        """
        settings = place(self.config, log_dir)
        checkpoints = Checkpoints.of(settings, log_dir, save_interval, resume)
        with torch_threads_kept(), current_device(settings.learner_device), timeline("learner", settings):
            return train(
                OffPolicyRun(self, settings, log_dir, None if resume is None else Path(resume), logger_type),
                self,
                checkpoints,
                max_iterations=max_iterations,
                max_seconds=max_seconds,
                on_iteration=on_iteration,
            )


class OffPolicyRun(TrainingRun):
    """One call of ``OffPolicyRunner.learn``."""

    _config: OffPolicyConfig

    def __init__(
        self,
        runner: OffPolicyRunner,
        config: OffPolicyConfig,
        log_dir: str | Path | None,
        resume: Path | None,
        logger_type: str,
    ) -> None:
        saved = None if resume is None else load_checkpoint(resume, PARTS)
        self._changed: frozenset[str] = frozenset()
        if saved is not None and resume is not None:
            goes_on = config.sync_collection and config.workers.kind == "collector"  # in the very same episodes
            fixed = (*FIXED, "stagger_episodes") if goes_on else FIXED
            self._changed = check_resumable(saved, config, fixed, resume)
        super().__init__(config, log_dir, saved, logger_type)
        self._runner = runner
        with contextlib.ExitStack() as self._owned:  # what has been made is closed if the next thing fails
            self._build(runner, saved, resume)
            self._owned = self._owned.pop_all()

    def _build(self, runner: OffPolicyRunner, saved: Mapping[str, Any] | None, resume: Path | None) -> None:
        config = self._config
        dims = env_dims(config.env, config.sim_backend, config.env_cfg)
        require_continuous(config.env, dims, trainer_name(config).upper())
        self._learner = runner.learner or self._own(build_learner(config, runner.algo_type, dims))
        if saved is not None and resume is not None:
            continue_learner(self._learner, saved["learner"], resume)
        state = None if saved is None else saved["collection"]
        self._source: TransitionSource
        if config.workers.kind == "collector":
            log = None if self.directory is None else self.directory / "collector.log"
            weights = self._learner.get_weights()
            self._source = self._own(
                CollectorSource(runner, config, runner.algo_type, dims, weights, state, log, self.faults_path)
            )
        else:
            self._source = self._own(WorkerSource(runner, config, dims, state))
        self._pipeline = self._own(
            build_pipeline(
                config.pipeline,
                self._source.replay,
                config.batch_size,
                config.learner_device,
                seed=derive_seed(config.seed, "device replay"),
            )
        )
        self._normalized = self._source.replay.written  # rows that the normalizers have seen
        self._env_steps = self.progress.env_steps
        self._acted_ago = 0
        if saved is not None:
            self._restore(saved)
        self._version = self._source.acted_version = self._source.publish(self._learner.get_weights())

    def _own(self, part: Any) -> Any:
        """Have ``close`` end it; the newest first."""
        self._owned.callback(part.close)
        return part

    def _restore(self, saved: Mapping[str, Any]) -> None:
        run = saved["run"]
        if len(self._source.replay):
            if self._changed.isdisjoint(("pipeline", "batch_size", "learner_device")):  # else the batches are others
                try:
                    self._pipeline.load_state_dict(saved["pipeline"])
                except ValueError as error:
                    raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error
            self._normalized = run["normalized"]
        self._env_steps, self._acted_ago = run["env_steps"], run["acted_ago"]

    def iterate(self, check: Check) -> Progress:
        """Take new transitions, have the next ones made, and train meanwhile."""
        config, source, before = self._config, self._source, self.progress

        def look() -> None:  # while there is not enough to learn from, which may be because every step fails
            check()
            self.report_faults(source.counters())

        waiting_since = time.monotonic()
        ready = False
        with span("wait"):
            while not ready:
                fresh = source.take(look, self._ready)
                check()
                self._pipeline.refresh()
                if config.sync_collection:
                    self._env_steps += fresh * config.num_envs * config.env_steps_per_sync
                    source.replay.hold(config.lead_rows)
                ready = self._ready()
                self._normalize()
                if config.sync_collection:
                    # Weights change only here, while nobody acts: what acts does not depend on timing.
                    self._publish()
                if fresh:
                    self._acted_ago = self._version - source.acted_version
                source.proceed()
                if not ready:
                    look()
        learning_since = time.monotonic()
        for _ in range(config.updates_per_step):
            check()
            batch = self._pipeline.next_batch()
            with span("update"):
                self._learner.update(batch)
        try:
            metrics = self._learner.metrics()
        except FloatingPointError as error:
            if self.directory is not None:
                path = self.directory / "failed_update.pt"
                save_checkpoint(path, {"learner": self._learner.state_dict(), "updates": self._learner.updates})
                error.add_note(f"the learner as it was is in {path}")
            raise
        if not config.sync_collection:
            self._publish()
        counters = source.counters()
        mean_return = counters.episode_return
        compared = build_reward_comparison_metrics([mean_return] if counters.episodes else [], mean_return)
        self.advance(
            counters,
            waiting_since=waiting_since,
            learning_since=learning_since,
            updates=before.updates + config.updates_per_step,
            samples=before.samples + config.updates_per_step * config.batch_size,
            env_steps=self._env_steps if config.sync_collection else counters.env_steps,
            policy_lag=self._acted_ago,
            metrics=metrics | compared | {"replay_rows": float(len(source.replay))},
        )
        return self.progress

    def _ready(self) -> bool:
        return replay_buffer_ready_for_learning(
            len(self._source.replay),
            batch_size=self._config.batch_size,
            learning_starts=self._config.learning_starts,
            num_envs=self._config.num_envs,
        )

    def _normalize(self) -> None:
        """Merge the observations that are new into the learner's running statistics, each once."""
        if not self._config.obs_normalization:
            return
        replay = self._source.replay
        written = replay.written
        fields = replay.fields(replay.rows(self._normalized, written).to(self._config.learner_device))
        self._learner.update_normalizers(fields["obs"], fields.get("critic"))
        self._normalized = written

    def _publish(self) -> None:
        with span("weight_publish"):
            self._version = self._source.publish(self._learner.get_weights())

    def play(self, check: Check) -> float:
        return mean_return(self._config, self._learner.get_weights(), check)

    def content(self) -> dict[str, Any]:
        self._pipeline.refresh()
        pipeline = self._pipeline.state_dict()  # before the buffer's: see ReplayPipeline
        return {
            "learner": self._learner.state_dict(),
            "collection": self._source.state_dict(self._runner.check_collectors, with_rows=self._config.save_replay),
            "pipeline": pipeline,
            "run": {"normalized": self._normalized, "env_steps": self._env_steps, "acted_ago": self._acted_ago},
        }

    def close(self) -> None:
        self._owned.close()


def build_learner(config: OffPolicyConfig, algo_type: str, dims: EnvDims) -> OffPolicyLearner:
    """The learner that ``config`` describes, its networks drawn from the run's seed."""
    return LEARNERS[algo_type](config, dims.obs, dims.action, dims.critic)


def check_replay_capacity(config: OffPolicyConfig) -> None:
    """Refuse a replay buffer that never fills to where learning starts.

    Raises:
        SettingsError: with the smallest capacity that does.
    """
    start = compute_train_start_threshold(config.batch_size, config.learning_starts, config.num_envs)
    needed = max(start, config.num_envs) + config.lead_rows
    if config.replay_capacity < needed:
        raise SettingsError(
            "replay_capacity",
            f"{config.replay_capacity} transitions are too few: learning starts at {start}, and "
            f"{config.lead_rows} more are added meanwhile; use at least {needed}",
        )

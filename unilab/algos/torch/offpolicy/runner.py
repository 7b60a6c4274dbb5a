"""The runner of SAC and TD3: a collector fills the replay buffer while the learner trains from it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from unilab.algos.torch.offpolicy.config import (
    CONFIGS,
    OffPolicyConfig,
    SACConfig,
    check,
    compute_train_start_threshold,
    divide_threads,
)
from unilab.algos.torch.offpolicy.learner import OffPolicyLearner
from unilab.algos.torch.offpolicy.sac import SAC
from unilab.algos.torch.offpolicy.td3 import TD3
from unilab.algos.torch.offpolicy.transition_source import CollectorSource, TransitionSource
from unilab.algos.torch.offpolicy.worker_source import WorkerSource
from unilab.algos.torch.runner import Runner
from unilab.envs import EnvDims, env_dims
from unilab.envs.unit_actions import require_continuous
from unilab.ipc.replay_pipelines import build_pipeline
from unilab.machine.devices import Threads, usable_cores
from unilab.run.checkpoint import restoring
from unilab.run.loop import Check, TrainingRun, trainer_name
from unilab.run.seeding import derive_seed
from unilab.settings import SettingsError, changed, combine, flatten, from_arguments, nearest
from unilab.tracing.spans import span

FIXED = (
    *("env", "env_cfg", "sim_backend", "num_envs", "sync_collection", "network", "obs_normalization", "seed"),
    *(f"algorithm.{name}" for name in ("n_step", "reward_scale", "num_critics", "num_atoms", "value_min", "value_max")),
)
"""settings that a run which goes on cannot change: its environments, networks and transitions are made for them"""
RENAMED = {
    "env_name": "env",
    "env_cfg_override": "env_cfg",
    "device": "learner_device",
    "policy_frequency": "algorithm.policy_frequency",
    "use_layer_norm": "network.layer_norm",
}
"""arguments that have other names than their settings"""
BUILT_IN = ("batch_size", "learner_device", "learner_dtype", "obs_normalization", "network.", "algorithm.")
"""settings, or groups of them, that a learner cannot change once it is built"""


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


class OffPolicyRun(TrainingRun):
    """One call of ``OffPolicyRunner.learn``."""

    _config: OffPolicyConfig
    _learner: OffPolicyLearner

    @staticmethod
    def fixed(config: OffPolicyConfig) -> Sequence[str]:
        goes_on = config.sync_collection and config.workers.kind == "collector"  # in the very same episodes
        return (*FIXED, "stagger_episodes") if goes_on else FIXED

    def make_learner(self, dims: EnvDims) -> OffPolicyLearner:
        require_continuous(self._config.env, dims, trainer_name(self._config).upper())
        learner: OffPolicyLearner = self._runner.learner or self.own(build_learner(self._config, dims))
        return learner

    def begin(self, dims: EnvDims, saved: Mapping[str, Any] | None) -> None:
        config, runner = self._config, self._runner
        state = None if saved is None else saved["collection"]
        self._source: TransitionSource
        if config.workers.kind == "collector":
            weights = self._learner.get_weights()
            self._source = CollectorSource(runner, config, dims, weights, state, self._log, self.faults_path)
        else:
            self._source = WorkerSource(runner, config, dims, state)
        self.own(self._source)
        self._pipeline = self.own(
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
            with restoring():
                run = saved["run"]
                if len(self._source.replay):
                    # otherwise it goes on with other batches; what auto stands for depends on the device's free memory
                    alike = saved["pipeline"].get("kind") == self._pipeline.KIND
                    if alike and self._changed.isdisjoint(("batch_size", "learner_device")):
                        self._pipeline.load_state_dict(saved["pipeline"])
                    self._normalized = run["normalized"]
                self._env_steps, self._acted_ago = run["env_steps"], run["acted_ago"]
        self._version = self._source.acted_version = self._source.publish(self._learner.get_weights())

    def iterate(self, check: Check) -> None:
        """Take new transitions, order the next ones, and train meanwhile."""
        config, source, before = self._config, self._source, self.progress

        def check_and_report() -> None:  # there is not enough to learn from, perhaps because every step fails
            check()
            self.faults.report(source.counters())

        waiting_since = time.monotonic()
        ready = False
        with span("wait"):
            while not ready:
                fresh = source.take(check_and_report, self._ready)
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
                check()  # not before the steps that were taken are counted
                source.proceed()
                if not ready:
                    check_and_report()
        learning_since = time.monotonic()
        for _ in range(config.updates_per_step):
            check()
            batch = self._pipeline.next_batch()
            with span("update"):
                self._learner.update(batch)
        with self.kept_if_not_finite():
            metrics = self._learner.metrics()
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

    def content(self) -> dict[str, Any]:
        self._pipeline.refresh()
        pipeline = self._pipeline.state_dict()  # before the buffer's: see ReplayPipeline
        return {
            "learner": self._learner.state_dict(),
            "collection": self._source.state_dict(self._runner.check_collectors, with_rows=self._config.save_replay),
            "pipeline": pipeline,
            "run": {
                "normalized": self._normalized,
                "env_steps": self._env_steps,
                "acted_ago": self._acted_ago,
            },
        }


class OffPolicyRunner(Runner):
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

    run_type = OffPolicyRun
    learner: OffPolicyLearner | None = None
    """of the caller"""

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
        arguments = dict(locals()) | {"env_cfg_override": env_cfg_override or None}
        for name in ("self", "learner", "algo_type", "rl_cfg"):
            del arguments[name]
        if algo_type not in CONFIGS:
            raise SettingsError("algo_type", f"unknown algorithm '{algo_type}'; {nearest(algo_type, CONFIGS)}")
        kind = CONFIGS[algo_type]
        if learner is not None and not isinstance(learner.config, kind):
            theirs = trainer_name(learner.config)
            raise SettingsError("algo_type", f"is {algo_type}, and the learner's is {theirs}; use the same")

        def settings_of(name: str, value: Any) -> dict[str, Any]:
            match name:
                case "actor_hidden_dim":
                    return {"network.actor": (value, value)}
                case "actor_kwargs":
                    return {f"network.{key}": inner for key, inner in (value or {}).items()}
                case "replay_buffer_n":  # says something only together with num_envs
                    return {}
            return {} if value is None else {RENAMED.get(name, name): value}

        sources, defaults = from_arguments(OffPolicyRunner, arguments, settings_of)
        sources["rl_cfg"] = rl_cfg or {}
        if learner is None:
            defaults["network.critic"] = (actor_hidden_dim,) * 2
        else:
            defaults = flatten(learner.config)
            fixed = {name: value for name, value in defaults.items() if name.startswith(BUILT_IN)}
            sources["the learner's configuration"] = changed(learner.config) | fixed
        capacity = {"replay_capacity": replay_buffer_n * combine(kind, sources, defaults).num_envs}
        if "the argument replay_buffer_n" in sources:
            sources["the argument replay_buffer_n"] = capacity
        elif learner is None:
            defaults |= capacity
        self.learner = learner
        self._settle(combine(kind, sources, defaults))

    def _settle(self, config: OffPolicyConfig, threads: Threads | None = None) -> None:
        check(config)
        super()._settle(config, divide_threads(config, usable_cores()))
        if self.learner is None:
            return
        dims = env_dims(config.env, config.sim_backend, config.env_cfg)
        if self.learner.dims != dims:
            both = self.learner.dims, dims
            made, needed = (f"observation {one.obs}, action {one.action}, critic {one.critic}" for one in both)
            raise ValueError(f"OffPolicyRunner: the learner was made for {made}; '{config.env}' has {needed}")


def build_learner(config: OffPolicyConfig, dims: EnvDims) -> OffPolicyLearner:
    """The learner that ``config`` describes, its networks drawn from the run's seed."""
    return (SAC if isinstance(config, SACConfig) else TD3)(config, dims.obs, dims.action, dims.critic)  # type: ignore

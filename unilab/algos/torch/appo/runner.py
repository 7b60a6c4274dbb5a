"""The runner of asynchronous PPO: starts the collector, then learns from one rollout after another."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from unilab.algos.torch.appo.actor_critic import build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.learner import APPOLearner
from unilab.algos.torch.appo.rollout_source import CollectorSource, InProcessSource, Weights
from unilab.algos.torch.runner import Runner
from unilab.envs import EnvDims
from unilab.run.loop import Check, TrainingRun
from unilab.run.seeding import derive_seed
from unilab.settings import combine, from_arguments
from unilab.tracing.spans import span

RENAMED = {"env_name": "env", "env_cfg_overrides": "env_cfg", "device": "learner_device"}
"""arguments that have other names than their settings"""
FIXED = ("mode", "env", "sim_backend", "network", "obs_normalization", "seed")
"""settings that a run which goes on cannot change"""


class APPORun(TrainingRun):
    """One call of ``APPORunner.learn``."""

    _config: APPOConfig
    _learner: APPOLearner

    @staticmethod
    def fixed(config: APPOConfig) -> Sequence[str]:
        goes_on = config.mode == "sync"  # in the very same environments
        return (*FIXED, "num_envs", "env_cfg", "stagger_episodes") if goes_on else FIXED

    def make_learner(self, dims: EnvDims) -> APPOLearner:
        torch.set_num_threads(self._runner.threads.inference)
        learner: APPOLearner = self.own(build_learner(self._config, dims))
        return learner

    def begin(self, dims: EnvDims, saved: Mapping[str, Any] | None) -> None:
        state = None if saved is None else saved["collection"]
        self._source: InProcessSource | CollectorSource
        if self._config.mode == "sync":
            self._source = InProcessSource(self._config, state, self.faults_path)
        else:
            self._source = CollectorSource(
                self._runner, self._config, dims, self._weights(), state, self._log, self.faults_path
            )
        self.own(self._source)
        self._publish()

    def iterate(self, check: Check) -> None:
        """Learn from the next rollout and publish what was learned.

        In ``async`` mode the weights are published after each pass over the rollout. The collector takes them before
        its next step: the rollout that it makes meanwhile is less than an iteration behind.
        """
        before = self.progress
        waiting_since = time.monotonic()
        rollout, acted_version = self._source.next_rollout(check)
        learning_since = time.monotonic()
        publications = self._config.publications
        lag = (self._version - acted_version) / publications
        with self.kept_if_not_finite(rollout=rollout):
            metrics = self._learner.update(
                rollout, on_minibatch=check, on_epoch=self._publish if publications > 1 else None
            )
        self._publish()
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

    def _publish(self) -> None:
        with span("weight_publish"):
            self._version = self._source.publish(self._weights())

    def _weights(self) -> Weights:
        return {"actor": self._learner.get_weights(), "critic": self._learner.get_critic_weights()}

    def content(self) -> dict[str, Any]:
        return {"learner": self._learner.state_dict(), "collection": self._source.state_dict()}


class APPORunner(Runner):
    """Trains with asynchronous PPO, or with the same parts in one process (``mode: sync``).

    ``rl_cfg`` holds settings of ``APPOConfig``, nested or dotted. An argument that is equal to its default, or an empty
    ``env_cfg_overrides``, states nothing: ``rl_cfg`` decides then, and where it has no such setting, the default.
    ``from_config`` takes a complete configuration.

    Raises:
        SettingsError: an unknown or impossible setting; or an argument and ``rl_cfg`` state different values.
        DeviceError: a device that this machine does not have.
    """

    run_type = APPORun

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
        arguments = dict(locals()) | {"env_cfg_overrides": env_cfg_overrides or None}
        del arguments["self"], arguments["rl_cfg"]

        def settings_of(name: str, value: Any) -> dict[str, Any]:
            return {} if value is None else {RENAMED.get(name, name): value}

        sources, defaults = from_arguments(APPORunner, arguments, settings_of)
        self._settle(combine(APPOConfig, sources | {"rl_cfg": rl_cfg}, defaults))


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

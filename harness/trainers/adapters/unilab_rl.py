"""The package unilab-rl (import name ``uni_rl``): its asynchronous PPO, in this project's environments.

Settings are those of its runner and its configuration, with their defaults (version 1.4), but for
``algorithm.enable_compile``: compilation takes longer than a short measurement.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.trainers.adapters.rsl_rl import GaussianTrainer, ProximalConfig, RunnerConfig
from unilab.run.config import Fraction, PositiveFloat, PositiveInt
from unilab.settings import Placement


@dataclass(frozen=True)
class APPOAlgorithmConfig(ProximalConfig):
    """``uni_rl.algos.appo.learner.APPOLearner``."""

    schedule: Literal["adaptive", "fixed"] = "fixed"
    adaptive_kl_factor: PositiveFloat = 1.2
    adaptive_lr_factor: PositiveFloat = 1.1
    tau: Fraction = 1.0
    target_update_freq: PositiveInt = 1
    vtrace_clip_rho: PositiveFloat = 1.0
    vtrace_clip_c: PositiveFloat = 1.0
    enable_compile: Placement[bool] = False


@dataclass(frozen=True)
class APPOConfig(RunnerConfig):
    """A run of ``uni_rl.algos.appo.runner.APPORunner``; ``device`` and ``threads`` are the learner's.

    Its returns count the short first episodes of ``stagger_episodes``, too.
    """

    num_envs: PositiveInt = 1024
    steps_per_env: PositiveInt = 24
    """env steps of one rollout, in each environment"""
    replay_queue_size: PositiveInt = 3
    """rollouts that an update trains on"""
    collector_device: Placement[str] = "cpu"
    inference_threads: Placement[PositiveInt] = 1
    """of PyTorch's operations in the collector"""
    algorithm: APPOAlgorithmConfig = field(default_factory=APPOAlgorithmConfig)


class APPO(GaussianTrainer):
    """Asynchronous PPO with V-trace."""

    device_settings = ("device", "collector_device")
    config_type = APPOConfig
    driver = "harness.trainers.adapters.drivers.unilab_rl:train"
    package, extra = "uni_rl", "unilab-rl"

    def warmup_iterations(self, settings: Mapping[str, Any]) -> int:
        """Updates train on a growing pool until it is full."""
        return int((self.defaults() | dict(settings))["replay_queue_size"])

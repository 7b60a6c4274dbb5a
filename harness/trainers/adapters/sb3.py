"""Stable-Baselines3 (Raffin et al., JMLR 2021): PPO, SAC and TD3 with gymnasium's environments.

Settings are the arguments of its constructors, with its defaults (version 2.9), besides those of ``SB3Config``.
``policy.*`` are its ``policy_kwargs``.
"""

import importlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.trainers.adapters.foreign import ForeignConfig, ForeignTrainer
from unilab.envs import names
from unilab.run.config import STRICT, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from unilab.settings import Placement

Activation = Literal["tanh", "relu", "elu", "leaky_relu", "silu"]


@dataclass(frozen=True)
class PolicyKwargs:
    """None: as the algorithm has it."""

    __pydantic_config__ = STRICT

    net_arch: tuple[PositiveInt, ...] | dict[str, tuple[PositiveInt, ...]] | None = None
    """widths of the hidden layers, of all networks or by network: {pi: [...], vf: [...]}"""
    activation_fn: Activation | None = None


@dataclass(frozen=True)
class PPOPolicyKwargs(PolicyKwargs):
    """As above."""

    log_std_init: float | None = None
    ortho_init: bool | None = None


@dataclass(frozen=True)
class SB3Config(ForeignConfig):
    """What the three algorithms have in common.

    ``env`` is a gymnasium id; the names of this project's tasks stand for those that they were made after
    (HalfCheetah: HalfCheetah-v5). ``env_cfg`` are arguments of ``gymnasium.make``. Robots, which gymnasium does not
    have, are this project's own: all are stepped together, and ``vec_env`` has no meaning.
    """

    n_envs: PositiveInt = 1
    vec_env: Placement[Literal["dummy", "subproc"]] = "dummy"
    """environments one after the other in the learner's process, or each in a process of its own"""
    normalize: bool | Literal["observations"] = False
    """``VecNormalize`` of observations, and if true of the rewards that are learned from; returns stay the task's"""
    gamma: Fraction = 0.99
    stats_window_size: PositiveInt = 100
    """finished episodes that the return is a mean of"""
    policy: PolicyKwargs = field(default_factory=PolicyKwargs)


@dataclass(frozen=True)
class PPOConfig(SB3Config):
    learning_rate: PositiveFloat = 3e-4
    n_steps: PositiveInt = 2048
    """env steps of one rollout, in each environment"""
    batch_size: PositiveInt = 64
    n_epochs: PositiveInt = 10
    gae_lambda: Fraction = 0.95
    clip_range: PositiveFloat = 0.2
    clip_range_vf: PositiveFloat | None = None
    normalize_advantage: bool = True
    ent_coef: NonNegativeFloat = 0.0
    vf_coef: NonNegativeFloat = 0.5
    max_grad_norm: PositiveFloat = 0.5
    use_sde: bool = False
    sde_sample_freq: int = -1
    target_kl: PositiveFloat | None = None
    policy: PPOPolicyKwargs = field(default_factory=PPOPolicyKwargs)


@dataclass(frozen=True)
class OffPolicyConfig(SB3Config):
    """What SAC and TD3 have in common."""

    learning_rate: PositiveFloat = 3e-4
    buffer_size: PositiveInt = 1_000_000
    learning_starts: NonNegativeInt = 100
    """env steps with random actions before the first update"""
    batch_size: PositiveInt = 256
    tau: Fraction = 0.005
    train_freq: PositiveInt = 1
    """steps of all environments between two trainings"""
    gradient_steps: int = 1
    """updates of one training; -1: as many as env steps were made"""
    optimize_memory_usage: bool = False
    n_steps: PositiveInt = 1
    action_noise: NonNegativeFloat = 0.0
    """standard deviation of Gaussian noise on the actions; 0: none, its default"""


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    ent_coef: PositiveFloat | str = "auto"
    target_update_interval: PositiveInt = 1
    target_entropy: float | Literal["auto"] = "auto"
    use_sde: bool = False
    sde_sample_freq: int = -1
    use_sde_at_warmup: bool = False


@dataclass(frozen=True)
class TD3Config(OffPolicyConfig):
    learning_rate: PositiveFloat = 1e-3
    policy_delay: PositiveInt = 2
    target_policy_noise: NonNegativeFloat = 0.2
    target_noise_clip: NonNegativeFloat = 0.5


class SB3Trainer(ForeignTrainer):
    """One algorithm of Stable-Baselines3."""

    package, extra = "stable_baselines3", "sb3"

    def evaluated_in(self, config: ForeignConfig) -> str:
        return gymnasium_id(config.env) or config.env


class PPO(SB3Trainer):
    """Proximal policy optimization; synchronous."""

    config_type = PPOConfig
    driver = "harness.trainers.adapters.drivers.sb3:train_ppo"


class SAC(SB3Trainer):
    """Soft actor-critic; synchronous."""

    config_type = SACConfig
    driver = "harness.trainers.adapters.drivers.sb3:train_sac"


class TD3(SB3Trainer):
    """Twin delayed deep deterministic policy gradients; synchronous."""

    config_type = TD3Config
    driver = "harness.trainers.adapters.drivers.sb3:train_td3"


def gymnasium_id(env: str) -> str | None:
    """``env`` itself, or with the version of gymnasium's task that ours of that name was made after; None: it is an
    environment of this project, or one that ``unilab.envs.make`` makes."""
    import gymnasium

    module, colon, name = env.rpartition(":")
    if colon:
        with suppress(ModuleNotFoundError):  # this project's own error says more
            importlib.import_module(module)
        return env if name in gymnasium.registry else None
    if env in gymnasium.registry:
        return env
    if f"{env}-v5" in gymnasium.registry:
        return f"{env}-v5"
    if env in names():
        return None
    raise ValueError(f"Stable-Baselines3 knows no environment '{env}': neither gymnasium nor this project has it")


def constructor_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that go to the constructor of an algorithm under the same name."""
    own = {"env", "env_cfg", "threads", "python", "n_envs", "vec_env", "normalize", "action_noise", "policy"}
    return {name: value for name, value in settings.items() if name not in own}

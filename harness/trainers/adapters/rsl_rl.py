"""rsl_rl (Schwarke et al., arXiv:2509.10771): its PPO, in this project's environments.

Settings are those of its configuration, with the defaults of its classes (version 5.5).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.trainers.adapters.foreign import Act, ForeignConfig, ForeignTrainer
from unilab.envs import env_dims, names
from unilab.envs.unit_actions import require_continuous
from unilab.run.config import STRICT, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from unilab.settings import Placement, parse


@dataclass(frozen=True)
class MLPConfig:
    """A critic: ``rsl_rl.models.MLPModel``."""

    __pydantic_config__ = STRICT

    hidden_dims: tuple[PositiveInt, ...] = (256, 256, 256)
    activation: str = "elu"
    obs_normalization: bool = False


@dataclass(frozen=True)
class ActorConfig(MLPConfig):
    """An actor: ``rsl_rl.models.MLPModel`` with a Gaussian distribution."""

    init_std: PositiveFloat = 1.0
    std_type: Literal["scalar", "log"] = "scalar"


@dataclass(frozen=True)
class ProximalConfig:
    """Settings that rsl_rl's PPO shares with unilab-rl's."""

    __pydantic_config__ = STRICT

    num_learning_epochs: PositiveInt = 5
    num_mini_batches: PositiveInt = 4
    clip_param: PositiveFloat = 0.2
    gamma: Fraction = 0.99
    lam: Fraction = 0.95
    value_loss_coef: NonNegativeFloat = 1.0
    entropy_coef: NonNegativeFloat = 0.01
    learning_rate: PositiveFloat = 1e-3
    max_grad_norm: PositiveFloat = 1.0
    optimizer: str = "adam"
    use_clipped_value_loss: bool = True
    schedule: Literal["adaptive", "fixed"] = "adaptive"
    desired_kl: PositiveFloat = 0.01


@dataclass(frozen=True)
class PPOAlgorithmConfig(ProximalConfig):
    """``rsl_rl.algorithms.PPO``."""

    normalize_advantage_per_mini_batch: bool = False


@dataclass(frozen=True)
class RunnerConfig(ForeignConfig):
    """Settings of environments and networks that the runners of rsl_rl and of unilab-rl share."""

    env_threads: Placement[PositiveInt] = 1
    """physics threads"""
    stagger_episodes: bool = True
    """start the first episodes at random points of the time limit, so that not all end, and are reported, at once"""
    actor: ActorConfig = field(default_factory=ActorConfig)
    critic: MLPConfig = field(default_factory=MLPConfig)


@dataclass(frozen=True)
class PPOConfig(RunnerConfig):
    """A run of ``rsl_rl.runners.OnPolicyRunner``."""

    num_envs: PositiveInt = 256
    num_steps_per_env: PositiveInt = 24
    """env steps of one rollout, in each environment"""
    algorithm: PPOAlgorithmConfig = field(default_factory=PPOAlgorithmConfig)


class GaussianTrainer(ForeignTrainer):
    """Trains in this project's environments with a Gaussian policy."""

    def check_environment(self, settings: Mapping[str, Any]) -> None:
        config: RunnerConfig = parse(self.config_type, settings)
        if config.env not in names():
            require_continuous(config.env, env_dims(config.env, "mujoco", config.env_cfg), type(self).__name__)


class PPO(GaussianTrainer):
    """Proximal policy optimization; synchronous."""

    config_type = PPOConfig
    driver = "harness.trainers.adapters.drivers.rsl_rl:train"
    package, extra = "rsl_rl", "rsl-rl"


def acting(actor: Any) -> Act:
    """What an ``rsl_rl.models.MLPModel`` does now without noise, however it goes on learning."""
    import torch

    normalizer, network = (copy.deepcopy(part).to("cpu").eval() for part in (actor.obs_normalizer, actor.mlp))
    chosen = actor.distribution.deterministic_output

    @torch.inference_mode()
    def act(obs: NDArray[np.float32]) -> NDArray[np.float32]:
        return chosen(network(normalizer(torch.from_numpy(obs)))).numpy()

    return act


def networks(settings: dict[str, Any]) -> dict[str, Any]:
    """``actor`` and ``critic`` as rsl_rl's configuration has them."""
    actor, model = dict(settings["actor"]), {"class_name": "rsl_rl.models.MLPModel"}
    distribution = {name: actor.pop(name) for name in ("init_std", "std_type")}
    distribution["class_name"] = "rsl_rl.modules.distribution.GaussianDistribution"
    return {"actor": model | actor | {"distribution_cfg": distribution}, "critic": model | settings["critic"]}

"""Actors of SAC and TD3."""

from abc import ABC, abstractmethod
from functools import partial

import torch
from torch import Tensor, nn

from unilab.algos.torch.networks.build import build, mlp
from unilab.algos.torch.networks.distributions import SquashedGaussian
from unilab.algos.torch.networks.normalizer import RunningNormalizer
from unilab.algos.torch.offpolicy.config import OffPolicyConfig, SACConfig


class BoundedActor(nn.Module, ABC):
    """A policy over actions in [-1, 1]: ``act`` with noise, ``mode`` without."""

    outputs_per_action = 1
    normalizer: nn.Module

    def __init__(self, config: OffPolicyConfig, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(obs_dim) if config.obs_normalization else nn.Identity()
        relu_mlp = partial(mlp, activation="relu", output_gain=None, layer_norm=config.network.layer_norm is True)
        output_dim = self.outputs_per_action * action_dim
        self.body = build(config.network.actor, obs_dim, output_dim, "network.actor", relu_mlp)

    def outputs(self, obs: Tensor) -> Tensor:
        """The network's outputs [N, outputs] for observations [N, O]."""
        outputs: Tensor = self.body(self.normalizer(obs))
        return outputs.float()

    @abstractmethod
    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions [N, A] for observations [N, O] and noise [N, A], which is scaled as the policy explores."""

    @abstractmethod
    def mode(self, obs: Tensor) -> Tensor:
        """Actions [N, A] without noise."""


class TanhGaussianActor(BoundedActor):
    """SAC's: a diagonal Gaussian, its standard deviation a function of the observation, squashed by tanh."""

    outputs_per_action = 2

    def distribution(self, obs: Tensor) -> SquashedGaussian:
        """The distribution of actions [N, A] for observations [N, O]."""
        return SquashedGaussian.of_outputs(self.outputs(obs))

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        return self.distribution(obs).sample(noise)

    def mode(self, obs: Tensor) -> Tensor:
        return self.distribution(obs).mode


class DeterministicActor(BoundedActor):
    """TD3's: one action for each observation; exploring adds noise to it."""

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        return (self.mode(obs) + noise).clamp(-1, 1)

    def mode(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.outputs(obs))


def build_actor(config: OffPolicyConfig, obs_dim: int, action_dim: int) -> BoundedActor:
    """The actor that ``config`` describes, on the CPU.

    Raises:
        SettingsError: ``network.actor`` names a factory that cannot make it.
    """
    actor = TanhGaussianActor if isinstance(config, SACConfig) else DeterministicActor
    return actor(config, obs_dim, action_dim)

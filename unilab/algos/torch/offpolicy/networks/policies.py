"""Actors and critics of SAC and TD3."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unilab.algos.torch.networks.distributions import LOG_SQRT_2PI
from unilab.algos.torch.networks.normalizer import RunningNormalizer
from unilab.algos.torch.offpolicy.config import OffPolicyConfig, SACConfig
from unilab.algos.torch.offpolicy.networks.mlp import EnsembleMLP

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
"""bounds of the log standard deviation before squashing"""


class Actor(nn.Module, ABC):
    """A policy over actions in [-1, 1]: ``act`` with noise, ``mode`` without."""

    normalizer: nn.Module

    def __init__(self, config: OffPolicyConfig, obs_dim: int, output_dim: int) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(obs_dim) if config.obs_normalization else nn.Identity()
        network = config.network
        self.body = EnsembleMLP(1, obs_dim, network.actor, output_dim, layer_norm=network.layer_norm)

    def outputs(self, obs: Tensor) -> Tensor:
        """What the network says of observations [N, O]: [N, outputs]."""
        return self.body(self.normalizer(obs))[0]

    @abstractmethod
    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions [N, A] for observations [N, O] and noise [N, A], which is scaled as the policy explores."""

    @abstractmethod
    def mode(self, obs: Tensor) -> Tensor:
        """Actions [N, A] without noise."""


class TanhGaussianActor(Actor):
    """SAC's: a diagonal Gaussian, its standard deviation a function of the observation, squashed by tanh."""

    def __init__(self, config: OffPolicyConfig, obs_dim: int, action_dim: int) -> None:
        super().__init__(config, obs_dim, 2 * action_dim)

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        mean, raw = self.outputs(obs).chunk(2, -1)
        return torch.tanh(torch.addcmul(mean, log_std(torch.tanh(raw)).exp_(), noise))

    def mode(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.outputs(obs).chunk(2, -1)[0])


class DeterministicActor(Actor):
    """TD3's: one action for each observation; exploring adds noise to it."""

    def __init__(self, config: OffPolicyConfig, obs_dim: int, action_dim: int) -> None:
        super().__init__(config, obs_dim, action_dim)

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        return (self.mode(obs) + noise).clamp(-1, 1)

    def mode(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.outputs(obs))


class Critics(nn.Module):
    """The action values of k critics, evaluated together."""

    normalizer: nn.Module

    def __init__(self, config: OffPolicyConfig, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(obs_dim) if config.obs_normalization else nn.Identity()
        network, algorithm = config.network, config.algorithm
        self.body = EnsembleMLP(
            algorithm.num_critics,
            obs_dim + action_dim,
            network.critic,
            algorithm.num_atoms,
            layer_norm=network.layer_norm,
        )

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """[k, B, atoms] of observations [B, O] and actions [B, A]; one atom is the value itself."""
        return self.body(torch.cat([self.normalizer(obs), actions], -1))


def build_actor(config: OffPolicyConfig, obs_dim: int, action_dim: int) -> Actor:
    """The actor that ``config`` describes, on the CPU."""
    actor = TanhGaussianActor if isinstance(config, SACConfig) else DeterministicActor
    return actor(config, obs_dim, action_dim)


def log_std(squashed: Tensor) -> Tensor:
    """Log standard deviation for the network's output behind a tanh."""
    return squashed * (0.5 * (LOG_STD_MAX - LOG_STD_MIN)) + 0.5 * (LOG_STD_MAX + LOG_STD_MIN)


class TanhGaussian(NamedTuple):
    """A sample of a squashed Gaussian and what its gradient needs; all [N, A] but the log probability."""

    action: Tensor
    log_prob: Tensor
    """[N]"""
    std_noise: Tensor
    """standard deviation times noise"""
    squashed: Tensor
    """tanh of the output that stands for the log standard deviation"""


def tanh_gaussian(outputs: Tensor, noise: Tensor) -> TanhGaussian:
    """Sample by reparametrization (Haarnoja et al. 2018, arXiv:1812.05905, appendix C).

    With outputs (m, l)::

        log s = LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) / 2 (tanh l + 1)
        u     = m + s noise,  a = tanh u
        log p = sum_i log N(u_i; m_i, s_i) - log(1 - a_i^2),  log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2 u))

    Args:
        outputs: [N, 2 A] of a ``TanhGaussianActor``.
        noise: [N, A] standard normal.
    """
    mean, raw = outputs.chunk(2, -1)
    squashed = torch.tanh(raw)
    log_stds = log_std(squashed)
    std_noise = log_stds.exp() * noise
    before = mean + std_noise
    slope = 2 * (before + nn.functional.softplus(-2 * before)) - log_stds  # log 2 is added to the sum below
    log_prob = torch.addcmul(slope, noise, noise, value=-0.5).sum(-1)
    constant = outputs.shape[-1] / 2 * (LOG_SQRT_2PI + 2 * math.log(2))
    return TanhGaussian(torch.tanh(before), log_prob - constant, std_noise, squashed)


def tanh_gaussian_gradient(sample: TanhGaussian, action_gradient: Tensor, log_prob_gradient: Tensor) -> Tensor:
    """Gradient [N, 2 A] of the outputs, given those of the action [N, A] and of the log probability (a scalar).

    da/du = 1 - a^2; at fixed noise the Gaussian's own density does not depend on m, so dlog p/du = 2 a and
    dlog p/dlog s = -1 + 2 a s noise.
    """
    action = sample.action
    before = torch.addcmul(action_gradient, action_gradient * action, action, value=-1)
    before.addcmul_(action, log_prob_gradient, value=2)
    through_std = torch.addcmul(-log_prob_gradient, before, sample.std_noise)
    raw = through_std * (1 - sample.squashed.square()) * (0.5 * (LOG_STD_MAX - LOG_STD_MIN))
    return torch.cat([before, raw], -1)

"""Actor and critic of asynchronous PPO."""

import functools
import math

import torch
from torch import Tensor, nn

from unilab.algos.torch.networks.build import build, mlp
from unilab.algos.torch.networks.description import Description
from unilab.algos.torch.networks.distributions import LOG_SQRT_2PI
from unilab.algos.torch.networks.normalizer import RunningNormalizer


class Actor(nn.Module):
    """A diagonal Gaussian policy whose standard deviation does not depend on the observation."""

    normalizer: nn.Module

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        network: Description = (256, 256),
        activation: str = "elu",
        init_noise_std: float = 1.0,
        obs_normalization: bool = True,
    ) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(obs_dim) if obs_normalization else nn.Identity()
        built_in = functools.partial(mlp, activation=activation, output_gain=0.01)
        self.body = build(network, obs_dim, action_dim, "network.actor", built_in)
        self.log_std = nn.Parameter(torch.full((action_dim,), math.log(init_noise_std)))

    def forward(self, observations: Tensor) -> Tensor:
        """Mean action [..., A] of observations [..., O]."""
        return self.body(self.normalizer(observations))


class Critic(nn.Module):
    """State values."""

    normalizer: nn.Module

    def __init__(
        self,
        obs_dim: int,
        *,
        network: Description = (256, 256),
        activation: str = "elu",
        obs_normalization: bool = True,
    ) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(obs_dim) if obs_normalization else nn.Identity()
        self.body = build(network, obs_dim, 1, "network.critic", functools.partial(mlp, activation=activation))

    def forward(self, observations: Tensor) -> Tensor:
        """Values [...] of observations [..., O]."""
        return self.body(self.normalizer(observations)).squeeze(-1)


def gaussian_log_prob(actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density [...] of actions [..., A] under a diagonal Gaussian."""
    scaled = (actions - mean) * torch.exp(-log_std)
    return -0.5 * scaled.square().sum(-1) - (log_std.sum(-1) + LOG_SQRT_2PI * actions.shape[-1])


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy in nats of a diagonal Gaussian, summed over its dimensions."""
    return (log_std + 0.5 + LOG_SQRT_2PI).sum(-1)


def gaussian_kl(mean_p: Tensor, log_std_p: Tensor, mean_q: Tensor, log_std_q: Tensor) -> Tensor:
    """KL(p || q) [...] of two diagonal Gaussians, in nats."""
    variance_ratio = torch.exp(2 * (log_std_p - log_std_q))
    distance = ((mean_p - mean_q) * torch.exp(-log_std_q)).square()
    return 0.5 * (variance_ratio + distance - 1 - 2 * (log_std_p - log_std_q)).sum(-1)

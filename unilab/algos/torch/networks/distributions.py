"""Distributions of actions, given the outputs of a network.

Noise is drawn apart from sampling, so that a sample is a pure function of outputs and noise: it is differentiated
through where that is possible, repeated in a test, and recorded in a CUDA graph.
"""

import math
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
"""bounds of the log standard deviation of a squashed Gaussian, before squashing"""
ENTROPY_POINTS = 101
"""of the sum for a squashed Gaussian's entropy; its error is then below 1e-3 nats a dimension"""


class Distribution(Protocol):
    """A distribution of actions for each row; what is said of a row's actions has the shape [...]."""

    @property
    def mode(self) -> Tensor:
        """[..., A] the actions without noise."""

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        """Random numbers for one ``sample``."""

    def sample(self, noise: Tensor) -> Tensor:
        """[..., A] actions."""

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [..., A] and their log probabilities [...]."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """[...] log probability (density) in nats of actions [..., A]."""

    def entropy(self) -> Tensor:
        """[...] in nats."""

    def kl(self, other: Self) -> Tensor:
        """[...] KL(self || other) in nats, of a distribution of the same kind."""


class DiagonalGaussian:
    """Independent normal distributions.

    Args:
        mean: [..., A].
        log_std: [A] or [..., A].
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    @property
    def mode(self) -> Tensor:
        return self.mean

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        """[..., A] standard normal."""
        return torch.randn(self.mean.shape, generator=generator, device=self.mean.device)

    def sample(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.mean, noise, self.log_std.exp())

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.sample(noise), self.log_prob_of_noise(noise)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_prob_of_noise((actions - self.mean) * torch.exp(-self.log_std))

    def log_prob_of_noise(self, noise: Tensor) -> Tensor:
        """[...] of what the Gaussian makes of this noise [..., A]; the means do not matter."""
        return -0.5 * noise.square().sum(-1) - (self.log_std.sum(-1) + LOG_SQRT_2PI * noise.shape[-1])

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 + LOG_SQRT_2PI).sum(-1).expand(self.mean.shape[:-1])

    def kl(self, other: Self) -> Tensor:
        variance_ratio = torch.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * torch.exp(-other.log_std)).square()
        return 0.5 * (variance_ratio + distance - 1 - 2 * (self.log_std - other.log_std)).sum(-1)


class SquashedGaussian(DiagonalGaussian):
    """The hyperbolic tangent of a diagonal Gaussian: actions in (-1, 1) (Haarnoja et al. 2018, arXiv:1812.05905,
    appendix C). The divergence is the Gaussians', as a one-to-one function of both distributions leaves it as it is.

    With u the Gaussian's sample, log p(tanh u) = log N(u) - sum_i log(1 - tanh^2 u_i), and
    log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2 u)), which is exact where tanh is 1 in floating point.
    """

    @classmethod
    def of_outputs(cls, outputs: Tensor) -> Self:
        """The distribution for a network's outputs [..., 2 A]: means, then log standard deviations, bounded smoothly to
        ``LOG_STD_MIN`` and ``LOG_STD_MAX``."""
        mean, raw = outputs.chunk(2, -1)
        half_range, middle = (LOG_STD_MAX - LOG_STD_MIN) / 2, (LOG_STD_MAX + LOG_STD_MIN) / 2
        return cls(mean, middle + half_range * torch.tanh(raw))

    @property
    def mode(self) -> Tensor:
        """The squashed mean, which is the median."""
        return torch.tanh(self.mean)

    def sample(self, noise: Tensor) -> Tensor:
        return torch.tanh(super().sample(noise))

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        before = super().sample(noise)
        return torch.tanh(before), self.log_prob_of_noise(noise) - _log_slope(before).sum(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Actions of exactly -1 or 1 count as the nearest ones within."""
        edge = 1 - torch.finfo(actions.dtype).eps
        before = torch.atanh(actions.clamp(-edge, edge))
        return super().log_prob(before) - _log_slope(before).sum(-1)

    def entropy(self) -> Tensor:
        """The Gaussian's, and the mean logarithm of the slope of tanh, summed over its bell curve."""
        mean, std = self.mean.unsqueeze(-1), self.log_std.exp().unsqueeze(-1)
        scaled = torch.linspace(-6, 6, ENTROPY_POINTS, dtype=mean.dtype, device=mean.device)
        shares = torch.softmax(-0.5 * scaled.square(), 0)
        return super().entropy() + (_log_slope(mean + std * scaled) @ shares).sum(-1)


def _log_slope(before: Tensor) -> Tensor:
    """log(1 - tanh^2 u)."""
    return 2 * (math.log(2) - before - softplus(-2 * before))


class Categorical:
    """One of K discrete actions; an action [..., 1] is its index, 0 to K - 1, as a floating point number.

    Args:
        logits: [..., K] log probabilities, but for a constant.
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = torch.log_softmax(logits, -1)

    @property
    def mode(self) -> Tensor:
        return self.log_probs.argmax(-1, keepdim=True).to(self.log_probs.dtype)

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        """[..., K] standard Gumbel."""
        return torch.empty_like(self.log_probs).exponential_(generator=generator).log_().neg_()

    def sample(self, noise: Tensor) -> Tensor:
        """Sample by the Gumbel-max trick (Gumbel 1954)."""
        return (self.log_probs + noise).argmax(-1, keepdim=True).to(self.log_probs.dtype)

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        actions = self.sample(noise)
        return actions, self.log_prob(actions)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_probs.gather(-1, actions.long()).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, other: Self) -> Tensor:
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum(-1)

"""Actor and critic networks, and the running normalization of what they see."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": lambda: nn.ELU(inplace=True),  # in place: one pass over memory less
    "relu": lambda: nn.ReLU(inplace=True),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def mlp(
    input_dim: int, hidden_dims: Sequence[int], output_dim: int, activation: str, output_gain: float
) -> nn.Sequential:
    """Linear layers with an activation between them, orthogonal weights and zero biases.

    A small ``output_gain`` on the actor keeps the first actions near zero (Andrychowicz et al. 2021,
    arXiv:2006.05990, found it to matter).
    """
    layers: list[nn.Module] = []
    widths = [input_dim, *hidden_dims]
    for width_in, width_out in itertools.pairwise(widths):
        layers += [_linear(width_in, width_out, math.sqrt(2)), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, _linear(widths[-1], output_dim, output_gain))


def _linear(width_in: int, width_out: int, gain: float) -> nn.Linear:
    layer = nn.Linear(width_in, width_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class RunningNormalizer(nn.Module):
    """Shifts and scales observations by the running mean and variance of all that were learned from.

    Batches are merged with the exact parallel formula of Chan, Golub and LeVeque (1979). The statistics are
    buffers, so they travel with the weights; only the learner calls ``update``.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, dim: int, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, observations: Tensor) -> Tensor:
        """[..., O] to [..., O], within +-clip."""
        return ((observations - self.mean) * torch.rsqrt(self.var + 1e-8)).clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Merge a batch [B, O] into the statistics."""
        batch_var, batch_mean = torch.var_mean(observations, dim=0, correction=0)
        batch_count = observations.shape[0]
        total = self.count + batch_count
        weight = batch_count / total
        delta = batch_mean - self.mean
        self.var.copy_(self.var * (1 - weight) + batch_var * weight + delta.square() * weight * (1 - weight))
        self.mean.copy_(self.mean + delta * weight)
        self.count.copy_(total)


class Actor(nn.Module):
    """A diagonal Gaussian policy whose standard deviation does not depend on the observation."""

    normalizer: nn.Module

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        hidden_dims: Sequence[int],
        activation: str,
        init_noise_std: float,
        obs_normalization: bool,
    ) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(obs_dim) if obs_normalization else nn.Identity()
        self.body = mlp(obs_dim, hidden_dims, action_dim, activation, output_gain=0.01)
        self.log_std = nn.Parameter(torch.full((action_dim,), math.log(init_noise_std)))

    def forward(self, observations: Tensor) -> Tensor:
        """Mean action [..., A] of observations [..., O]."""
        return self.body(self.normalizer(observations))


class Critic(nn.Module):
    """State values."""

    normalizer: nn.Module

    def __init__(self, obs_dim: int, *, hidden_dims: Sequence[int], activation: str, obs_normalization: bool) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(obs_dim) if obs_normalization else nn.Identity()
        self.body = mlp(obs_dim, hidden_dims, 1, activation, output_gain=1.0)

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

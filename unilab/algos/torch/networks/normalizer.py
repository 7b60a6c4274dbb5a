"""The running normalization of what networks see."""

import torch
from torch import Tensor, nn


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
        total = self.count + observations.shape[0]
        # Of two tensors: a number by a tensor is multiplied by the reciprocal, and the first weight is not quite 1.
        weight, kept = (total - self.count) / total, self.count / total
        delta = batch_mean - self.mean
        self.var.copy_(self.var * kept + batch_var * weight + delta.square() * weight * kept)
        self.mean.copy_(self.mean + delta * weight)
        self.count.copy_(total)

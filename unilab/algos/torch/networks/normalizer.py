"""The running normalization of what networks see and of what critics learn."""

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


class ValueScale(nn.Module):
    """The running mean and standard deviation of a critic's targets, in whose units its network computes.

    The network then learns numbers of about 1, whatever the task's rewards and the discount. Its values stay what they
    were when the statistics move, as its last layer follows them (PopArt: van Hasselt et al. 2016, arXiv:1602.07714).
    A network that does not end in a linear layer has to learn the change.
    The statistics are buffers, so they travel with the weights; only the learner calls ``update``.
    """

    NEWEST = 0.05
    """weight of the newest batch, once twenty have been seen; before, all weigh the same"""

    mean: Tensor
    std: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, outputs: Tensor) -> Tensor:
        """Values of the network's outputs, of any shape."""
        return outputs * self.std + self.mean

    def outputs(self, values: Tensor) -> Tensor:
        """What the network should give for these values: the inverse of ``forward``."""
        return (values - self.mean) / self.std

    @torch.no_grad()
    def update(self, targets: Tensor, body: nn.Module) -> None:
        """Follow a batch of value targets, of any shape, and keep the values of ``body``, the critic's network.

        Raises:
            FloatingPointError: a target is not finite; nothing has changed.
        """
        batch_var, batch_mean = torch.var_mean(targets, correction=0)
        if not torch.isfinite(batch_var):
            raise FloatingPointError("the value targets are not finite: look at the rewards")
        self.count += 1
        newest = (1 / self.count).clamp(min=self.NEWEST)
        old_mean, old_std = self.mean.clone(), self.std.clone()
        delta = batch_mean - old_mean
        self.mean.copy_(old_mean + newest * delta)
        var = old_std.square().lerp(batch_var, newest) + newest * (1 - newest) * delta.square()
        self.std.copy_(var.clamp(min=1e-8).sqrt())
        last = body[-1] if isinstance(body, nn.Sequential) else body
        if type(last) is nn.Linear and last.bias is not None:  # a parametrized one is of a class of its own
            last.weight.mul_(old_std / self.std)
            last.bias.copy_((last.bias * old_std + old_mean - self.mean) / self.std)

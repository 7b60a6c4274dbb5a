"""What a critic's outputs mean, a value or a distribution of values, and the gradients of their losses."""

from typing import Protocol

import torch
from torch import Tensor

from unilab.algos.torch.offpolicy.config import AlgorithmConfig


class ValueHead(Protocol):
    """Reads the outputs [k, B, atoms] of k critics."""

    def values(self, outputs: Tensor) -> Tensor:
        """Expected returns [k, B]."""

    def values_gradient(self, outputs: Tensor, gradient: Tensor) -> Tensor:
        """Gradient [k, B, atoms] of the outputs, given that [k, B] of the values."""

    def targets(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, bonus: Tensor | None) -> Tensor:
        """What the critics shall learn: rewards + discounts * (value - bonus), as this head represents it.

        Args:
            outputs: [k, B, atoms] of the target critics, reduced to one by their minimum or mean.
            rewards, discounts, bonus: [B]; a terminated transition has discount 0.
        """

    def no_targets(self, rows: int, device: torch.device) -> Tensor:
        """Zeros of the shape of ``targets``."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss [k, B] of each critic and row."""

    def loss_gradient(self, outputs: Tensor, targets: Tensor, rows: int) -> Tensor:
        """Gradient [k, B, atoms] of the loss, summed over critics and averaged over ``rows`` rows."""


class ScalarHead:
    """One output: the value. Half the squared error."""

    def __init__(self, reduction: str) -> None:
        self._reduction = reduction

    def values(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(-1)

    def values_gradient(self, outputs: Tensor, gradient: Tensor) -> Tensor:
        return gradient.unsqueeze(-1)

    def targets(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, bonus: Tensor | None) -> Tensor:
        values = outputs.squeeze(-1)
        reduced = values.amin(0) if self._reduction == "min" else values.mean(0)
        if bonus is not None:
            reduced = reduced - bonus
        return torch.addcmul(rewards, discounts, reduced)

    def no_targets(self, rows: int, device: torch.device) -> Tensor:
        return torch.zeros(rows, device=device)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs.squeeze(-1) - targets).square()

    def loss_gradient(self, outputs: Tensor, targets: Tensor, rows: int) -> Tensor:
        return (outputs - targets.unsqueeze(-1)).div_(rows)


class CategoricalHead:
    """Logits over ``num_atoms`` values; cross entropy to the projected target distribution.

    Bellemare et al. 2017 (arXiv:1707.06887), algorithm 1. With ``min``, the distribution whose mean is lowest counts.
    """

    def __init__(self, algorithm: AlgorithmConfig, device: torch.device) -> None:
        if algorithm.value_min >= algorithm.value_max:
            raise ValueError(
                f"algorithm.value_min is {algorithm.value_min}; it must be below value_max, {algorithm.value_max}"
            )
        self._reduction = algorithm.target_reduction
        self._low, self._high = algorithm.value_min, algorithm.value_max
        self._atoms = torch.linspace(self._low, self._high, algorithm.num_atoms, device=device)
        self._gap = (self._high - self._low) / (algorithm.num_atoms - 1)

    def values(self, outputs: Tensor) -> Tensor:
        return torch.softmax(outputs, -1) @ self._atoms

    def values_gradient(self, outputs: Tensor, gradient: Tensor) -> Tensor:
        chances = torch.softmax(outputs, -1)
        values = (chances @ self._atoms).unsqueeze(-1)
        return chances * (self._atoms - values) * gradient.unsqueeze(-1)

    def targets(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, bonus: Tensor | None) -> Tensor:
        chances = torch.softmax(outputs, -1)
        if self._reduction == "min":
            lowest = (chances @ self._atoms).argmin(0)
            chances = chances.gather(0, lowest[None, :, None].expand(1, *chances.shape[1:]))[0]
        else:
            chances = chances.mean(0)
        atoms = self._atoms if bonus is None else self._atoms - bonus.unsqueeze(-1)
        moved = torch.addcmul(rewards.unsqueeze(-1), discounts.unsqueeze(-1), atoms).clamp(self._low, self._high)
        return self._project(moved, chances)

    def _project(self, moved: Tensor, chances: Tensor) -> Tensor:
        """Share each moved atom's probability between the two atoms beside it, by nearness."""
        position = (moved - self._low) / self._gap
        below = position.floor().clamp(max=len(self._atoms) - 2)
        upper_share = position - below
        index = below.long()
        projected = torch.zeros_like(chances)
        projected.scatter_add_(-1, index, chances * (1 - upper_share))
        return projected.scatter_add_(-1, index + 1, chances * upper_share)

    def no_targets(self, rows: int, device: torch.device) -> Tensor:
        return torch.zeros(rows, len(self._atoms), device=device)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -(targets * torch.log_softmax(outputs, -1)).sum(-1)

    def loss_gradient(self, outputs: Tensor, targets: Tensor, rows: int) -> Tensor:
        return (torch.softmax(outputs, -1) - targets).div_(rows)


def build_head(algorithm: AlgorithmConfig, device: torch.device) -> ValueHead:
    """The head that ``algorithm`` asks for: one atom is a value, more are a distribution."""
    if algorithm.num_atoms == 1:
        return ScalarHead(algorithm.target_reduction)
    return CategoricalHead(algorithm, device)


def reduction_gradient(values: Tensor, reduction: str) -> Tensor:
    """Gradient [k, B] of the minimum or mean over critics of values [k, B]."""
    if reduction == "mean":
        return torch.full_like(values, 1 / len(values))
    return torch.zeros_like(values).scatter_(0, values.argmin(0, keepdim=True), 1.0)

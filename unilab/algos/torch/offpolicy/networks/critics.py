"""The critics of SAC and TD3, and what their outputs mean: a value, or a distribution of values."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unilab.algos.torch.networks.build import build
from unilab.algos.torch.networks.normalizer import RunningNormalizer
from unilab.algos.torch.offpolicy.config import OffPolicyAlgorithmConfig, OffPolicyConfig


class EnsembleMLP(nn.Module):
    """k multi-layer perceptrons of one shape with ReLU, in batched products (Linear, optional LayerNorm, ReLU, ...)."""

    def __init__(self, members: int, input_dim: int, hidden_dims: Sequence[int], output_dim: int, layer_norm: bool):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in itertools.pairwise([input_dim, *hidden_dims, output_dim]):
            bound = 1 / math.sqrt(inputs)  # torch.nn.Linear's
            self.weights.append(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(members, 1, outputs).uniform_(-bound, bound))
        for width in hidden_dims if layer_norm else ():
            self.scales.append(torch.ones(members, 1, width))
            self.shifts.append(torch.zeros(members, 1, width))

    def forward(self, inputs: Tensor, members: int | None = None) -> Tensor:
        """[B, inputs], the same for all members; returns [k, B, outputs], or of the first ``members`` alone."""
        # a slice of all members would cost a copy of its gradient
        weights, biases, scales, shifts = (
            list(group) if members is None else [parameter[:members] for parameter in group]
            for group in (self.weights, self.biases, self.scales, self.shifts)
        )
        hidden = inputs.expand(len(weights[0]), -1, -1)
        for index in range(len(weights) - 1):
            hidden = torch.baddbmm(biases[index], hidden, weights[index])
            if scales:
                hidden = functional.layer_norm(hidden, hidden.shape[-1:])
                hidden = torch.addcmul(shifts[index], hidden, scales[index])
            hidden = hidden.relu_()
        if weights[-1].shape[2] == 1:  # batched products with one column are several times slower, backwards too
            return (hidden * weights[-1].transpose(1, 2)).sum(-1, keepdim=True) + biases[-1]
        return torch.baddbmm(biases[-1], hidden, weights[-1])


class Critics(nn.Module):
    """The action values of k critics."""

    normalizer: nn.Module
    body: nn.Module

    def __init__(self, config: OffPolicyConfig, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(obs_dim) if config.obs_normalization else nn.Identity()
        network, algorithm = config.network, config.algorithm
        members, inputs, atoms = algorithm.num_critics, obs_dim + action_dim, algorithm.num_atoms

        def ensemble(inputs: int, widths: Sequence[int], outputs: int) -> nn.Module:
            return EnsembleMLP(members, inputs, widths, outputs, bool(network.layer_norm))

        built = [build(network.critic, inputs, atoms, "network.critic", ensemble)]
        if not isinstance(built[0], EnsembleMLP):
            built += [build(network.critic, inputs, atoms, "network.critic", ensemble) for _ in range(members - 1)]
        self.body = built[0] if isinstance(built[0], EnsembleMLP) else nn.ModuleList(built)

    def forward(self, obs: Tensor, actions: Tensor, members: int | None = None) -> Tensor:
        """[k, B, atoms] of observations [B, O] and actions [B, A], of all or of the first ``members``; one atom is the
        value itself."""
        inputs = torch.cat([self.normalizer(obs), actions], -1)
        if isinstance(self.body, nn.ModuleList):
            return torch.stack([critic(inputs).float() for critic in self.body[:members]])
        outputs: Tensor = self.body(inputs, members)
        return outputs.float()


class ScalarValue:
    """One output: the value. Half the squared error."""

    def __init__(self, reduction: str) -> None:
        self._reduction = reduction

    def expected(self, outputs: Tensor) -> Tensor:
        """Returns [k, B] that the critics' outputs [k, B, atoms] stand for."""
        return outputs.squeeze(-1)

    def reduced(self, outputs: Tensor) -> Tensor:
        """Their minimum or mean over the critics, [B]."""
        values = self.expected(outputs)
        return values.amin(0) if self._reduction == "min" else values.mean(0)

    def targets(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, bonus: Tensor) -> Tensor:
        """What the critics shall learn: rewards + discounts * (value - bonus), as their outputs represent it.

        Args:
            outputs: [k, B, atoms] of the target critics, reduced to one by their minimum or mean.
            rewards, discounts, bonus: [B]; a terminated transition has discount 0.
        """
        return rewards + discounts * (self.reduced(outputs) - bonus)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each critic and row [k, B]."""
        return 0.5 * (outputs.squeeze(-1) - targets).square()


class CategoricalValue(ScalarValue):
    """Logits over ``num_atoms`` values; cross entropy to the projected target distribution.

    Bellemare et al. 2017 (arXiv:1707.06887), algorithm 1. With ``min``, the distribution whose mean is lowest counts.
    """

    def __init__(self, algorithm: OffPolicyAlgorithmConfig, device: torch.device) -> None:
        super().__init__(algorithm.target_reduction)
        self._low, self._high = algorithm.value_min, algorithm.value_max
        self._atoms = torch.linspace(self._low, self._high, algorithm.num_atoms, device=device)
        self._gap = (self._high - self._low) / (algorithm.num_atoms - 1)

    def expected(self, outputs: Tensor) -> Tensor:
        return torch.softmax(outputs, -1) @ self._atoms

    def targets(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, bonus: Tensor) -> Tensor:
        chances = torch.softmax(outputs, -1)
        if self._reduction == "min":
            lowest = (chances @ self._atoms).argmin(0)
            chances = chances.gather(0, lowest[None, :, None].expand(1, *chances.shape[1:]))[0]
        else:
            chances = chances.mean(0)
        atoms = self._atoms - bonus.unsqueeze(-1)
        moved = (rewards.unsqueeze(-1) + discounts.unsqueeze(-1) * atoms).clamp(self._low, self._high)
        # each moved atom's probability is shared between the two atoms beside it, by nearness
        position = (moved - self._low) / self._gap
        below = position.floor().clamp(max=len(self._atoms) - 2)
        upper_share = position - below
        index = below.long()
        projected = torch.zeros_like(chances)
        projected.scatter_add_(-1, index, chances * (1 - upper_share))
        return projected.scatter_add_(-1, index + 1, chances * upper_share)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -(targets * torch.log_softmax(outputs, -1)).sum(-1)

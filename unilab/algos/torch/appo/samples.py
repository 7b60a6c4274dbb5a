"""Rows of a rollout, ready for the update."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """B rows: those of a rollout (B = T * N) or of a minibatch."""

    obs: Tensor
    """[B, O] normalized"""
    critic_obs: Tensor
    """[B, C] normalized; the very tensor ``obs`` where the critic sees what the actor sees"""
    actions: Tensor
    """[B, A]"""
    target_outputs: Tensor
    """[B, outputs] of the target policy's network"""
    reference_log_probs: Tensor
    """[B] log probabilities from which the surrogate's ratio is counted"""
    values: Tensor
    """[B] before the update"""
    value_targets: Tensor
    """[B]"""
    advantages: Tensor
    """[B] normalized"""

    def __len__(self) -> int:
        return len(self.actions)


class PackedSamples:
    """Samples side by side in one matrix [B, W], so that a minibatch is gathered in one pass over memory."""

    def __init__(self, samples: Samples) -> None:
        self._shared_obs = samples.critic_obs is samples.obs
        tensors = {field.name: getattr(samples, field.name) for field in fields(Samples)}
        if self._shared_obs:
            del tensors["critic_obs"]
        self._vectors = {name for name, tensor in tensors.items() if tensor.dim() == 1}
        columns = {name: t.unsqueeze(-1) if name in self._vectors else t for name, t in tensors.items()}
        self._widths = {name: column.shape[1] for name, column in columns.items()}
        self._matrix = torch.cat(list(columns.values()), dim=1)

    def __len__(self) -> int:
        return len(self._matrix)

    def take(self, rows: Tensor) -> Samples:
        """The samples of these row indices [b]."""
        parts = self._matrix.index_select(0, rows).split(list(self._widths.values()), dim=1)
        tensors = {
            name: part.squeeze(-1) if name in self._vectors else part
            for name, part in zip(self._widths, parts, strict=True)
        }
        if self._shared_obs:
            tensors["critic_obs"] = tensors["obs"]
        return Samples(**tensors)

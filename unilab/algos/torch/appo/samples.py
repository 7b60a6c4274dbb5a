"""Rows of a rollout, ready for the update."""

import math
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
    target_mean: Tensor
    """[B, A] of the target policy"""
    reference_log_probs: Tensor
    """[B] see ``reference_log_probs``"""
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


def reference_log_probs(behavior_log_probs: Tensor, target_log_probs: Tensor, ratio_clip: float) -> Tensor:
    """Log probabilities from which the surrogate's ratio is counted.

    IMPACT's ratio is ``min(pi_behavior / pi_target, ratio_clip) * pi / pi_behavior``. That is ``pi / reference`` with
    ``log reference = max(log pi_target, log pi_behavior - log ratio_clip)``, which no update changes.
    """
    return torch.maximum(target_log_probs, behavior_log_probs - math.log(ratio_clip))

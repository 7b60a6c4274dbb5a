"""The models of the package rsl_rl (``rsl-rl-lib``) as networks: ``network.actor: unilab.algos...rsl_rl:mlp_model``."""

from collections.abc import Sequence

import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict
from torch import Tensor, nn

GROUP = "policy"


class RslRlModel(nn.Module):
    """A model of rsl_rl, which takes named groups of observations, for rows [B, O] of one group."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        """[B, O] to [B, outputs]."""
        return self.model(TensorDict({GROUP: rows}, batch_size=rows.shape[:1]))


def mlp_model(
    obs_dim: int, output_dim: int, *, hidden_dims: Sequence[int] = (256, 256, 256), activation: str = "elu"
) -> RslRlModel:
    """``rsl_rl.models.MLPModel``. Normalization and the distribution are not its own but the trainer's."""
    observations = TensorDict({GROUP: torch.zeros(1, obs_dim)}, batch_size=1)
    groups = {GROUP: [GROUP]}
    return RslRlModel(MLPModel(observations, groups, GROUP, output_dim, list(hidden_dims), activation))

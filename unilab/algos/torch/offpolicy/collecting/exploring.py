"""How workers act: at random until learning begins, then as the actor explores."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unilab.algos.torch.offpolicy.config import OffPolicyConfig, TD3Config
from unilab.algos.torch.offpolicy.networks.policies import build_actor
from unilab.envs import EnvDims

EXPLORING = "exploring"
_ACTOR = "actor."


def noise_scale(config: OffPolicyConfig) -> float | Tensor:
    """Standard deviation of the noise that the actor gets: one number, or [num_envs, 1], one for each environment."""
    if isinstance(config, TD3Config):
        lowest, highest = config.algorithm.exploration_noise_min, config.algorithm.exploration_noise_max
        return torch.linspace(lowest, highest, config.num_envs)[:, None]
    return 1.0


class ExploringPolicy(nn.Module):
    """The policy of a worker. Whether actions are random is part of its weights: a restarted worker knows it as well.

    Args:
        config: the run; ``num_envs`` over all workers.
        dims: of its environments.
    """

    exploring: Tensor
    """true: actions are uniformly random"""

    def __init__(self, config: OffPolicyConfig, dims: EnvDims) -> None:
        super().__init__()
        self.actor = build_actor(config, dims.obs, dims.action)
        self.register_buffer(EXPLORING, torch.ones((), dtype=torch.bool))
        self._action_dim = dims.action
        self._noise_scale = noise_scale(config)
        self._worker = 0

    def place(self, worker: int) -> None:
        """Be the policy of this worker: noise that differs among environments is spread over those of all workers."""
        self._worker = worker

    def compute_actions(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Actions [N, A] in [-1, 1] for observations [N, O]."""
        noise = torch.empty(len(obs), self._action_dim)
        if self.exploring:
            return noise.uniform_(-1, 1, generator=generator)
        return self.actor.act(obs, noise.normal_(generator=generator).mul_(self._own(len(obs))))

    def _own(self, rows: int) -> float | Tensor:
        scale = self._noise_scale
        return scale[self._worker * rows :][:rows] if isinstance(scale, Tensor) else scale


def policy_weights(actor: Mapping[str, Tensor], exploring: bool) -> dict[str, Tensor]:
    """The state dict of an ``ExploringPolicy`` with the weights of this actor."""
    named = {f"{_ACTOR}{name}": value for name, value in actor.items()}
    return named | {EXPLORING: torch.tensor(exploring)}

"""SAC and TD3 as their papers write them, in plain PyTorch: what this project's learners are compared with.

One ``nn.Sequential`` a network, autograd, ``torch.optim.Adam``. The critics' parameters are frozen while the actor
learns, so that no gradient is computed which nobody uses. ``noise`` [2, B, A] is standard normal, for the actions at
the observations and at the next observations; it is drawn when it is not given.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class Transitions(NamedTuple):
    """A batch, each column contiguous."""

    obs: Tensor
    """[B, O]"""
    actions: Tensor
    """[B, A] in [-1, 1]"""
    rewards: Tensor
    """[B]"""
    next_obs: Tensor
    """[B, O]"""
    terminated: Tensor
    """[B] 1 where no value follows"""


def mlp(inputs: int, hidden_dims: Iterable[int], outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width in hidden_dims:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class TwinCritics:
    """Two critics, their slow targets and their optimizer."""

    def __init__(self, inputs: int, hidden_dims: Iterable[int], learning_rate: float, tau: float) -> None:
        self.first = mlp(inputs, hidden_dims, 1)
        self.second = mlp(inputs, hidden_dims, 1)
        self.first_target = copy.deepcopy(self.first)
        self.second_target = copy.deepcopy(self.second)
        self._parameters = [*self.first.parameters(), *self.second.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate)
        self._tau = tau

    def lowest_target(self, obs: Tensor, actions: Tensor) -> Tensor:
        """The lower of the targets' values [B]."""
        pairs = torch.cat([obs, actions], -1)
        return torch.min(self.first_target(pairs), self.second_target(pairs)).squeeze(-1)

    def fit(self, obs: Tensor, actions: Tensor, wanted: Tensor) -> Tensor:
        """One step towards the values [B]; the loss."""
        pairs = torch.cat([obs, actions], -1)
        first, second = self.first(pairs).squeeze(-1), self.second(pairs).squeeze(-1)
        loss = 0.5 * F.mse_loss(first, wanted) + 0.5 * F.mse_loss(second, wanted)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def freeze(self, frozen: bool) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(not frozen)

    def move_targets(self) -> None:
        polyak(self.first, self.first_target, self._tau)
        polyak(self.second, self.second_target, self._tau)


@torch.no_grad()
def polyak(source: nn.Module, target: nn.Module, tau: float) -> None:
    """Move ``target`` by ``tau`` of the way to ``source``."""
    for new, old in zip(source.parameters(), target.parameters(), strict=True):
        old.lerp_(new, tau)


class PlainSAC:
    """Haarnoja et al. 2018, arXiv:1812.05905, algorithm 1, with the temperature adapted (section 5)."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_dims: Iterable[int] = (256, 256),
        *,
        gamma: float = 0.99,
        tau: float = 0.005,
        learning_rate: float = 3e-4,
    ) -> None:
        self.actor = mlp(obs_dim, hidden_dims, 2 * action_dim)
        self.critics = TwinCritics(obs_dim + action_dim, hidden_dims, learning_rate, tau)
        self.log_alpha = torch.zeros((), requires_grad=True)
        self._actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=learning_rate)
        self._alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=learning_rate)
        self._target_entropy = -float(action_dim)
        self._gamma = gamma

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Squashed Gaussian actions [B, A] and their log probabilities [B] (appendix C)."""
        mean, log_std = self.actor(obs).chunk(2, -1)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(log_std) + 1)
        unbounded = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        squashing = 2 * (math.log(2) - unbounded - F.softplus(-2 * unbounded))  # log(1 - tanh^2), without rounding to 0
        return torch.tanh(unbounded), (gaussian - squashing).sum(-1)

    def update(self, batch: Transitions, noise: Tensor | None = None) -> Tensor:
        """One gradient step of critics, actor and temperature; the critics' loss."""
        here, following = torch.randn(2, *batch.actions.shape) if noise is None else noise
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_actions, next_log_prob = self.sample(batch.next_obs, following)
            next_value = self.critics.lowest_target(batch.next_obs, next_actions) - alpha * next_log_prob
            wanted = batch.rewards + self._gamma * (1 - batch.terminated) * next_value
        loss = self.critics.fit(batch.obs, batch.actions, wanted)

        self.critics.freeze(True)
        actions, log_prob = self.sample(batch.obs, here)
        pairs = torch.cat([batch.obs, actions], -1)
        value = torch.min(self.critics.first(pairs), self.critics.second(pairs)).squeeze(-1)
        descend(self._actor_optimizer, (alpha * log_prob - value).mean())
        self.critics.freeze(False)
        descend(self._alpha_optimizer, -(self.log_alpha * (log_prob.detach() + self._target_entropy)).mean())
        self.critics.move_targets()
        return loss


class PlainTD3:
    """Fujimoto et al. 2018, arXiv:1802.09477, algorithm 1."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_dims: Iterable[int] = (256, 256),
        *,
        gamma: float = 0.99,
        tau: float = 0.005,
        learning_rate: float = 3e-4,
        policy_frequency: int = 2,
        target_noise: float = 0.2,
        target_noise_clip: float = 0.5,
    ) -> None:
        self.actor = nn.Sequential(mlp(obs_dim, hidden_dims, action_dim), nn.Tanh())
        self.actor_target = copy.deepcopy(self.actor)
        self.critics = TwinCritics(obs_dim + action_dim, hidden_dims, learning_rate, tau)
        self._actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=learning_rate)
        self._gamma, self._tau, self._policy_frequency = gamma, tau, policy_frequency
        self._target_noise, self._target_noise_clip = target_noise, target_noise_clip
        self._updates = 0

    def update(self, batch: Transitions, noise: Tensor | None = None) -> Tensor:
        """One gradient step of the critics, and of the actor when it is due; the critics' loss."""
        self._updates += 1
        following = torch.randn_like(batch.actions) if noise is None else noise[1]
        with torch.no_grad():
            disturbance = (following * self._target_noise).clamp(-self._target_noise_clip, self._target_noise_clip)
            next_actions = (self.actor_target(batch.next_obs) + disturbance).clamp(-1, 1)
            next_value = self.critics.lowest_target(batch.next_obs, next_actions)
            wanted = batch.rewards + self._gamma * (1 - batch.terminated) * next_value
        loss = self.critics.fit(batch.obs, batch.actions, wanted)

        if self._updates % self._policy_frequency == 0:
            self.critics.freeze(True)
            value = self.critics.first(torch.cat([batch.obs, self.actor(batch.obs)], -1))
            descend(self._actor_optimizer, -value.mean())
            self.critics.freeze(False)
            self.critics.move_targets()
            polyak(self.actor, self.actor_target, self._tau)
        return loss


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One gradient step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


PLAIN: Mapping[str, Callable[..., PlainSAC | PlainTD3]] = {"sac": PlainSAC, "td3": PlainTD3}

"""Soft actor-critic: Haarnoja et al. 2018 (arXiv:1812.05905), with the temperature adapted to a target entropy."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unilab.algos.torch.gradient import Batch
from unilab.algos.torch.offpolicy.config import SACConfig
from unilab.algos.torch.offpolicy.learner import OffPolicyLearner
from unilab.algos.torch.offpolicy.networks.policies import TanhGaussianActor


class SAC(OffPolicyLearner):
    """For a batch of (s, a, r, s') with noise of this step's own, B rows and critics Q_i with targets Q'_i::

    y         = r + gamma (min_i Q'_i(s', a') - alpha log pi(a'|s'))     a' ~ pi(s')
    critics   : minimize mean (Q_i(s, a) - y)^2 / 2
    actor     : minimize mean alpha log pi(a|s) - min_i Q_i(s, a)        a ~ pi(s)
    log alpha : minimize mean -log alpha (log pi(a|s) + target entropy), alpha <= max_alpha

    What depends on the kind of critic is in ``networks/critics.py``. For critics of one value, ``ScalarValue`` has::

        reduced(Q)               = Q.amin(0), or the mean with ``target_reduction: mean``
        targets(Q', r, gamma, b) = r + gamma (reduced(Q') - b)     b = alpha log pi(a'|s'), gamma 0 at a termination
        losses(Q, y)             = (Q - y)^2 / 2

    ``CategoricalValue`` has the same of distributions over ``num_atoms`` values.
    """

    STATISTICS = ("critic_loss", "value_mean", "entropy", "alpha")
    config: SACConfig
    actor: TanhGaussianActor

    def __init__(self, config: SACConfig, obs_dim: int, action_dim: int, critic_dim: int = 0) -> None:
        super().__init__(config, obs_dim, action_dim, critic_dim)
        algorithm = config.algorithm
        self.log_alpha = nn.Parameter(torch.tensor(math.log(algorithm.init_alpha), device=self.device))
        self.target_entropy = -algorithm.target_entropy_scale * action_dim
        groups = [{"params": self.actor.parameters(), "lr": algorithm.actor_learning_rate}]
        if algorithm.auto_alpha:
            groups.append({"params": [self.log_alpha], "lr": algorithm.alpha_learning_rate})
        self.actor_optimizer = self.adam(*groups)

    @property
    def alpha(self) -> Tensor:
        """The temperature, a scalar."""
        return self.log_alpha.detach().exp()

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            policy = self.actor.distribution(batch["next_obs"])
            next_actions, next_log_probs = policy.sample_with_log_prob(batch["next_noise"])
            next_outputs = self.target_critics(self.critic_obs(batch, "next_"), next_actions)
            bonus = self.alpha * next_log_probs
            targets = self.value.targets(next_outputs, batch["rewards"], self.discounts(batch), bonus)
        outputs = self.critics(self.critic_obs(batch), batch["actions"])
        losses = self.value.losses(outputs, targets)
        statistics = {"critic_loss": losses.mean(0), "value_mean": self.value.expected(outputs.detach()).mean(0)}
        return losses.sum(0), statistics

    def actor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The temperature's loss is added: neither's gradient depends on the other."""
        actions, log_probs = self.actor.distribution(batch["obs"]).sample_with_log_prob(batch["noise"])
        values = self.value.reduced(self.critics(self.critic_obs(batch), actions))
        losses = self.alpha * log_probs - values
        alpha_losses = -self.log_alpha * (log_probs.detach() + self.target_entropy)
        return losses + alpha_losses, {"entropy": -log_probs}

    def _update(self, batch: Batch, with_actor: bool) -> None:
        batch = self.prepared(batch)
        self.minimize(self.critic_loss, self.critic_optimizer, batch)
        if with_actor:
            self.minimize(self.actor_loss, self.actor_optimizer, batch)
            self._bound_alpha()
        self.follow(self.target_critics, self.critics)
        self._statistics["alpha"].copy_(self.alpha)

    @torch.no_grad()
    def _bound_alpha(self) -> None:
        if (bound := self.config.algorithm.max_alpha) is not None:
            self.log_alpha.clamp_(max=math.log(bound))

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "init_alpha": self.config.algorithm.init_alpha,
            "log_alpha": self.log_alpha.detach(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As the base class's; the temperature goes on too, unless this learner began with another one."""
        super().load_state_dict(state)
        if state["init_alpha"] == self.config.algorithm.init_alpha:
            self.log_alpha.data.copy_(state["log_alpha"])
            self._bound_alpha()

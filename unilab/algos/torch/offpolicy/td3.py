"""Twin delayed deep deterministic policy gradient: Fujimoto et al. 2018 (arXiv:1802.09477)."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unilab.algos.torch.gradient import Batch
from unilab.algos.torch.offpolicy.config import TD3Config
from unilab.algos.torch.offpolicy.learner import OffPolicyLearner


class TD3(OffPolicyLearner):
    """For a batch of (s, a, r, s'), critics Q_i with targets Q'_i and an actor mu with target mu'::

        a'      = clip(mu'(s') + clip(target_noise * n, +-target_noise_clip), -1, 1)
        y       = r + gamma min_i Q'_i(s', a')
        critics : minimize mean (Q_i(s, a) - y)^2 / 2
        actor   : maximize mean Q_1(s, mu(s)), and all targets follow, every policy_frequency updates

    This is ``target_reduction: min``. With ``mean``, the default, y has the mean of the Q'_i instead, and the actor
    maximizes the mean of the Q_i. The minimum, y and the square are ``reduced``, ``targets`` and ``losses`` of
    ``networks/critics.py``, written out in the docstring of ``SAC``; b is 0 here.
    """

    STATISTICS = ("critic_loss", "value_mean", "policy_value")
    config: TD3Config

    def __init__(self, config: TD3Config, obs_dim: int, action_dim: int, critic_dim: int = 0) -> None:
        super().__init__(config, obs_dim, action_dim, critic_dim)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_actor.normalizer = self.actor.normalizer
        self.actor_optimizer = self.adam(
            {"params": self.actor.parameters(), "lr": config.algorithm.actor_learning_rate}
        )

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        algorithm = self.config.algorithm
        with torch.no_grad():
            clip = algorithm.target_noise_clip
            disturbance = (algorithm.target_noise * batch["next_noise"]).clamp(-clip, clip)
            next_actions = self.target_actor.act(batch["next_obs"], disturbance)
            next_outputs = self.target_critics(self.critic_obs(batch, "next_"), next_actions)
            no_bonus = torch.zeros_like(batch["rewards"])
            targets = self.value.targets(next_outputs, batch["rewards"], self.discounts(batch), no_bonus)
        outputs = self.critics(self.critic_obs(batch), batch["actions"])
        losses = self.value.losses(outputs, targets)
        statistics = {"critic_loss": losses.mean(0), "value_mean": self.value.expected(outputs.detach()).mean(0)}
        return losses.sum(0), statistics

    def actor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        members = None if self.config.algorithm.target_reduction == "mean" else 1
        outputs = self.critics(self.critic_obs(batch), self.actor.mode(batch["obs"]), members)
        values = self.value.expected(outputs).mean(0)
        return -values, {"policy_value": values}

    def _update(self, batch: Batch, with_actor: bool) -> None:
        batch = self.prepared(batch)
        self.minimize(self.critic_loss, self.critic_optimizer, batch)
        if with_actor:
            self.minimize(self.actor_loss, self.actor_optimizer, batch)
            self.follow(self.target_critics, self.critics)
            self.follow(self.target_actor, self.actor)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"target_actor": self.target_actor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.target_actor.load_state_dict(state["target_actor"])

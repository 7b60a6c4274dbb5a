"""Soft actor-critic: Haarnoja et al. 2018 (arXiv:1812.05905), with the temperature adapted to a target entropy."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unilab.algos.torch.offpolicy.config import SACConfig
from unilab.algos.torch.offpolicy.learner import Batch, Inputs, OffPolicyLearner
from unilab.algos.torch.offpolicy.networks.mlp import ExplicitPass, Scratch
from unilab.algos.torch.offpolicy.networks.policies import tanh_gaussian, tanh_gaussian_gradient
from unilab.algos.torch.offpolicy.networks.value_heads import reduction_gradient


class SAC(OffPolicyLearner):
    """For a batch of (s, a, r, s') with noise of this step's own, B rows and critics Q_i with targets Q'_i::

    y         = r + gamma (min_i Q'_i(s', a') - alpha log pi(a'|s'))     a' ~ pi(s')
    critics   : minimize mean (Q_i(s, a) - y)^2 / 2
    actor     : minimize mean alpha log pi(a|s) - min_i Q_i(s, a)        a ~ pi(s)
    log alpha : minimize mean -log alpha (log pi(a|s) + target entropy)
    """

    STATISTICS = ("critic_loss", "value_mean", "entropy", "alpha")
    config: SACConfig

    def __init__(self, config: SACConfig, obs_dim: int, action_dim: int, critic_dim: int = 0) -> None:
        device = torch.device(config.learner_device)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(config.algorithm.init_alpha), device=device))
        self.alpha = self.log_alpha.detach().exp()
        self.target_entropy = -config.algorithm.target_entropy_scale * action_dim
        super().__init__(config, obs_dim, action_dim, critic_dim)

    def _actor_groups(self) -> list[dict[str, Any]]:
        algorithm = self.config.algorithm
        groups = [{"params": [self.actor_parameters.values], "lr": algorithm.actor_learning_rate}]
        if algorithm.auto_alpha:
            groups.append({"params": [self.log_alpha], "lr": algorithm.alpha_learning_rate})
        return groups

    def _build_share(self, index: int, rows: slice, scratch: Scratch) -> "SACShare":
        return SACShare(self, index, rows, scratch)

    def _policy_frequency(self) -> int:
        return self.config.algorithm.policy_frequency

    def _step_actor(self) -> None:
        if self.config.algorithm.auto_alpha:
            log_probs = torch.stack([share.log_prob_sum for share in self.shares]).sum()  # type: ignore[attr-defined]
            self.log_alpha.grad = -(log_probs / self.config.batch_size + self.target_entropy)
        self.step(self.actor_parameters, self.actor_optimizer)
        torch.exp(self.log_alpha.detach(), out=self.alpha)

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
        torch.exp(self.log_alpha.detach(), out=self.alpha)


class SACShare:
    """Some rows of every SAC update."""

    def __init__(self, learner: SAC, index: int, rows: slice, scratch: Scratch) -> None:
        self._inputs = Inputs(learner, rows)
        self._head = learner.head
        self._sample_policy = learner.compiled(tanh_gaussian)
        self._policy_gradient = learner.compiled(tanh_gaussian_gradient)
        self._target_values = learner.compiled(learner.head.targets)
        self._loss_gradient = learner.compiled(learner.head.loss_gradient)
        self._values_gradient = learner.compiled(learner.head.values_gradient)
        self._alpha = learner.alpha
        self._batch_size = learner.config.batch_size
        self._reduction = learner.config.algorithm.target_reduction
        count = self._inputs.count
        actor, critics = learner.actor_parameters, learner.critic_parameters
        self._critics = ExplicitPass(critics.layers, count, gradients=critics.gradients[index], scratch=scratch)
        self._judges = ExplicitPass(critics.layers, count, scratch=scratch)
        self._targets = ExplicitPass(learner.target_parameters.layers, count, gradient_rows=0, scratch=scratch)
        self._next_actor = ExplicitPass(actor.layers, count, gradient_rows=0, scratch=scratch)
        # The actor does not change between the two halves of an update: one pass serves s and s'.
        self._actor = ExplicitPass(actor.layers, 2 * count, gradients=actor.gradients[index], gradient_rows=count)
        self._critic_dim = self._critics.inputs.shape[1] - learner.action_dim
        # What statistics() reads has memory of its own: that of a recording on CUDA is not always the latest update's.
        self._wanted = learner.head.no_targets(count, learner.device)
        self.log_prob_sum = torch.zeros((), device=learner.device)

    @torch.no_grad()
    def critic_gradient(self, batch: Batch, noise: Tensor, with_actor: bool) -> None:
        read, rows, count, split = self._inputs, self._inputs.rows, self._inputs.count, self._critic_dim
        critic_obs = read.critic_obs(batch)
        policy = self._actor if with_actor else self._next_actor
        policy.inputs[-count:].copy_(read.next_obs(batch))
        if with_actor:
            policy.inputs[:count].copy_(read.obs(batch))
            self._judges.inputs[:, :split].copy_(critic_obs)
        outputs = policy.forward()[0].float()
        following = self._sample_policy(outputs[-count:], noise[1, rows])
        if with_actor:
            self._sample = self._sample_policy(outputs[:count], noise[0, rows])
            torch.sum(self._sample.log_prob, 0, out=self.log_prob_sum)

        self._targets.inputs[:, :split].copy_(read.critic_obs(batch, "next_"))
        self._targets.inputs[:, split:].copy_(following.action)
        self._wanted.copy_(
            self._target_values(
                self._targets.forward().float(),
                batch["rewards"][rows],
                read.discounts(batch),
                self._alpha * following.log_prob,
            )
        )
        self._critics.inputs[:, :split].copy_(critic_obs)
        self._critics.inputs[:, split:].copy_(batch["actions"][rows])
        gradient = self._loss_gradient(self._critics.forward().float(), self._wanted, self._batch_size)
        self._critics.backward(gradient.to(self._critics.outputs.dtype))

    @torch.no_grad()
    def actor_gradient(self) -> None:
        dtype = self._judges.outputs.dtype
        self._judges.inputs[:, self._critic_dim :].copy_(self._sample.action)
        outputs = self._judges.forward().float()
        chosen = reduction_gradient(self._head.values(outputs), self._reduction).div_(-self._batch_size)
        action_gradient = self._judges.backward(
            self._values_gradient(outputs, chosen).to(dtype), inputs_from=self._critic_dim
        )
        assert action_gradient is not None
        gradient = self._policy_gradient(self._sample, action_gradient.float(), self._alpha / self._batch_size)
        self._actor.backward(gradient.to(dtype).unsqueeze(0))

    @torch.no_grad()
    def statistics(self) -> Tensor:
        outputs = self._critics.outputs.float()
        loss = self._head.loss(outputs, self._wanted).mean(0).sum()
        values = self._head.values(outputs).mean(0).sum()
        return torch.stack([loss, values, -self.log_prob_sum, self._alpha * self._inputs.count])

"""Twin delayed deep deterministic policy gradient: Fujimoto et al. 2018 (arXiv:1802.09477)."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unilab.algos.torch.offpolicy.config import TD3Config
from unilab.algos.torch.offpolicy.learner import Batch, Inputs, OffPolicyLearner
from unilab.algos.torch.offpolicy.networks.flat_parameters import FlatParameters
from unilab.algos.torch.offpolicy.networks.mlp import ExplicitPass, Scratch
from unilab.algos.torch.offpolicy.networks.value_heads import reduction_gradient


class TD3(OffPolicyLearner):
    """For a batch of (s, a, r, s'), critics Q_i with targets Q'_i and an actor mu with target mu'::

        a'      = clip(mu'(s') + clip(target_noise * n, +-target_noise_clip), -1, 1)
        y       = r + gamma min_i Q'_i(s', a')
        critics : minimize mean (Q_i(s, a) - y)^2 / 2
        actor   : maximize mean Q_1(s, mu(s)), and all targets follow, every policy_frequency updates

    With ``target_reduction: mean`` both minima are means, and the actor follows the mean of the critics.
    """

    STATISTICS = ("critic_loss", "value_mean", "policy_value")
    config: TD3Config

    def __init__(self, config: TD3Config, obs_dim: int, action_dim: int, critic_dim: int = 0) -> None:
        super().__init__(config, obs_dim, action_dim, critic_dim)

    def _actor_groups(self) -> list[dict[str, Any]]:
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_actor_parameters = FlatParameters(
            self.target_actor.body, 0, getattr(torch, self.config.learner_dtype)
        )
        return [{"params": [self.actor_parameters.values], "lr": self.config.algorithm.actor_learning_rate}]

    def _build_share(self, index: int, rows: slice, scratch: Scratch) -> "TD3Share":
        return TD3Share(self, index, rows, scratch)

    def _policy_frequency(self) -> int:
        return self.config.algorithm.policy_frequency

    def _step_actor(self) -> None:
        self.step(self.actor_parameters, self.actor_optimizer)

    def _move_targets(self, with_actor: bool) -> None:
        if with_actor:
            super()._move_targets(with_actor)
            self.target_actor_parameters.move_towards(self.actor_parameters.values, self.config.algorithm.tau)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"target_actor": self.target_actor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.target_actor.load_state_dict(state["target_actor"])
        self.target_actor_parameters.changed()


class TD3Share:
    """Some rows of every TD3 update."""

    def __init__(self, learner: TD3, index: int, rows: slice, scratch: Scratch) -> None:
        algorithm = learner.config.algorithm
        self._inputs = Inputs(learner, rows)
        self._head = learner.head
        self._target_values = learner.compiled(learner.head.targets)
        self._loss_gradient = learner.compiled(learner.head.loss_gradient)
        self._values_gradient = learner.compiled(learner.head.values_gradient)
        self._batch_size = learner.config.batch_size
        self._reduction = algorithm.target_reduction
        self._noise, self._noise_clip = algorithm.target_noise, algorithm.target_noise_clip
        count = self._inputs.count
        actor, critics = learner.actor_parameters, learner.critic_parameters
        judges = critics.layers if self._reduction == "mean" else [layer.member(0) for layer in critics.layers]
        self._critics = ExplicitPass(critics.layers, count, gradients=critics.gradients[index], scratch=scratch)
        self._judges = ExplicitPass(judges, count, scratch=scratch)
        self._targets = ExplicitPass(learner.target_parameters.layers, count, gradient_rows=0, scratch=scratch)
        self._target_actor = ExplicitPass(
            learner.target_actor_parameters.layers, count, gradient_rows=0, scratch=scratch
        )
        self._actor = ExplicitPass(actor.layers, count, gradients=actor.gradients[index])
        self._critic_dim = self._critics.inputs.shape[1] - learner.action_dim
        # What statistics() reads has memory of its own: that of a recording on CUDA is not always the latest update's.
        self._wanted = learner.head.no_targets(count, learner.device)
        self._policy_value = torch.zeros((), device=learner.device)

    @torch.no_grad()
    def critic_gradient(self, batch: Batch, noise: Tensor, with_actor: bool) -> None:
        read, rows, split = self._inputs, self._inputs.rows, self._critic_dim
        critic_obs = read.critic_obs(batch)
        self._target_actor.inputs.copy_(read.next_obs(batch))
        disturbance = (noise[1, rows] * self._noise).clamp_(-self._noise_clip, self._noise_clip)
        following = self._target_actor.forward()[0].float().tanh().add_(disturbance).clamp_(-1, 1)
        self._targets.inputs[:, :split].copy_(read.critic_obs(batch, "next_"))
        self._targets.inputs[:, split:].copy_(following)
        self._wanted.copy_(
            self._target_values(self._targets.forward().float(), batch["rewards"][rows], read.discounts(batch), None)
        )
        self._critics.inputs[:, :split].copy_(critic_obs)
        self._critics.inputs[:, split:].copy_(batch["actions"][rows])
        gradient = self._loss_gradient(self._critics.forward().float(), self._wanted, self._batch_size)
        self._critics.backward(gradient.to(self._critics.outputs.dtype))
        if with_actor:
            self._actor.inputs.copy_(read.obs(batch))
            self._judges.inputs[:, :split].copy_(critic_obs)

    @torch.no_grad()
    def actor_gradient(self) -> None:
        dtype = self._judges.outputs.dtype
        action = self._actor.forward()[0].float().tanh()
        self._judges.inputs[:, self._critic_dim :].copy_(action)
        outputs = self._judges.forward().float()
        values = self._head.values(outputs)
        torch.sum(values.mean(0), 0, out=self._policy_value)
        chosen = reduction_gradient(values, self._reduction).div_(-self._batch_size)
        action_gradient = self._judges.backward(
            self._values_gradient(outputs, chosen).to(dtype), inputs_from=self._critic_dim
        )
        assert action_gradient is not None
        gradient = torch.addcmul(action_gradient.float(), action_gradient.float() * action, action, value=-1)
        self._actor.backward(gradient.to(dtype).unsqueeze(0))

    @torch.no_grad()
    def statistics(self) -> Tensor:
        outputs = self._critics.outputs.float()
        loss = self._head.loss(outputs, self._wanted).mean(0).sum()
        values = self._head.values(outputs).mean(0).sum()
        return torch.stack([loss, values, self._policy_value])

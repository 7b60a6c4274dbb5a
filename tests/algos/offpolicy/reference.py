"""SAC and TD3 as the papers write them, in whole batches and row by row: what the learners are compared with."""

import copy

import torch
from torch import Tensor, nn

from unilab.algos.torch.networks.distributions import LOG_SQRT_2PI, LOG_STD_MAX, LOG_STD_MIN
from unilab.algos.torch.offpolicy.config import OffPolicyConfig, SACConfig


class Reference:
    """Starts from copies of a learner's networks; ``update`` takes the noise that the learner would draw."""

    def __init__(self, learner, action_dim: int) -> None:
        self.config: OffPolicyConfig = learner.config
        self.algorithm = self.config.algorithm
        self.sac = isinstance(self.config, SACConfig)
        self.actor, self.critics = copy.deepcopy(learner.actor), copy.deepcopy(learner.critics)
        self.target_critics, self.target_actor = copy.deepcopy(self.critics), copy.deepcopy(self.actor)
        algorithm = self.algorithm
        decay = {"weight_decay": algorithm.critic_weight_decay}
        critics = self.critics.body.parameters()
        self.critic_optimizer = torch.optim.AdamW(critics, lr=algorithm.critic_learning_rate, **decay)
        self.actor_optimizer = torch.optim.Adam(self.actor.body.parameters(), lr=algorithm.actor_learning_rate)
        if self.sac:
            self.log_alpha = torch.tensor(algorithm.init_alpha).log().requires_grad_()
            self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=algorithm.alpha_learning_rate)
            self.target_entropy = -algorithm.target_entropy_scale * action_dim
        self.atoms = torch.linspace(algorithm.value_min, algorithm.value_max, algorithm.num_atoms)
        self.updates = 0

    def policy(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.actor.outputs(obs).chunk(2, -1)
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1)
        before = mean + log_std.exp() * noise
        density = -0.5 * ((before - mean) / log_std.exp()) ** 2 - log_std - LOG_SQRT_2PI
        action = torch.tanh(before)
        return action, (density + 2 * torch.log(torch.cosh(before.double())).float()).sum(-1)  # cosh^-2 = 1 - tanh^2

    def expected(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0] if self.algorithm.num_atoms == 1 else torch.softmax(outputs, -1) @ self.atoms

    def reduced(self, values: Tensor) -> Tensor:
        return values.min(0).values if self.algorithm.target_reduction == "min" else values.mean(0)

    def critic_loss(self, batch: dict[str, Tensor], noise: Tensor) -> Tensor:
        see, see_next = (batch[prefix + ("critic" if "critic" in batch else "obs")] for prefix in ("", "next_"))
        bonus = torch.zeros_like(batch["rewards"])
        with torch.no_grad():
            if self.sac:
                following, log_prob = self.policy(batch["next_obs"], noise)
                bonus = self.log_alpha.exp() * log_prob
            else:
                clip = self.algorithm.target_noise_clip
                disturbance = (self.algorithm.target_noise * noise).clamp(-clip, clip)
                following = (self.target_actor.mode(batch["next_obs"]) + disturbance).clamp(-1, 1)
            terminated = (batch["dones"] > 0) & (batch["truncated"] == 0)
            steps = batch.get("steps", torch.ones_like(batch["rewards"]))
            discount = self.algorithm.gamma**steps * (~terminated).float()
            outputs = self.target_critics(see_next, following)
        predicted = self.critics(see, batch["actions"])
        if self.algorithm.num_atoms == 1:
            target = batch["rewards"] + discount * (self.reduced(outputs[..., 0]) - bonus)
            return sum(0.5 * nn.functional.mse_loss(member[:, 0], target) for member in predicted)
        target = self.projected(outputs, batch["rewards"], discount, bonus)
        return sum(-(target * torch.log_softmax(member, -1)).sum(-1).mean() for member in predicted)

    def projected(self, outputs: Tensor, rewards: Tensor, discounts: Tensor, bonus: Tensor) -> Tensor:
        """Row by row and atom by atom."""
        chances = torch.softmax(outputs, -1)
        low, high, count = self.algorithm.value_min, self.algorithm.value_max, self.algorithm.num_atoms
        lowest = (chances @ self.atoms).argmin(0)
        result = torch.zeros(len(rewards), count)
        for row in range(len(rewards)):
            use = chances[lowest[row], row] if self.algorithm.target_reduction == "min" else chances[:, row].mean(0)
            for atom, chance in zip(self.atoms, use, strict=True):
                value = (rewards[row] + discounts[row] * (atom - bonus[row])).clamp(low, high)
                nearness = (1 - (value - self.atoms).abs() / (self.atoms[1] - self.atoms[0])).clamp(min=0)
                result[row] += chance * nearness
        return result

    def actor_loss(self, batch: dict[str, Tensor], noise: Tensor) -> Tensor:
        see = batch["critic" if "critic" in batch else "obs"]
        if not self.sac:
            values = self.expected(self.critics(see, self.actor.mode(batch["obs"])))
            return -(values[0] if self.algorithm.target_reduction == "min" else values.mean(0)).mean()
        action, log_prob = self.policy(batch["obs"], noise)
        self.log_prob = log_prob.detach()
        values = self.reduced(self.expected(self.critics(see, action)))
        return (self.log_alpha.exp().detach() * log_prob - values).mean()

    def update(self, batch: dict[str, Tensor], noise: Tensor) -> None:
        self.updates += 1
        self.critic_optimizer.zero_grad()
        self.critic_loss(batch, noise[1]).backward()
        self.critic_optimizer.step()
        with_actor = self.updates % self.algorithm.policy_frequency == 0
        if with_actor:
            self.actor_optimizer.zero_grad()
            self.actor_loss(batch, noise[0]).backward()
            self.actor_optimizer.step()
            if self.sac and self.algorithm.auto_alpha:
                self.alpha_optimizer.zero_grad()
                (-self.log_alpha * (self.log_prob + self.target_entropy)).mean().backward()
                self.alpha_optimizer.step()
        if self.sac or with_actor:
            self.follow(self.target_critics, self.critics)
            self.follow(self.target_actor, self.actor)

    @torch.no_grad()
    def follow(self, target: nn.Module, network: nn.Module) -> None:
        for theirs, ours in zip(target.parameters(), network.parameters(), strict=True):
            theirs.mul_(1 - self.algorithm.tau).add_(ours, alpha=self.algorithm.tau)

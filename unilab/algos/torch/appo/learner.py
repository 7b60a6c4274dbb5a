"""The learner of asynchronous PPO: returns by GAE or V-trace, and the clipped update of IMPACT.

Papers: Luo et al. 2020, IMPACT (arXiv:1912.00167); Espeholt et al. 2018, IMPALA and V-trace (arXiv:1802.01561);
Schulman et al. 2015, GAE (arXiv:1506.02438), and 2017, PPO (arXiv:1707.06347).
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unilab.algos.torch.appo.actor_critic import Actor, Critic
from unilab.algos.torch.appo.config import AlgorithmConfig as Defaults
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.vtrace import vtrace_advantages
from unilab.algos.torch.gradient import Batch, SharedGradients
from unilab.algos.torch.networks.normalizer import RunningNormalizer
from unilab.algos.torch.networks.sizes import pass_numbers, state_bytes
from unilab.envs import EnvDims
from unilab.ipc.memory_budget import HOST, MIB, BudgetItem
from unilab.run.checkpoint import continue_optimizer
from unilab.settings import nearest
from unilab.tracing.spans import span

LEARNING_RATE_RANGE = (1e-5, 1e-2)
STATISTICS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")


class APPOLearner:
    """IMPACT. ``update`` learns from one rollout; ``get_weights`` is what the collector acts with.

    The networks are moved to ``device``. ``num_threads`` threads share each minibatch on a CPU (``SharedGradients``).
    All settings but device, threads and dtype are in ``algorithm``.

    The defaults here are those of the public signature. The recommended settings are those of ``APPOConfig``; a runner
    passes them all. They differ in ``gamma``, ``entropy_coef``, ``use_clipped_value_loss``, ``schedule``,
    ``desired_kl`` and ``off_policy_correction``.

    Raises:
        TypeError: an unknown keyword argument.
    """

    def __init__(
        self,
        actor: Actor,
        critic: Critic,
        num_learning_epochs: int = Defaults.num_learning_epochs,
        num_mini_batches: int = Defaults.num_mini_batches,
        clip_param: float = Defaults.clip_param,
        gamma: float = 0.99,
        lam: float = Defaults.lam,
        value_loss_coef: float = Defaults.value_loss_coef,
        entropy_coef: float = 0.01,
        learning_rate: float = Defaults.learning_rate,
        max_grad_norm: float = Defaults.max_grad_norm,
        use_clipped_value_loss: bool = True,
        schedule: str = "fixed",
        desired_kl: float = 0.01,
        adaptive_kl_factor: float = Defaults.adaptive_kl_factor,
        adaptive_lr_factor: float = Defaults.adaptive_lr_factor,
        device: str = "cpu",
        optimizer: str = Defaults.optimizer,
        tau: float = Defaults.tau,
        target_update_freq: int = Defaults.target_update_freq,
        vtrace_clip_rho: float = Defaults.vtrace_clip_rho,
        vtrace_clip_c: float = Defaults.vtrace_clip_c,
        enable_compile: bool = Defaults.enable_compile,
        *,
        off_policy_correction: str = "vtrace",
        behavior_ratio_clip: float = Defaults.behavior_ratio_clip,
        value_normalization: bool = Defaults.value_normalization,
        num_threads: int = 1,
        dtype: str = "float32",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        given = dict(locals())
        settings = [field.name for field in dataclasses.fields(Defaults)]
        for name in kwargs:
            known = [*settings, "device", "num_threads", "dtype", "seed"]
            raise TypeError(f"APPOLearner: unknown setting '{name}'; {nearest(name, known)}")
        self.algorithm = Defaults(**{name: given[name] for name in settings})
        self.learning_rate = learning_rate
        self.device = torch.device(device)
        self.actor = actor.to(self.device)
        self.critic = critic.to(self.device)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self._trained = [p for network in (self.actor, self.critic) for p in network.parameters() if p.requires_grad]
        self._gradients = SharedGradients(num_threads if self.device.type == "cpu" else 1, self.device, dtype)
        self.optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer](
            self._trained, lr=learning_rate, fused=self.device.type in ("cpu", "cuda")
        )
        self._generator = torch.Generator().manual_seed(seed)
        self._loss = torch.compile(self.impact_loss, dynamic=True) if enable_compile else self.impact_loss
        self.iteration = 0
        self.updates = 0

    def update(
        self,
        rollout: Mapping[str, Tensor],
        *,
        on_minibatch: Callable[[], None] | None = None,
        on_epoch: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Learn from one rollout: fields of ``RolloutRingBuffer``, time-major, on the learner's device.

        Args:
            rollout: obs [T, N, O], actions [T, N, A], log_probs, rewards, dones [T, N], last_obs [N, O] and,
                with privileged observations, critic [T, N, C] and last_critic [N, C].
            on_minibatch: called before each optimizer step; what it raises ends the update there.
            on_epoch: called after each pass over the rollout but the last.

        Returns:
            Losses, KL divergence to the target policy, learning rate and the like, means over the update.

        Raises:
            FloatingPointError: a loss is not finite; the parameters are those of the last good optimizer step.
        """
        algorithm, critic_key = self.algorithm, "critic" if "critic" in rollout else "obs"
        with span("update"):
            with span("prepare"):
                seen = {self.critic.normalizer: critic_key, self.actor.normalizer: "obs"}  # the same if it is one
                for normalizer, key in seen.items():
                    if isinstance(normalizer, RunningNormalizer):
                        normalizer.update(rollout[key].flatten(0, 1))
                self.sync_target_actor_buffers()
                samples = self._prepare(rollout, critic_key)
                packed = PackedSamples(samples)
            # Where the target policy is the learned one, their KL divergence is 0 before the first optimizer step,
            # whatever the learning rate.
            target_is_learned = algorithm.tau == 1 and self.iteration % algorithm.target_update_freq == 0
            says_something = self.iteration > 0 and not target_is_learned
            totals = {name: torch.zeros((), device=self.device) for name in STATISTICS}
            gradient_norm, steps = 0.0, 0
            pass_steps = min(algorithm.num_mini_batches, len(samples["values"]))
            for rows in self._minibatches(len(samples["values"])):
                if on_epoch is not None and steps and steps % pass_steps == 0:
                    on_epoch()
                if on_minibatch is not None:
                    on_minibatch()
                with span("gradient"):
                    shares = rows.tensor_split(self._gradients.num_threads)
                    take = lambda thread, shares=shares: [packed.take(shares[thread])]  # noqa: E731
                    statistics = self._gradients.differentiate(self._loss, self._trained, take, len(rows))
                if algorithm.schedule == "adaptive" and (steps or says_something):
                    self._adapt_learning_rate(float(statistics["kl"]))
                with span("optimizer_step"):
                    gradient_norm += self._step()
                for name, total in totals.items():
                    total += statistics[name]
                steps += 1
            self.iteration += 1
            self.updates += steps
            if self.iteration % algorithm.target_update_freq == 0:
                self.update_target_network()
        metrics = dict(zip(totals, (torch.stack(list(totals.values())) / steps).tolist(), strict=True))
        metrics |= {"gradient_norm": gradient_norm / steps, "learning_rate": self.learning_rate}
        metrics["value_mean"] = float(self.critic.scale(samples["values"]).mean())
        if self.actor.log_std is not None:
            metrics["action_std"] = float(self.actor.log_std.detach().exp().mean())
        return metrics

    def update_target_network(self) -> None:
        """Move the target actor a fraction ``tau`` of the way to the learned one; copy the normalization."""
        with torch.no_grad():
            for target, learned in zip(self.target_actor.parameters(), self.actor.parameters(), strict=True):
                target.lerp_(learned, self.algorithm.tau)
        self.sync_target_actor_buffers()

    def sync_target_actor_buffers(self) -> None:
        """Give the target actor the learned actor's observation normalization."""
        for target, learned in zip(self.target_actor.buffers(), self.actor.buffers(), strict=True):
            target.copy_(learned)

    def get_weights(self) -> dict[str, Tensor]:
        """The actor's parameters and normalization by their names in its state dict, detached, not copied."""
        return self.actor.state_dict()

    def get_critic_weights(self) -> dict[str, Tensor]:
        """The same of the critic: collectors bootstrap with it where a time limit cut an episode off."""
        return self.critic.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed learner needs to go on bit for bit."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target_actor": self.target_actor.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "initial_learning_rate": self.algorithm.learning_rate,
            "learning_rate": self.learning_rate,
            "generator": self._generator.get_state(),
            "iteration": self.iteration,
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict`` with the settings of now.

        The learning rate goes on as it was, unless this learner began with another one than ``state``.

        Raises:
            RuntimeError: the networks differ.
            ValueError: an earlier version saved it: its optimizer had the moments of all parameters in one, or its
                critic had no scale.
        """
        parameters = state["optimizer"]["param_groups"][0]["params"]
        if len(parameters) != len(self._trained) or "scale.mean" not in state["critic"]:
            raise ValueError("the optimizer's moments or the critic's scale are missing")
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.target_actor.load_state_dict(state["target_actor"])
        if state["initial_learning_rate"] == self.algorithm.learning_rate:
            self.learning_rate = state["learning_rate"]
        continue_optimizer(self.optimizer, state["optimizer"])
        self._set_learning_rate()
        self._generator.set_state(state["generator"])
        self.iteration = state["iteration"]
        self.updates = state["updates"]

    def close(self) -> None:
        """End the learner's threads; idempotent."""
        self._gradients.close()

    @torch.no_grad()
    def _prepare(self, rollout: Mapping[str, Tensor], key: str) -> Batch:
        """Evaluate the target policy and the critic on the whole rollout, and trace the returns.

        Args:
            key: of what the critic sees.

        Returns:
            one row for each step and environment, B = T * N: obs [B, O] normalized, and critic_obs [B, C] where the
            critic sees something else; actions [B, A]; target_outputs [B, outputs] of the target policy's network;
            reference_log_probs [B], from which the surrogate's ratio is counted; values [B] before the update and
            value_targets [B], both in the units of the critic's network (``ValueScale``); advantages [B] normalized.
        """
        algorithm = self.algorithm
        steps, envs = rollout["rewards"].shape
        critic_obs = self.critic.normalizer(torch.cat([rollout[key].flatten(0, 1), rollout[f"last_{key}"]]))
        shared = key == "obs" and self.critic.normalizer is self.actor.normalizer
        obs = critic_obs[:-envs] if shared else self.actor.normalizer(rollout["obs"].flatten(0, 1))

        def evaluate(thread: int) -> tuple[Tensor, Tensor]:
            mine, critics = (rows.tensor_split(self._gradients.num_threads)[thread] for rows in (obs, critic_obs))
            with torch.no_grad(), self._gradients.autocast():  # both belong to the thread
                outputs, values = self.target_actor.body(mine), self.critic.body(critics)
            return outputs.float(), self.critic.scale(values.float().squeeze(-1))

        target_outputs, values = map(torch.cat, zip(*self._gradients.map(evaluate), strict=True))
        actions, behavior_log_probs = rollout["actions"].flatten(0, 1), rollout["log_probs"]
        target_log_probs = self.target_actor.distribution(target_outputs).log_prob(actions)
        as_target = target_log_probs.view(steps, envs)
        value_targets, advantages = vtrace_advantages(  # GAE where all ratios are 1
            behavior_log_probs if algorithm.off_policy_correction == "vtrace" else as_target,
            as_target,
            rollout["rewards"],
            values[:-envs].view(steps, envs),
            values[-envs:],
            rollout["dones"],
            algorithm.gamma,
            algorithm.vtrace_clip_rho,
            algorithm.vtrace_clip_c,
            lam=algorithm.lam,
        )
        if algorithm.value_normalization:
            self.critic.scale.update(value_targets, self.critic.body)
        # IMPACT's ratio is min(pi_behavior / pi_target, clip) * pi / pi_behavior. That is pi / reference with
        # log reference = max(log pi_target, log pi_behavior - log clip), which no optimizer step changes.
        clipped = behavior_log_probs.flatten() - math.log(algorithm.behavior_ratio_clip)
        samples = {
            "obs": obs,
            "actions": actions,
            "target_outputs": target_outputs,
            "reference_log_probs": torch.maximum(target_log_probs, clipped),
            "values": self.critic.scale.outputs(values[:-envs]),
            "value_targets": self.critic.scale.outputs(value_targets.flatten()),
            "advantages": ((advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)).flatten(),
        }
        return samples if shared else samples | {"critic_obs": critic_obs[:-envs]}

    def _minibatches(self, rows: int) -> Iterator[Tensor]:
        """Row indices of each optimizer step: every row once an epoch, sizes that differ by at most one."""
        for _ in range(self.algorithm.num_learning_epochs):
            order = torch.randperm(rows, generator=self._generator).to(self.device)
            yield from order.tensor_split(min(self.algorithm.num_mini_batches, rows))

    def impact_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The IMPACT loss [R] of samples (see ``_prepare``), and ``STATISTICS``, each [R]."""
        algorithm, clip, old_values = self.algorithm, self.algorithm.clip_param, batch["values"]
        policy = self.actor.distribution(self.actor.body(batch["obs"]).float())
        values = self.critic.body(batch.get("critic_obs", batch["obs"])).float().squeeze(-1)

        ratio = torch.exp(policy.log_prob(batch["actions"]) - batch["reference_log_probs"])
        clipped_ratio = ratio.clamp(1 - clip, 1 + clip)
        policy_loss = -torch.minimum(ratio * batch["advantages"], clipped_ratio * batch["advantages"])

        value_loss = (values - batch["value_targets"]).square()
        if algorithm.use_clipped_value_loss:
            near = old_values + (values - old_values).clamp(-clip, clip)
            value_loss = torch.maximum(value_loss, (near - batch["value_targets"]).square())
        entropy = policy.entropy()
        with torch.no_grad():
            kl = self.target_actor.distribution(batch["target_outputs"]).kl(policy)
            clipped = (ratio != clipped_ratio).float()
        losses = policy_loss + algorithm.value_loss_coef * value_loss - algorithm.entropy_coef * entropy
        return losses, dict(zip(STATISTICS, (policy_loss, value_loss, entropy, kl, clipped), strict=True))

    def _adapt_learning_rate(self, kl: float) -> None:
        """Keep the policy about ``desired_kl`` away from the target policy."""
        algorithm, (low, high) = self.algorithm, LEARNING_RATE_RANGE
        if kl > algorithm.desired_kl * algorithm.adaptive_kl_factor:
            self.learning_rate = max(low, self.learning_rate / algorithm.adaptive_lr_factor)
        elif kl < algorithm.desired_kl / algorithm.adaptive_kl_factor:
            self.learning_rate = min(high, self.learning_rate * algorithm.adaptive_lr_factor)
        self._set_learning_rate()

    def _set_learning_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate

    def _step(self) -> float:
        """Clip the gradient and take one optimizer step; returns the norm before clipping."""
        norm = float(nn.utils.clip_grad_norm_(self._trained, self.algorithm.max_grad_norm))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient of update {self.updates + 1} is not finite (iteration {self.iteration + 1}): "
                "lower algorithm.learning_rate or look at the rewards; the last checkpoint is unaffected"
            )
        self.optimizer.step()
        return norm


class PackedSamples:
    """Samples side by side in one matrix [B, W], so that a minibatch is gathered in one pass over memory."""

    def __init__(self, samples: Batch) -> None:
        columns = [tensor.reshape(len(tensor), -1) for tensor in samples.values()]
        self._vectors = {name for name, tensor in samples.items() if tensor.dim() == 1}
        self._names, self._widths = list(samples), [column.shape[1] for column in columns]
        self._matrix = torch.cat(columns, dim=1)

    def take(self, rows: Tensor) -> Batch:
        """The samples of these row indices [R]."""
        parts = self._matrix.index_select(0, rows).split(self._widths, dim=1)
        named = zip(self._names, parts, strict=True)
        return {name: part.squeeze(-1) if name in self._vectors else part for name, part in named}


ALWAYS_RETURNED = 32 * MIB
"""glibc never raises the threshold from which it maps a block on its own above this size (mallopt(3)), so it gives
larger blocks back as soon as they are freed"""


def learner_items(
    config: APPOConfig, actor: Actor, critic: Critic, dims: EnvDims, threads: int, place: str, kept: float
) -> list[BudgetItem]:
    """The memory of an ``APPOLearner``: what it holds between rollouts, and what an update needs while it runs.

    Args:
        actor, critic: those that it will have; on the device ``meta`` they take none themselves.
        threads, place: of its device, the place as budgets name it.
        kept: what blocks of several sizes take over their sum; see ``ProcessCosts``.
    """
    rows, critic_dim = config.num_envs * config.steps_per_env, dims.critic or dims.obs
    both = state_bytes(actor) + state_bytes(critic)
    observations = critic_dim + (dims.obs if config.obs_normalization else 0)
    samples = rows * 4 * (observations + dims.outputs + 5)

    # First the networks' activations over all rows without gradients: a layer's input and output, or the observations
    # in double precision for the normalizer. Then those over one minibatch, with gradients.
    width = 2 if config.learner_dtype == "bfloat16" else 4
    passes = [pass_numbers(actor.body, dims.obs), pass_numbers(critic.body, critic_dim)]
    widest = max(numbers for _, numbers in passes)
    prepare = rows * max(2 * width * widest, 8 * max(dims.obs, critic_dim))
    minibatch = -(-rows // config.algorithm.num_mini_batches)
    gathered = dims.obs + critic_dim + dims.action + dims.outputs + 5
    update = minibatch * (width * (sum(saved for saved, _ in passes) + 2 * widest) + 4 * gathered)
    biggest_prepared, biggest_updated = (width * widest * count // threads for count in (rows, minibatch))
    if place != HOST or biggest_updated >= ALWAYS_RETURNED:  # an accelerator's allocator reuses the blocks of either
        activations = max(prepare, update)
    elif biggest_prepared >= ALWAYS_RETURNED:
        activations = prepare + int(kept * update)
    else:
        activations = int(kept * (prepare + update))
    detail = f"{prepare / MIB:,.1f} MiB for all rows, {update / MIB:,.1f} for a minibatch; what malloc keeps of it"
    return [
        BudgetItem("models", place, both + state_bytes(actor), "actor, critic, target actor"),
        BudgetItem("gradients", place, (threads + 1) * both, "one a thread, and those of the step before"),
        BudgetItem("optimizer state", place, 2 * both, "two moments of every parameter"),
        BudgetItem("samples", place, samples, f"{rows} rows prepared for the update"),
        BudgetItem("activations", place, activations, detail if place == HOST else f"of {max(rows, minibatch)} rows"),
    ]

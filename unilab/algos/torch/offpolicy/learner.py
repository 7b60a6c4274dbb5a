"""What the learners of SAC and TD3 share: networks, one gradient step in parts, targets, checkpoints."""

import copy
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unilab.algos.torch.gradient import Batch, Loss, SharedGradients
from unilab.algos.torch.networks.normalizer import RunningNormalizer
from unilab.algos.torch.networks.sizes import pass_numbers, state_bytes
from unilab.algos.torch.offpolicy.config import OffPolicyConfig, TD3Config, check
from unilab.algos.torch.offpolicy.networks.critics import CategoricalValue, Critics, ScalarValue
from unilab.algos.torch.offpolicy.networks.cuda_graphs import CudaGraphs
from unilab.algos.torch.offpolicy.networks.policies import BoundedActor, build_actor
from unilab.envs import EnvDims
from unilab.ipc.memory_budget import HOST, MIB, BudgetItem
from unilab.run.checkpoint import continue_generator, continue_optimizer
from unilab.run.seeding import derive_seed

DATA_PARALLEL_ROWS = 2048
"""rows of a thread's part of a batch from which threads work on rows of their own; with fewer they would mostly wait
for the interpreter's lock, and they work inside each operation instead"""
PASS_ROWS = 512
"""rows that a core takes through the networks at once: with 4,096, which leave its caches, it needed 9 % more time"""

REWARD_RATE = 0.01
"""weight of the newest batch in the mean square of rewards that ``reward_scale: auto`` follows"""
BFLOAT16_KERNELS = 15 * MIB
"""what oneDNN compiles and keeps for matrix products in bfloat16 on a CPU (torch 2.13, measured)"""


class OffPolicyLearner(ABC):
    """Learns from batches of transitions; ``update`` is one gradient step of the critics, and of the actor when due.

    Args:
        config: all settings of the run.
        obs_dim, action_dim: O and A.
        critic_dim: width C of the privileged observation that the critics see instead; 0: none.

    Attributes:
        actor, critics, target_critics: on the learner's device.
        value: what the critics' outputs mean.
        updates: gradient steps so far.

    Raises:
        SettingsError: settings do not go together, or a network cannot be made as they describe it.
    """

    STATISTICS: tuple[str, ...]
    """names of the means that ``metrics`` gives"""
    actor_optimizer: torch.optim.Optimizer

    def __init__(self, config: OffPolicyConfig, obs_dim: int, action_dim: int, critic_dim: int = 0) -> None:
        check(config)
        self.config = config
        self.action_dim = action_dim
        self.dims = EnvDims(obs_dim, action_dim, critic_dim)
        self.device = torch.device(config.learner_device)
        self.updates = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "networks"))
            actor, critics = build_networks(config, self.dims)
        self.actor: BoundedActor = actor.to(self.device)
        self.critics = critics.to(self.device)
        if not critic_dim:
            self.critics.normalizer = self.actor.normalizer  # they see the same
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.target_critics.normalizer = self.critics.normalizer
        algorithm = config.algorithm
        self.value = ScalarValue(algorithm.target_reduction)
        if algorithm.num_atoms > 1:
            self.value = CategoricalValue(algorithm, self.device)
        self.critic_optimizer = self.adam(
            {
                "params": self.critics.parameters(),
                "lr": algorithm.critic_learning_rate,
                "weight_decay": algorithm.critic_weight_decay,
            }
        )
        self._mean_square = torch.zeros((), device=self.device)
        self._generator = torch.Generator(self.device).manual_seed(derive_seed(config.seed, "updates"))
        statistics = (*self.STATISTICS, "reward_scale") if self.scales_rewards else self.STATISTICS
        self._statistics = {name: torch.zeros((), device=self.device) for name in statistics}

        threads = (config.learner_threads or 1) if self.device.type == "cpu" else 1
        self._rows_of = divide(config, threads)
        torch.set_num_threads(threads // len(self._rows_of))
        self._gradients = SharedGradients(len(self._rows_of), self.device, config.learner_dtype)
        self._compiled: Callable[[Loss], Loss] = functools.cache(lambda loss: torch.compile(loss, dynamic=False))
        self._recorded = self._recording()

    def adam(self, *groups: dict[str, Any]) -> torch.optim.Optimizer:
        """AdamW over groups of parameters, without decay unless a group says so; fused where PyTorch has such a
        kernel."""
        capturable = self.device.type == "cuda" and self.config.algorithm.cuda_graphs
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(list(groups), weight_decay=0.0, fused=fused, capturable=capturable)

    @property
    def scales_rewards(self) -> bool:
        """Whether the factor of the rewards follows the rewards (``reward_scale: auto``)."""
        return self.config.algorithm.reward_scale == "auto"

    @abstractmethod
    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [R] of the critics' values of these rows, and statistics."""

    @abstractmethod
    def actor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [R] of the actor's actions for these rows, and statistics."""

    @abstractmethod
    def _update(self, batch: Batch, with_actor: bool) -> None:
        """One update. It can be recorded: nothing is read back from an accelerator, and only state outlives it."""

    def update(self, batch: Batch) -> None:
        """One update from a batch [B, ...] as ``ReplayBuffer.sample`` returns it, on the learner's device.

        Nothing is read back from an accelerator here; ``metrics`` does that.
        """
        self.updates += 1
        with_actor = self.updates % self.config.algorithm.policy_frequency == 0
        if self._recorded is None:
            self._update(batch, with_actor)
        else:
            self._recorded(self._update, batch, with_actor)

    def prepared(self, batch: Batch) -> Batch:
        """The batch as an update takes it: with scaled rewards, and with standard normal ``noise`` and ``next_noise``
        [B, A] for the actions of this and the next observations."""
        shape = (2, len(batch["rewards"]), self.action_dim)
        noise, next_noise = torch.randn(shape, generator=self._generator, device=self.device)
        return {**batch, "rewards": self._scaled_rewards(batch), "noise": noise, "next_noise": next_noise}

    @torch.no_grad()
    def _scaled_rewards(self, batch: Batch) -> Tensor:
        """[B] that are learned from; the replay buffer holds the environment's own.

        With ``reward_scale: auto`` they are divided by the return that their root mean square would have, if it came in
        every step for ever. The average return of the batches is then between -1 and 1, whatever the task. SimbaV2
        (arXiv:2502.15280) follows the returns themselves, which takes a running sum for every environment; here a batch
        is enough.
        """
        rewards, scale = batch["rewards"], self.config.algorithm.reward_scale
        if scale != "auto":
            return rewards if scale == 1 else scale * rewards
        gamma = self.config.algorithm.gamma
        each = rewards  # in each step, of a row that stands for several
        if "steps" in batch:
            each = rewards * (1 - gamma) / (1 - torch.pow(gamma, batch["steps"]))
        first = self._mean_square == 0  # the first batch with any reward counts alone
        rate = REWARD_RATE + (1 - REWARD_RATE) * first
        self._mean_square.lerp_(each.square().mean(), rate)
        factor = (1 - gamma) * self._mean_square.clamp(min=torch.finfo(rewards.dtype).tiny).rsqrt()
        self._statistics["reward_scale"].copy_(factor)
        return rewards * factor

    def minimize(self, loss: Loss, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        """One step of the optimizer down the mean loss over a batch, whose parts the threads share.

        No other gradient is computed: networks with parameters of other optimizers are constants in ``loss``. With
        ``enable_compile`` the loss is compiled when it is first seen.
        """
        if self.config.algorithm.enable_compile:
            loss = self._compiled(loss)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        size = len(batch["rewards"])

        def rows_of(thread: int) -> Iterator[Batch]:
            for rows in self._rows_of[thread]:
                yield batch if rows == slice(0, size) else {name: field[rows] for name, field in batch.items()}

        for name, mean in self._gradients.differentiate(loss, parameters, rows_of, size).items():
            self._statistics[name].copy_(mean)
        optimizer.step()

    @torch.no_grad()
    def follow(self, target: nn.Module, network: nn.Module) -> None:
        """Move the target's parameters ``tau`` of the way to the network's."""
        torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), self.config.algorithm.tau)

    def critic_obs(self, batch: Batch, prefix: str = "") -> Tensor:
        """What the critics see [R, C]."""
        return batch[prefix + ("critic" if "critic" in batch else "obs")]

    def discounts(self, batch: Batch) -> Tensor:
        """[R] factor of the value behind each row: 0 where the episode terminated, not where it was truncated."""
        goes_on = 1 - batch["dones"] * (1 - batch["truncated"])
        gamma = self.config.algorithm.gamma
        return goes_on * (torch.pow(gamma, batch["steps"]) if "steps" in batch else gamma)

    def metrics(self) -> dict[str, float]:
        """Means over the latest batch; those of the actor over the latest that it learned from.

        Raises:
            FloatingPointError: one of them is not finite.
        """
        values = torch.stack(list(self._statistics.values())).tolist()
        means = dict(zip(self._statistics, values, strict=True))
        for name, value in means.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} after update {self.updates}: lower the learning rates or look at the rewards; "
                    "the last checkpoint is unaffected"
                )
        return means

    def update_normalizers(self, obs: Tensor, critic: Tensor | None = None) -> None:
        """Merge new observations [M, O], and privileged ones [M, C], into the running statistics."""
        if isinstance(self.actor.normalizer, RunningNormalizer) and len(obs):
            self.actor.normalizer.update(obs)
        if critic is not None and isinstance(self.critics.normalizer, RunningNormalizer) and len(critic):
            self.critics.normalizer.update(critic)

    def get_weights(self) -> dict[str, Tensor]:
        """The actor's parameters and normalization by their names in its state dict, detached, not copied."""
        return self.actor.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed learner needs to go on bit for bit."""
        return {
            "actor": self.actor.state_dict(),
            "critics": self.critics.state_dict(),
            "target_critics": self.target_critics.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "updates": self.updates,
            "mean_square_reward": self._mean_square,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict`` with the settings of now; raises RuntimeError when the networks differ."""
        self.actor.load_state_dict(state["actor"])
        self.critics.load_state_dict(state["critics"])
        self.target_critics.load_state_dict(state["target_critics"])
        continue_optimizer(self.actor_optimizer, state["actor_optimizer"])
        continue_optimizer(self.critic_optimizer, state["critic_optimizer"])
        self.updates = state["updates"]
        if self.scales_rewards:
            self._mean_square.copy_(state["mean_square_reward"])
        seed = derive_seed(self.config.seed, f"updates resumed at {self.updates}")
        continue_generator(self._generator, state["generator"], seed)
        self._recorded = self._recording()  # the old one would go on with the optimizers' old moments

    def _recording(self) -> CudaGraphs | None:
        """What records ``_update`` on CUDA and replays it; None where the settings or the device exclude that."""
        if self.config.algorithm.cuda_graphs and self.device.type == "cuda":
            return CudaGraphs(self._generator)
        return None

    def close(self) -> None:
        """End the learner's threads; idempotent."""
        self._gradients.close()


def build_networks(config: OffPolicyConfig, dims: EnvDims) -> tuple[BoundedActor, Critics]:
    """The actor and the critics that ``config`` describes, on the CPU.

    Raises:
        SettingsError: one of them cannot be made as the settings describe it.
    """
    return build_actor(config, dims.obs, dims.action), Critics(config, dims.critic or dims.obs, dims.action)


def divide(config: OffPolicyConfig, threads: int) -> list[list[slice]]:
    """The rows of a batch that each thread works through, in parts whose sizes differ by at most one.

    With small batches it is one thread that does so, and ``threads`` work inside its operations.
    """
    data_parallel = config.batch_size // threads >= DATA_PARALLEL_ROWS
    owners, inside = (threads, 1) if data_parallel else (1, threads)
    most = PASS_ROWS * inside if config.learner_device == "cpu" else config.batch_size
    owned = _split(slice(0, config.batch_size), owners)
    return [_split(rows, -(-(rows.stop - rows.start) // most)) for rows in owned]


def _split(rows: slice, count: int) -> list[slice]:
    size = rows.stop - rows.start
    bounds = [rows.start - (-size * part // count) for part in range(count + 1)]  # the first part is the largest
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


def learner_items(
    config: OffPolicyConfig, actor: BoundedActor, critics: Critics, dims: EnvDims, threads: int, place: str
) -> list[BudgetItem]:
    """The memory of a learner: what it keeps between batches, and what an update takes at most, about.

    Args:
        actor, critics: those that it will have; on the device ``meta`` they take none themselves.
        threads, place: of its device, the place as budgets name it.
    """
    of_actor, of_critics = state_bytes(actor), state_bytes(critics)
    trained, targets, detail = of_actor + of_critics, of_critics, "actor, critics, target critics"
    if isinstance(config, TD3Config):
        targets, detail = trained, f"{detail}, target actor"
    # A new gradient is complete before the last one goes, and each thread adds that of a part to those of its others.
    divided = divide(config, threads)
    gradients = trained + max(of_actor, of_critics) * sum(min(2, len(parts)) for parts in divided)
    # While the actor learns: what is kept for the gradient, and the gradients of two layers, each thread in its largest
    # part of a batch.
    seen = dims.critic or dims.obs
    passes = [pass_numbers(actor.body, dims.obs), pass_numbers(critics, seen, dims.action)]
    numbers = sum(kept for kept, _ in passes) + 2 * max(widest for _, widest in passes)
    rows = sum(max(part.stop - part.start for part in parts) for parts in divided)
    workspace = rows * numbers * (2 if config.learner_dtype == "bfloat16" else 4)
    if config.algorithm.cuda_graphs and place != HOST and config.algorithm.policy_frequency > 1:
        workspace *= 2  # updates with and without the actor are recorded, each with memory of its own
    outputs = config.algorithm.num_critics * config.algorithm.num_atoms
    temporaries = 4 * config.batch_size * (2 * (dims.obs + seen) + 16 * dims.action + 8 * outputs)
    items = [
        BudgetItem("models", place, trained + targets, detail),
        BudgetItem("gradients", place, gradients, "of the last update, and what the threads add up to the next"),
        BudgetItem("optimizer state", place, 2 * trained, "two moments of every parameter"),
        BudgetItem("workspace", place, workspace, f"outputs and gradients of layers for {config.batch_size:,} rows"),
        BudgetItem("temporaries", place, temporaries, "actions, noise, targets of one update"),
    ]
    if config.learner_dtype == "bfloat16" and place == HOST:
        items.append(BudgetItem("kernels", HOST, BFLOAT16_KERNELS, "compiled for products in bfloat16"))
    return items

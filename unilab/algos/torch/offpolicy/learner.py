"""What the learners of SAC and TD3 share: networks, optimizers, threads, targets, checkpoints."""

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from unilab.algos.torch.networks.normalizer import RunningNormalizer
from unilab.algos.torch.offpolicy.config import OffPolicyConfig
from unilab.algos.torch.offpolicy.networks.cuda_graphs import CudaGraphs
from unilab.algos.torch.offpolicy.networks.flat_parameters import FlatParameters
from unilab.algos.torch.offpolicy.networks.mlp import Scratch
from unilab.algos.torch.offpolicy.networks.policies import Critics, build_actor
from unilab.algos.torch.offpolicy.networks.value_heads import build_head
from unilab.machine.thread_team import ThreadTeam
from unilab.run.checkpoint import continue_generator, continue_optimizer
from unilab.run.seeding import derive_seed

DATA_PARALLEL_ROWS = 2048
"""a thread's part of a batch from which threads have rows of their own; in smaller ones they would mostly wait for the
interpreter's lock, and work inside each operation instead"""
PASS_ROWS = 512
"""rows that a core takes through the networks at once: with 4,096, which leave its caches, it needed 9 % more time"""

Batch = Mapping[str, Tensor]
Function = TypeVar("Function", bound=Callable[..., Any])


class Share(Protocol):
    """A part of every batch: the algorithm itself. The learner sums the shares' gradients."""

    def critic_gradient(self, batch: Batch, noise: Tensor, with_actor: bool) -> None:
        """Write the critics' gradient for this share's rows.

        Args:
            batch: all rows.
            noise: [2, B, A] standard normal, for the actions of this and of the next observations.
            with_actor: whether an actor update follows.
        """

    def actor_gradient(self) -> None:
        """Write the actor's gradient for the same rows, with the critics as they are after their update."""

    def statistics(self) -> Tensor:
        """Sums over this share's rows of the learner's ``STATISTICS`` in the latest update."""


class OffPolicyLearner(ABC):
    """Learns from batches of transitions; ``update`` is one gradient step of the critics, and of the actor when due.

    Args:
        config: all settings of the run.
        obs_dim, action_dim: O and A.
        critic_dim: width C of the privileged observation that the critics see instead; 0: none.

    Attributes:
        actor, critics: on the learner's device; their parameters are views of flat tensors.
        updates: gradient steps so far.
    """

    STATISTICS: tuple[str, ...]
    """names of what ``Share.statistics`` sums"""

    def __init__(self, config: OffPolicyConfig, obs_dim: int, action_dim: int, critic_dim: int = 0) -> None:
        self.config = config
        self.action_dim = action_dim
        self.device = torch.device(config.learner_device)
        self.updates = 0
        threads = (config.learner_threads or 1) if self.device.type == "cpu" else 1
        divided = divide(config, threads)
        torch.set_num_threads(threads // len(divided))
        self.team = ThreadTeam(len(divided))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "networks"))
            self.actor = build_actor(config, obs_dim, action_dim).to(self.device)
            self.critics = Critics(config, critic_dim or obs_dim, action_dim).to(self.device)
        if not critic_dim:
            self.critics.normalizer = self.actor.normalizer  # they see the same
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.head = build_head(config.algorithm, self.device)
        dtype = getattr(torch, config.learner_dtype)
        num_shares = sum(map(len, divided))
        self.actor_parameters = FlatParameters(self.actor.body, num_shares, dtype)
        self.critic_parameters = FlatParameters(self.critics.body, num_shares, dtype)
        self.target_parameters = FlatParameters(self.target_critics.body, 0, dtype)
        self.critic_optimizer = self._adam(
            [{"params": [self.critic_parameters.values], "lr": config.algorithm.critic_learning_rate}]
        )
        self.actor_optimizer = self._adam(self._actor_groups())
        self._generator = torch.Generator(self.device).manual_seed(derive_seed(config.seed, "updates"))
        self.shares: list[Share] = []
        self._of_thread: list[list[Share]] = []
        """the shares that each thread works through"""
        for parts in divided:
            scratch = Scratch()
            own = [self._build_share(len(self.shares) + index, rows, scratch) for index, rows in enumerate(parts)]
            self._of_thread.append(own)
            self.shares += own
        self._run = self._replayed()

    @abstractmethod
    def _actor_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the actor's optimizer."""

    @abstractmethod
    def _build_share(self, index: int, rows: slice, scratch: Scratch) -> Share:
        """The share of that number, for these rows; ``scratch`` is common to the shares of a thread."""

    @abstractmethod
    def _step_actor(self) -> None:
        """Actor update, from the shares' gradients."""

    @abstractmethod
    def _policy_frequency(self) -> int:
        """Critic updates for each actor update."""

    def update(self, batch: Batch) -> None:
        """One update from a batch [B, ...] as ``ReplayBuffer.sample`` returns it, on the learner's device.

        Nothing is read back from an accelerator here; ``metrics`` does that.
        """
        self.updates += 1
        self._run(batch, self.updates % self._policy_frequency() == 0)

    def metrics(self) -> dict[str, float]:
        """Means over the latest batch.

        Raises:
            FloatingPointError: one of them is not finite.
        """
        sums = torch.stack([share.statistics() for share in self.shares]).sum(0)
        means = dict(zip(self.STATISTICS, (sums / self.config.batch_size).tolist(), strict=True))
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
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict`` with the settings of now; raises RuntimeError when the networks differ."""
        self.actor.load_state_dict(state["actor"])
        self.critics.load_state_dict(state["critics"])
        self.target_critics.load_state_dict(state["target_critics"])
        continue_optimizer(self.actor_optimizer, state["actor_optimizer"])
        continue_optimizer(self.critic_optimizer, state["critic_optimizer"])
        self.updates = state["updates"]
        seed = derive_seed(self.config.seed, f"updates resumed at {self.updates}")
        continue_generator(self._generator, state["generator"], seed)
        for parameters in (self.actor_parameters, self.critic_parameters, self.target_parameters):
            parameters.changed()
        self._run = self._replayed()  # a recording would go on with the optimizers' old moments

    def _replayed(self) -> Callable[[Batch, bool], None]:
        """``_update``, on CUDA recorded and replayed if the settings say so."""
        if self.config.algorithm.cuda_graphs and self.device.type == "cuda":
            return CudaGraphs(self._update, self._generator)
        return self._update

    def close(self) -> None:
        """End the learner's threads; idempotent."""
        self.team.close()

    def compiled(self, function: Function) -> Function:
        """``function``, compiled if the settings say so: what lies between the matrix products becomes few kernels."""
        if not self.config.algorithm.enable_compile:
            return function
        return cast(Function, torch.compile(function, dynamic=False))

    def _update(self, batch: Batch, with_actor: bool) -> None:
        rows = len(batch["rewards"])
        noise = torch.randn(2, rows, self.action_dim, generator=self._generator, device=self.device)
        self._each_share(lambda share: share.critic_gradient(batch, noise, with_actor))
        self.step(self.critic_parameters, self.critic_optimizer)
        if with_actor:
            self._each_share(lambda share: share.actor_gradient())
            self._step_actor()
        self._move_targets(with_actor)

    def _each_share(self, work: Callable[[Share], None]) -> None:
        """Do ``work`` for every share, each thread for its own."""

        def of_thread(thread: int) -> None:
            for share in self._of_thread[thread]:
                work(share)

        self.team.map(of_thread)

    def step(self, parameters: FlatParameters, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step with the gradients that the shares wrote."""
        parameters.sum_gradients()
        optimizer.step()
        parameters.changed()

    def _move_targets(self, with_actor: bool) -> None:
        self.target_parameters.move_towards(self.critic_parameters.values, self.config.algorithm.tau)

    def _adam(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        cuda = self.device.type == "cuda"
        capturable = cuda and self.config.algorithm.cuda_graphs
        return torch.optim.Adam(groups, fused=cuda or self.device.type == "cpu", capturable=capturable)


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


class Inputs:
    """Reads one share's rows of a batch."""

    def __init__(self, learner: OffPolicyLearner, rows: slice) -> None:
        algorithm = learner.config.algorithm
        self.rows = rows
        self.count = rows.stop - rows.start
        self._actor_normalizer, self._critic_normalizer = learner.actor.normalizer, learner.critics.normalizer
        self._gamma = algorithm.gamma

    def obs(self, batch: Batch) -> Tensor:
        """What the actor sees, normalized [R, O]."""
        return self._actor_normalizer(batch["obs"][self.rows])

    def next_obs(self, batch: Batch) -> Tensor:
        """What the actor sees next, normalized [R, O]."""
        return self._actor_normalizer(batch["next_obs"][self.rows])

    def critic_obs(self, batch: Batch, prefix: str = "") -> Tensor:
        """What the critics see, normalized [R, C]."""
        key = "critic" if "critic" in batch else "obs"
        return self._critic_normalizer(batch[prefix + key][self.rows])

    def discounts(self, batch: Batch) -> Tensor:
        """[R] factor of the value behind each row: 0 where the episode terminated, not where it was truncated."""
        goes_on = 1 - batch["dones"][self.rows] * (1 - batch["truncated"][self.rows])
        if "steps" in batch:
            return goes_on * torch.pow(self._gamma, batch["steps"][self.rows])
        return goes_on * self._gamma

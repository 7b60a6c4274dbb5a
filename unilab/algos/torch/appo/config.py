"""Every setting of asynchronous PPO, documented once beside its default."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from unilab.run.config import SIDES, STRICT, ActorCriticConfig, Fraction, PositiveFloat, PositiveInt, RunConfig
from unilab.settings import Placement

LEARNING_COST_PER_EPOCH = 12.0
"""core time of learning from one env step in one epoch with networks [256, 256], in microseconds, on AVX-512 cores"""
ROWS_PER_THREAD = 64
"""a thread's share of a minibatch below which more threads do not pay"""


@dataclass(frozen=True)
class NetworkConfig(ActorCriticConfig):
    """The networks of the actor and of the critic, and how the policy begins."""

    activation: Literal["elu", "relu", "tanh", "silu"] = "relu"
    """activation of the built-in multi-layer perceptrons"""
    init_noise_std: PositiveFloat = 1.0
    """standard deviation of the actions before any learning"""


@dataclass(frozen=True)
class AlgorithmConfig:
    """The update: IMPACT (arXiv:1912.00167) with returns of GAE (arXiv:1506.02438) or V-trace (arXiv:1802.01561)."""

    __pydantic_config__ = STRICT

    num_learning_epochs: PositiveInt = 5
    """passes over each rollout"""
    num_mini_batches: PositiveInt = 4
    """optimizer steps in each pass; every sample is in exactly one minibatch of a pass"""
    clip_param: PositiveFloat = 0.2
    """clipping range of the surrogate, and of values with use_clipped_value_loss"""
    gamma: Fraction = 0.995
    """discount for each env step"""
    lam: Fraction = 0.95
    """lambda of the return"""
    value_loss_coef: float = 1.0
    """weight of the value loss"""
    entropy_coef: float = 0.0
    """weight of the entropy, which keeps the policy exploring"""
    learning_rate: PositiveFloat = 1e-3
    """initial learning rate; a fixed schedule keeps it"""
    max_grad_norm: PositiveFloat = 1.0
    """bound of the gradient's norm, over all parameters together"""
    use_clipped_value_loss: bool = False
    """bound the change of each value by clip_param, as the first code of PPO did. Without value_normalization, returns
    far above 1 are then never learned"""
    schedule: Literal["fixed", "adaptive"] = "adaptive"
    """adaptive: the learning rate follows the KL divergence between target and learned policy"""
    desired_kl: PositiveFloat = 0.03
    """KL divergence that the adaptive schedule aims at, in nats"""
    adaptive_kl_factor: Annotated[float, Field(ge=1)] = 1.2
    """the learning rate changes when the KL divergence leaves desired_kl / factor .. desired_kl * factor"""
    adaptive_lr_factor: Annotated[float, Field(ge=1)] = 1.1
    """factor by which the learning rate changes at a time"""
    optimizer: Literal["adam", "adamw"] = "adam"
    """adam, or adamw: Adam with decoupled weight decay"""
    tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    """fraction of the way that the target policy moves to the learned policy at each target update"""
    target_update_freq: PositiveInt = 1
    """iterations between target updates"""
    off_policy_correction: Literal["none", "vtrace"] = "none"
    """how returns allow for the lag of the policy that acted. none: not at all, they are those of GAE. vtrace: by
    importance ratios, which shorten the trace"""
    vtrace_clip_rho: PositiveFloat = 1.0
    """bound of the importance ratio in V-trace's temporal differences"""
    vtrace_clip_c: PositiveFloat = 1.0
    """bound of the importance ratio in the trace of V-trace, which carries later differences back"""
    behavior_ratio_clip: PositiveFloat = 2.0
    """bound of pi_behavior / pi_target in the surrogate (rho of IMPACT)"""
    value_normalization: bool = True
    """scale what the critic learns by the running mean and deviation of its targets (PopArt, arXiv:1602.07714)"""
    enable_compile: Placement[bool] = False
    """compile the loss with torch.compile"""


@dataclass(frozen=True)
class APPOConfig(RunConfig):
    """All settings of an APPO run; those of ``RunConfig`` are among them."""

    steps_per_env: PositiveInt = 16
    """steps of each environment in one rollout, T"""
    mode: Placement[Literal["async", "sync"]] = "async"
    """async: the collector is a process of its own. sync: one process collects and learns in turn, which is
    repeatable"""
    num_slots: Placement[PositiveInt] = 1
    """rollouts that the ring can hold (async)"""
    when_full: Placement[Literal["drop_oldest", "wait"]] = "wait"
    """what happens when the ring is full (async). drop_oldest: it gives up its oldest unread rollout. wait: the
    collector waits"""
    network: NetworkConfig = NetworkConfig()
    """the networks"""
    algorithm: AlgorithmConfig = AlgorithmConfig()
    """the update"""

    @property
    def idle(self) -> tuple[str, ...]:
        """Dotted names of settings that change nothing beside the others."""
        ring = ("num_slots", "when_full", *SIDES) if self.mode == "sync" else ()
        fixed = ("desired_kl", "adaptive_kl_factor", "adaptive_lr_factor") if self.algorithm.schedule == "fixed" else ()
        clips = ("vtrace_clip_rho", "vtrace_clip_c") if self.algorithm.off_policy_correction == "none" else ()
        return (*ring, *self.idle_threads, *(f"algorithm.{name}" for name in (*fixed, *clips)))

    @property
    def publications(self) -> int:
        """How often the weights are published in an iteration."""
        return 1 if self.mode == "sync" else self.algorithm.num_learning_epochs

    @property
    def alternates(self) -> bool:
        """Whether collecting and learning take turns."""
        return self.mode == "sync"

    @property
    def learning_cost(self) -> float:
        """Core time of learning from one env step, in microseconds."""
        return LEARNING_COST_PER_EPOCH * self.algorithm.num_learning_epochs

    @property
    def most_learner_threads(self) -> int:
        """Beyond so many data-parallel threads the shares of a minibatch are too small to pay."""
        return max(1, self.num_envs * self.steps_per_env // self.algorithm.num_mini_batches // ROWS_PER_THREAD)

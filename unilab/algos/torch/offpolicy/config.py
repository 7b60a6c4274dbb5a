"""Every setting of SAC and TD3, documented once beside its default."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from unilab.algos.torch.offpolicy import presets
from unilab.machine.devices import Threads, split_threads
from unilab.run.config import (
    SIDES,
    STRICT,
    ActorCriticConfig,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    RunConfig,
)
from unilab.settings import Output, Placement, SettingsError

TargetRate = Annotated[float, Field(gt=0, le=1)]
LEARNING_COST_PER_SAMPLE = 33.0
"""core time of one transition in one SAC update of critics and actor with networks [256, 256], in microseconds,
measured on AVX-512 cores"""
ROWS_PER_THREAD = 64
"""a thread's share of a batch below which more threads do not pay"""


@dataclass(frozen=True)
class OffPolicyNetworkConfig(ActorCriticConfig):
    """The networks of the actor and of each critic, which sees an observation and an action."""

    layer_norm: bool | Literal["critics"] = False
    """normalize each hidden layer of the built-in multi-layer perceptrons (ReLU) before its activation; critics: theirs
    alone"""


@dataclass(frozen=True)
class TD3NetworkConfig(OffPolicyNetworkConfig):
    """As above; with layer normalization TD3's actor need not be delayed, nor the smaller of two critics be taken."""

    layer_norm: bool | Literal["critics"] = True


@dataclass(frozen=True)
class OffPolicyAlgorithmConfig:
    """What SAC and TD3 have in common."""

    __pydantic_config__ = STRICT

    gamma: Fraction = 0.99
    """discount for each env step"""
    n_step: PositiveInt = 1
    """env steps that a return sums up before the critic takes over; fewer at the end of an episode"""
    tau: TargetRate = 0.01
    """how far each target critic moves towards its critic after an update"""
    actor_learning_rate: PositiveFloat = 1e-3
    """learning rate of the actor (Adam)"""
    critic_learning_rate: PositiveFloat = 1e-3
    """learning rate of the critics (Adam)"""
    critic_weight_decay: NonNegativeFloat = 0.0
    """weight decay of the critics (AdamW, arXiv:1711.05101): each update takes this part, times the learning rate, off
    the weights"""
    policy_frequency: PositiveInt = 2
    """updates of the critics for each update of the actor. SAC's temperature and TD3's targets are updated with the
    actor"""
    num_critics: PositiveInt = 2
    """number of critics, each with a target"""
    target_reduction: Literal["min", "mean"] = "min"
    """how the values of the target critics become one: min (clipped double Q) or mean"""
    num_atoms: PositiveInt = 1
    """1: critics predict the expected return. More: they predict its distribution over this many values (C51,
    arXiv:1707.06887)"""
    value_min: float = -100.0
    """smallest return that a distributional critic can predict"""
    value_max: float = 100.0
    """largest return that a distributional critic can predict"""
    reward_scale: PositiveFloat | Literal["auto"] = 1.0
    """factor of the rewards that are learned from. auto: a factor with which their root mean square, received in every
    step, would be a return of 1. Reported returns are the environment's own"""
    enable_compile: Placement[bool] = False
    """compile the losses with torch.compile. It needs a C++ compiler, and half a minute at the start. On a CPU it
    brought nothing"""
    cuda_graphs: Placement[bool] = True
    """on CUDA: record the update once and replay it, so that launching its kernels costs nothing"""


@dataclass(frozen=True)
class SACAlgorithmConfig(OffPolicyAlgorithmConfig):
    """Soft actor-critic (arXiv:1812.05905)."""

    alpha_learning_rate: PositiveFloat = 1e-3
    """learning rate of the temperature"""
    init_alpha: PositiveFloat = 0.2
    """temperature at the beginning; a higher one only delays the learning"""
    auto_alpha: bool = True
    """adapt the temperature so that the policy keeps the target entropy"""
    target_entropy_scale: float = 1.0
    """the target entropy, in nats, is minus this number times the number of actions"""
    max_alpha: PositiveFloat | None = None
    """upper bound of the temperature; null: none"""


@dataclass(frozen=True)
class TD3AlgorithmConfig(OffPolicyAlgorithmConfig):
    """Twin delayed deep deterministic policy gradient (arXiv:1802.09477)."""

    actor_learning_rate: PositiveFloat = 3e-4
    target_reduction: Literal["min", "mean"] = "mean"
    target_noise: NonNegativeFloat = 0.2
    """standard deviation of the noise on the target policy's actions"""
    target_noise_clip: NonNegativeFloat = 0.5
    """bound of that noise"""
    exploration_noise_min: NonNegativeFloat = 0.1
    """standard deviation of the exploring noise in the first environment; it grows evenly up to the last one"""
    exploration_noise_max: NonNegativeFloat = 0.3
    """standard deviation of the exploring noise in the last environment"""


@dataclass(frozen=True)
class WorkersConfig:
    """Who collects: the collector, or workers that each step their share of the environments."""

    __pydantic_config__ = STRICT

    kind: Placement[Literal["collector", "sequential", "processes", "ray"]] = "collector"
    """who collects. collector: one process. processes: several on this machine. ray: actors on a Ray cluster.
    sequential: the workers one after another, in the learner's process; with sync_collection they and the learner take
    turns"""
    count: Placement[PositiveInt] = 1
    """number of workers; num_envs is divided among them"""
    ray_address: Placement[str | None] = None
    """address of the Ray cluster: host:port of its head, auto or local; by default RAY_ADDRESS, or this machine's
    cluster"""
    max_restarts: Placement[NonNegativeInt] = 0
    """restarts of workers, all together, before the run fails"""
    hang_seconds: Placement[PositiveFloat] = 120.0
    """seconds without an env step after which a worker process counts as dead, if it should make some"""

    @property
    def here(self) -> int:
        """Workers on this machine; those of a cluster whose head is named are taken to be elsewhere."""
        return self.count if self.ray_address in (None, "auto", "local") else 0


@dataclass(frozen=True)
class OffPolicyConfig(RunConfig):
    """What runs of SAC and TD3 have in common; the settings of ``RunConfig`` are among it."""

    preset: Literal["fast"] | None = None
    """other defaults, which belong together; settings that are stated beside the preset win. fast: the recipe of
    FastTD3 and FastSAC for many environments"""
    num_envs: PositiveInt = 32
    """environments that are stepped together; workers divide them among each other"""
    replay_capacity: PositiveInt = 1_000_000
    """transitions that the replay buffer holds; all of its memory is taken at the start"""
    batch_size: PositiveInt = 128
    """transitions in each update"""
    learning_starts: NonNegativeInt = 100
    """steps of all environments that are made with random actions before the first update"""
    updates_per_step: PositiveInt = 4
    """updates of one iteration"""
    sync_collection: bool = True
    """true: each iteration trains while the collector makes its next env_steps_per_sync steps, which is repeatable.
    false: the collector runs freely"""
    env_steps_per_sync: PositiveInt = 1
    """steps of all environments after which the collector takes new weights; with sync_collection, the steps of one
    iteration"""
    pipeline: Placement[Literal["auto", "direct", "prefetch", "device"]] = "auto"
    """how batches reach the learner. direct: sampled when asked for. prefetch: sampled and copied while the update
    before runs. device: from a replay buffer on the learner's device. auto: direct on a CPU, otherwise device if it
    fits, otherwise prefetch"""
    save_replay: Output[bool] = False
    """keep the replay buffer in checkpoints. They are larger, but a resumed run goes on exactly"""
    obs_normalization: bool = False
    stagger_episodes: bool = False
    network: OffPolicyNetworkConfig = OffPolicyNetworkConfig()
    """the networks"""
    algorithm: OffPolicyAlgorithmConfig = OffPolicyAlgorithmConfig()
    """the update"""
    workers: WorkersConfig = WorkersConfig()
    """who collects"""

    @property
    def idle(self) -> tuple[str, ...]:
        """Dotted names of settings that change nothing beside the others."""
        if self.workers.kind == "collector":
            names = ("workers.count", "workers.max_restarts", "workers.hang_seconds", "workers.ray_address")
            return (*names, *self.idle_threads)
        unwatched = ("workers.hang_seconds",) if self.workers.kind == "sequential" else ()  # the learner's own process
        return (*unwatched, *SIDES, *self.idle_threads)

    @property
    def alternates(self) -> bool:
        """Whether collecting and learning take turns: only with workers in the learner's process."""
        return self.workers.kind == "sequential"

    @property
    def learning_cost(self) -> float:
        """Core time of learning for one env step, in microseconds."""
        samples = self.updates_per_step * self.batch_size
        return LEARNING_COST_PER_SAMPLE * samples / (self.env_steps_per_sync * self.num_envs)

    @property
    def most_learner_threads(self) -> int:
        """Beyond so many data-parallel threads the shares of a batch are too small to pay."""
        return max(1, self.batch_size // ROWS_PER_THREAD)

    @property
    def lead_rows(self) -> int:
        """Rows at most that a collector adds in one iteration; n-step returns end late, and all at once."""
        return self.num_envs * (self.env_steps_per_sync + self.algorithm.n_step - 1)


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """All settings of a SAC run."""

    __presets__ = presets.values(presets.SAC)

    algorithm: SACAlgorithmConfig = SACAlgorithmConfig()


@dataclass(frozen=True)
class TD3Config(OffPolicyConfig):
    """All settings of a TD3 run."""

    __presets__ = presets.values(presets.TD3)

    num_envs: PositiveInt = 64
    network: TD3NetworkConfig = TD3NetworkConfig()
    algorithm: TD3AlgorithmConfig = TD3AlgorithmConfig()


CONFIGS: dict[str, type[SACConfig] | type[TD3Config]] = {"sac": SACConfig, "td3": TD3Config}


def compute_train_start_threshold(batch_size: int, learning_starts: int, num_envs: int) -> int:
    """Transitions that the replay buffer must hold before the first update: a batch, and ``learning_starts`` steps of
    all environments."""
    return max(batch_size, learning_starts * num_envs)


def check(config: OffPolicyConfig) -> None:
    """Refuse settings that do not go together.

    Raises:
        SettingsError: with the setting to change.
    """
    if config.pipeline == "device" and config.learner_device == "cpu":
        raise SettingsError(
            "pipeline",
            "'device' keeps the replay buffer on an accelerator, but learner_device is cpu; use auto, direct or "
            "prefetch, or a learner_device such as cuda",
        )
    start = compute_train_start_threshold(config.batch_size, config.learning_starts, config.num_envs)
    needed = max(start, config.num_envs) + config.lead_rows
    if config.replay_capacity < needed:
        raise SettingsError(
            "replay_capacity",
            f"{config.replay_capacity} transitions are too few: learning starts at {start}, and "
            f"{config.lead_rows} more are added meanwhile; use at least {needed}",
        )
    algorithm = config.algorithm
    if algorithm.reward_scale == "auto" and algorithm.gamma == 1:
        raise SettingsError("algorithm.reward_scale", "'auto' needs algorithm.gamma below 1, as returns have no end")
    if algorithm.num_atoms > 1 and algorithm.value_min >= algorithm.value_max:
        raise SettingsError(
            "algorithm.value_min", f"is {algorithm.value_min}; it must be below value_max, {algorithm.value_max}"
        )
    if isinstance(algorithm, SACAlgorithmConfig) and algorithm.init_alpha > (algorithm.max_alpha or math.inf):
        raise SettingsError(
            "algorithm.max_alpha",
            f"{algorithm.max_alpha} is below the first temperature: lower algorithm.init_alpha, {algorithm.init_alpha}",
        )
    workers = config.workers
    if workers.kind == "collector":
        return
    by = f"workers.kind: {workers.kind}"
    if config.num_envs % workers.count:
        raise SettingsError(
            "workers.count",
            f"{config.num_envs} environments cannot be divided among {workers.count} workers; change num_envs or "
            "workers.count so that each has as many",
        )
    if algorithm.n_step > 1:
        raise SettingsError(
            "algorithm.n_step", f"is {algorithm.n_step}; workers store single steps: use 1, or the collector"
        )
    if config.stagger_episodes:
        raise SettingsError("stagger_episodes", f"with {by} all first episodes start at their beginning; use false")
    if config.collector_device != "cpu":
        raise SettingsError("collector_device", f"is {config.collector_device}; with {by} policies act on the cpu")
    if workers.kind == "sequential" and not config.sync_collection:
        raise SettingsError("sync_collection", f"is false; {by} works in turns with the learner: use true")
    if workers.kind != "ray" and workers.ray_address is not None:
        raise SettingsError("workers.ray_address", f"is {workers.ray_address!r}; it needs workers.kind: ray")


def divide_threads(config: OffPolicyConfig, cores: int) -> Threads:
    """Threads of the physics of the collector, or of each worker, of its policy and of the learner.

    Worker processes share what a collector would have; workers of a Ray cluster have a core each; those in the
    learner's process take turns. A worker's policy has one thread.
    """
    threads = split_threads(config, cores)
    if config.workers.kind == "collector":
        return threads
    shares = {"sequential": threads.env, "processes": threads.env // config.workers.count, "ray": 1}
    return Threads(config.env_threads or max(1, shares[config.workers.kind]), 1, threads.learner)

"""The memory of SAC and TD3: the replay buffer, its pipeline, and an update in memory that is allocated once."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any, Literal

import torch

from unilab.algos.torch.memory.processes import (
    ProcessCosts,
    learner_and_collector,
    mailbox_item,
    measure_process_cost,
    process_items,
)
from unilab.algos.torch.memory.workers import worker_items, worker_processes
from unilab.algos.torch.networks.sizes import published_bytes, state_bytes
from unilab.algos.torch.offpolicy.config import (
    CONFIGS,
    NetworkConfig,
    OffPolicyConfig,
    SACConfig,
    compute_train_start_threshold,
    divide_threads,
)
from unilab.algos.torch.offpolicy.learner import divide, hidden_widths, workspace_bytes
from unilab.algos.torch.offpolicy.networks.critics import Critics
from unilab.algos.torch.offpolicy.networks.policies import Actor, build_actor
from unilab.envs.sizes import EnvSizes, env_sizes
from unilab.ipc.memory_budget import (
    HOST,
    MIB,
    SHM,
    BudgetItem,
    MemoryAvailable,
    MemoryBudget,
    pages,
    place_of,
)
from unilab.ipc.replay_buffer import replay_bytes
from unilab.ipc.replay_pipelines.choose import FREE_MEMORY_FRACTION, choose_kind, pipeline_items
from unilab.ipc.replay_rows import RowLayout
from unilab.machine.devices import usable_cores
from unilab.settings import SettingsError, parse

FLOAT = 4
"""bytes of a number"""
_BFLOAT16_KERNELS = 15 * MIB
"""what oneDNN compiles and keeps for matrix products in bfloat16 on a CPU (torch 2.13, measured)"""


def estimate_offpolicy(
    config: OffPolicyConfig,
    sizes: EnvSizes | None = None,
    *,
    cores: int | None = None,
    costs: ProcessCosts | None = None,
    free: Mapping[str, int] | None = None,
) -> MemoryBudget:
    """The memory of a run with ``config``, before anything is allocated.

    Args:
        config: the run, a ``SACConfig`` or a ``TD3Config``.
        sizes: its environment's sizes; asked from the environment when None.
        cores: that the run's threads are split over; those that this process may use when None.
        costs: fixed costs of the processes; this machine's when None.
        free: bytes free on the accelerators, by name, which pipeline 'auto' decides by; what this machine has when
            None. On one that is not named the replay buffer is taken to fit.

    Raises:
        ValueError, SettingsError: see ``env_sizes``; or pipeline 'device' for a learner on the CPU.
    """
    sizes = sizes or env_sizes(config.env, config.env_cfg, config.sim_backend)
    costs = costs or measure_process_cost()
    threads = divide_threads(config, cores or usable_cores())
    learner = place_of(config.learner_device)
    if free is None:
        free = {} if learner == HOST else MemoryAvailable.here().devices
    layout = RowLayout(sizes.obs_dim, sizes.action_dim, sizes.critic_dim, config.algorithm.n_step > 1)
    kind = _pipeline(config, layout, free.get(learner))
    learner_threads = threads.learner if learner == HOST else 1
    divided = divide(config, learner_threads)
    if config.workers.kind == "collector":
        processes = learner_and_collector(costs, config.learner_device, config.collector_device)
        collecting = [
            *_collector_items(config, sizes, layout),
            *sizes.items(config.num_envs, threads.env),
        ]
    else:
        processes, collecting = worker_processes(config, costs), worker_items(config, sizes, threads.env)
    items = [
        *_replay_items(config, sizes, layout),
        *pipeline_items(kind, layout, config.replay_capacity, config.batch_size, learner),
        *_learner_items(config, sizes, layout, divided, learner),
        *collecting,
        *process_items(processes, learner_threads + (kind == "prefetch"), costs.thread),
    ]
    settings = {name: getattr(config, name) for name in ("replay_capacity", "num_envs", "batch_size")}

    def changed(name: str, value: int) -> MemoryBudget:
        change: dict[str, Any] = {name: value}
        return estimate_offpolicy(dataclasses.replace(config, **change), sizes, cores=cores, costs=costs, free=free)

    return MemoryBudget(tuple(items), settings, changed)


def _replay_items(config: OffPolicyConfig, sizes: EnvSizes, layout: RowLayout) -> list[BudgetItem]:
    """The replay buffer, and the copy of it that a checkpoint may need."""
    capacity, rows = config.replay_capacity, FLOAT * config.replay_capacity * layout.width
    widths = (sizes.obs_dim, sizes.action_dim)
    replay = replay_bytes(capacity, *widths, critic_dim=sizes.critic_dim, multi_step=layout.multi_step)
    items = [BudgetItem("replay buffer", SHM, pages(replay), f"{capacity:,} transitions of {layout.width} numbers")]
    if config.save_replay:
        items.append(BudgetItem("checkpoint", HOST, rows, "a copy of the transitions while it is written"))
    return items


def _pipeline(config: OffPolicyConfig, layout: RowLayout, free: int | None) -> Literal["direct", "prefetch", "device"]:
    """The kind of pipeline that the run will have."""
    mirror = FLOAT * config.replay_capacity * layout.width
    budget = mirror if free is None else int(FREE_MEMORY_FRACTION * free)
    try:
        return choose_kind(config.pipeline, mirror, config.learner_device, device_budget_bytes=budget)
    except ValueError as error:
        raise SettingsError("pipeline", str(error).removeprefix("pipeline: ")) from None


def _learner_items(
    config: OffPolicyConfig, sizes: EnvSizes, layout: RowLayout, divided: list[list[slice]], learner: str
) -> list[BudgetItem]:
    """The update: what it keeps between batches, and the memory that it computes in."""
    actor, critics = map(state_bytes, _networks(config, sizes))
    trained, targets, detail = actor + critics, critics, "actor, critics, target critics"
    if not isinstance(config, SACConfig):
        targets, detail = trained, f"{detail}, target actor"
    # A new gradient is complete before the last one goes, and each thread adds that of a part to those of its others.
    gradients = trained + max(actor, critics) * sum(min(2, len(parts)) for parts in divided)
    workspace = workspace_bytes(config, *_networks(config, sizes), divided)
    items = [
        BudgetItem("models", learner, trained + targets, detail),
        BudgetItem("gradients", learner, gradients, "of the last update, and what the threads add up to the next"),
        BudgetItem("optimizer state", learner, 2 * trained, "two moments of every parameter"),
        BudgetItem("workspace", learner, workspace, f"outputs and gradients of layers for {config.batch_size:,} rows"),
        BudgetItem("temporaries", learner, _temporaries(config, sizes), "actions, noise, targets of one update"),
    ]
    if config.learner_dtype == "bfloat16" and learner == HOST:
        items.append(BudgetItem("kernels", HOST, _BFLOAT16_KERNELS, "compiled for products in bfloat16"))
    if config.obs_normalization:
        size = 2 * FLOAT * _new_rows(config) * layout.width
        items.append(BudgetItem("new transitions", learner, size, "on their way to the running mean and variance"))
    return items


def _temporaries(config: OffPolicyConfig, sizes: EnvSizes) -> int:
    """What an update allocates and frees, about: few numbers a row beside the workspace's thousands."""
    observations = 2 * (sizes.obs_dim + (sizes.critic_dim or sizes.obs_dim))
    outputs = config.algorithm.num_critics * config.algorithm.num_atoms
    return FLOAT * config.batch_size * (observations + 16 * sizes.action_dim + 8 * outputs)


def _new_rows(config: OffPolicyConfig) -> int:
    """Transitions at most that come together from the collector."""
    if config.sync_collection:
        return config.lead_rows
    return compute_train_start_threshold(config.batch_size, config.learning_starts, config.num_envs)


def _collector_items(config: OffPolicyConfig, sizes: EnvSizes, layout: RowLayout) -> list[BudgetItem]:
    """The policy that acts, how its weights come and its counters go, and the transitions that are not in the replay
    buffer yet."""
    actor, _ = _networks(config, sizes)
    place, count, steps = place_of(config.collector_device), config.num_envs, config.algorithm.n_step
    inference = FLOAT * count * (2 * max(hidden_widths(actor), default=1) + 8 * sizes.action_dim + sizes.obs_dim)
    packed = (FLOAT + 1) * count * steps * layout.width  # with a flag for each number: is it finite?
    open_steps = FLOAT * count * (steps + 1) * layout.width if steps > 1 else FLOAT * count * layout.width
    return [
        BudgetItem("weight sync", SHM, pages(published_bytes(actor)), "3 buffers of the actor"),
        mailbox_item(),
        BudgetItem("collector's model", place, state_bytes(actor), "actor"),
        BudgetItem("inference", place, inference, "noise and activations of a step"),
        BudgetItem("transitions", HOST, packed + open_steps, f"of the last {steps} steps" if steps > 1 else ""),
    ]


def _networks(config: OffPolicyConfig, sizes: EnvSizes) -> tuple[Actor, Critics]:
    """Actor and critics; built-in ones without memory: only their shapes."""
    kind = "sac" if isinstance(config, SACConfig) else "td3"
    critics = config.algorithm.num_critics, config.algorithm.num_atoms
    return _shapes(kind, json.dumps(dataclasses.asdict(config.network)), config.obs_normalization, critics, sizes)


@functools.lru_cache(maxsize=8)
def _shapes(
    kind: str, network: str, obs_normalization: bool, critics: tuple[int, int], sizes: EnvSizes
) -> tuple[Actor, Critics]:
    """All that decides about them; a plan asks a thousand times for those of a few."""
    defaults: OffPolicyConfig = CONFIGS[kind]()
    algorithm = dataclasses.replace(defaults.algorithm, num_critics=critics[0], num_atoms=critics[1])
    described = parse(NetworkConfig, json.loads(network))
    config = dataclasses.replace(defaults, network=described, obs_normalization=obs_normalization, algorithm=algorithm)
    built_in = isinstance(described.actor, tuple) and isinstance(described.critic, tuple)
    with torch.device("meta") if built_in else torch.random.fork_rng(devices=[]):
        return (
            build_actor(config, sizes.obs_dim, sizes.action_dim),
            Critics(config, sizes.critic_dim or sizes.obs_dim, sizes.action_dim),
        )

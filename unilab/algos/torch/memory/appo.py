"""The memory of APPO: a ring of rollouts, and an update with autograd over all of a rollout's rows."""

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import torch

from unilab.algos.torch.appo.config import APPOConfig, NetworkConfig
from unilab.algos.torch.appo.worker import build_networks
from unilab.algos.torch.memory.items import (
    FLOAT,
    EnvSizes,
    Processes,
    env_sizes,
    learner_and_collector,
    mailbox_item,
    pages,
    physics_items,
    place_of,
    process_items,
    published_bytes,
    state_bytes,
)
from unilab.algos.torch.memory.process_cost import ProcessCosts, measure_process_cost
from unilab.ipc.memory_budget import HOST, MIB, SHM, BudgetItem, MemoryBudget
from unilab.ipc.rollout_ring_buffer import ring_bytes, slot_fields
from unilab.machine.devices import split_threads, usable_cores
from unilab.settings import parse

FRAGMENTATION = 1.4
"""what blocks of several sizes take over their sum, as glibc keeps the freed ones apart for each thread"""
FRAGMENTATION_OF_ONE_SIZE = 1.15
"""the same when nearly all blocks have one size and so reuse each other's place"""
ALWAYS_RETURNED = 32 * MIB
"""glibc maps blocks from this size on one by one and gives them back as soon as they are freed"""

_ACTIVATION_COPIES = {"elu": 2, "silu": 2, "relu": 1, "tanh": 1}
"""tensors a hidden layer that the backward pass needs: the output alone, or the input of the activation as well"""


def estimate_appo(
    config: APPOConfig,
    sizes: EnvSizes | None = None,
    *,
    cores: int | None = None,
    costs: ProcessCosts | None = None,
) -> MemoryBudget:
    """The memory of a run with ``config``, before anything is allocated.

    Args:
        config: the run.
        sizes: its environment's sizes; asked from the environment when None.
        cores: that the run's threads are split over; those that this process may use when None.
        costs: fixed costs of the processes; this machine's when None.

    Raises:
        ValueError, SettingsError: see ``env_sizes``.
    """
    sizes = sizes or env_sizes(config.env, config.env_cfg, config.sim_backend)
    costs = costs or measure_process_cost()
    threads = split_threads(config, cores or usable_cores())
    learner, collector = place_of(config.learner_device), place_of(config.collector_device)
    networks = _network_bytes(config, sizes)
    items = [
        *_exchange_items(config, sizes, learner),
        *_learner_items(config, sizes, networks, threads.learner, learner),
        *_collector_items(config, sizes, networks, collector),
        *physics_items(config.num_envs, sizes, threads.env),
        *process_items(_processes(config, costs), threads.learner),
    ]
    settings = {"num_envs": config.num_envs, "steps_per_env": config.steps_per_env}
    if config.mode == "async":
        settings["num_slots"] = config.num_slots

    def changed(name: str, value: int) -> MemoryBudget:
        change: dict[str, Any] = {name: value}
        return estimate_appo(dataclasses.replace(config, **change), sizes, cores=cores, costs=costs)

    return MemoryBudget(tuple(items), settings, changed)


def _exchange_items(config: APPOConfig, sizes: EnvSizes, learner: str) -> list[BudgetItem]:
    """What passes between collector and learner."""
    shape = (config.num_envs, config.steps_per_env, sizes.obs_dim, sizes.action_dim)
    rollout = FLOAT * sum(math.prod(field) for field in slot_fields(*shape, sizes.critic_dim).values())
    if config.mode == "sync":
        items = [BudgetItem("rollout", HOST, rollout, f"{config.steps_per_env} x {config.num_envs} transitions")]
        return items if learner == HOST else [*items, BudgetItem("staging", learner, rollout, "the rollout")]
    ring = ring_bytes(*shape, critic_dim=sizes.critic_dim, num_slots=config.num_slots)
    weights = map(published_bytes, _networks(config, sizes))
    return [
        BudgetItem("ring", SHM, pages(ring), f"{config.num_slots} + 2 slots of {rollout / MIB:,.1f} MiB"),
        BudgetItem("weight sync", SHM, pages(*weights), "3 buffers of actor and of critic"),
        mailbox_item(),
        BudgetItem("staging", learner, rollout, "the rollout that is learned from"),
    ]


def _learner_items(
    config: APPOConfig, sizes: EnvSizes, networks: "_NetworkBytes", threads: int, place: str
) -> list[BudgetItem]:
    """The update: what it keeps between rollouts, and what it needs while it runs."""
    rows = config.num_envs * config.steps_per_env
    critic_dim = sizes.critic_dim or sizes.obs_dim
    gradients, shares = threads + (threads > 1), "one a thread and their sum" if threads > 1 else ""
    observations = critic_dim + (sizes.obs_dim if config.obs_normalization else 0)
    per_row = FLOAT * (observations + sizes.action_dim + 5)
    return [
        BudgetItem("models", place, networks.total + networks.actor, "actor, critic, target actor"),
        BudgetItem("gradients", place, gradients * networks.total, shares),
        BudgetItem("optimizer state", place, 2 * networks.total, "two moments of every parameter"),
        BudgetItem("samples", place, rows * per_row, f"{rows} rows prepared for the update"),
        _activations(config, sizes, threads, place),
    ]


def _activations(config: APPOConfig, sizes: EnvSizes, threads: int, place: str) -> BudgetItem:
    """The networks' activations: over all rows without gradients, then over one minibatch with them."""
    rows = config.num_envs * config.steps_per_env
    width = 2 if config.learner_dtype == "bfloat16" else FLOAT
    critic_dim = sizes.critic_dim or sizes.obs_dim
    widths = [width for network in _networks(config, sizes) for width in _hidden_widths(network)]
    widest = max(widths, default=1)
    # A layer's input and output, or the observations in double precision for the normalizer.
    prepare = rows * max(2 * width * widest, 8 * max(sizes.obs_dim, critic_dim))
    minibatch = -(-rows // config.algorithm.num_mini_batches)
    kept = _ACTIVATION_COPIES[config.network.activation] * sum(widths)
    gathered = sizes.obs_dim + critic_dim + 2 * sizes.action_dim + 5
    update = minibatch * (width * (kept + 2 * widest) + FLOAT * gathered)
    if place != HOST:  # the caching allocator reuses the blocks of one for the other
        return BudgetItem("activations", place, max(prepare, update), f"of {max(rows, minibatch)} rows")
    biggest_prepared, biggest_updated = (width * widest * count // threads for count in (rows, minibatch))
    if biggest_updated >= ALWAYS_RETURNED:
        total = max(prepare, update)
    elif biggest_prepared >= ALWAYS_RETURNED:
        total = prepare + int(FRAGMENTATION_OF_ONE_SIZE * update)
    else:
        total = int(FRAGMENTATION * (prepare + update))
    detail = f"{prepare / MIB:,.1f} MiB for all rows, {update / MIB:,.1f} for a minibatch; what malloc keeps of it"
    return BudgetItem("activations", place, total, detail)


def _collector_items(config: APPOConfig, sizes: EnvSizes, networks: "_NetworkBytes", place: str) -> list[BudgetItem]:
    """The policy that acts."""
    noise = 2 * FLOAT * config.steps_per_env * config.num_envs * sizes.action_dim
    hidden = 2 * FLOAT * config.num_envs * max(_hidden_widths(_networks(config, sizes)[0]), default=1)
    return [
        BudgetItem("collector's models", place, networks.total, "actor and critic"),
        BudgetItem("inference", place, noise + hidden, "noise of a rollout, activations of a step"),
    ]


def _processes(config: APPOConfig, costs: ProcessCosts) -> Processes:
    """The processes that the mode has."""
    if config.mode == "sync":
        return {"process": (costs.learner, {config.learner_device, config.collector_device})}
    return learner_and_collector(costs, config.learner_device, config.collector_device)


@dataclass(frozen=True)
class _NetworkBytes:
    actor: int
    critic: int

    @property
    def total(self) -> int:
        return self.actor + self.critic


def _networks(config: APPOConfig, sizes: EnvSizes) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Actor and critic; those of the built-in networks without memory: only their shapes."""
    return _shapes(json.dumps(dataclasses.asdict(config.network)), config.obs_normalization, sizes)


@functools.lru_cache(maxsize=8)
def _shapes(network: str, obs_normalization: bool, sizes: EnvSizes) -> tuple[torch.nn.Module, torch.nn.Module]:
    """All that decides about them; a plan asks a thousand times for those of a few."""
    config = APPOConfig(network=parse(NetworkConfig, json.loads(network)), obs_normalization=obs_normalization)
    built_in = isinstance(config.network.actor, tuple) and isinstance(config.network.critic, tuple)
    with torch.device("meta") if built_in else torch.random.fork_rng(devices=[]):
        return build_networks(config, sizes.obs_dim, sizes.action_dim, sizes.critic_dim)


def _hidden_widths(network: torch.nn.Module) -> list[int]:
    """Outputs of every layer but the last, as their weights say."""
    return [parameter.shape[0] for parameter in network.parameters() if parameter.dim() > 1][:-1]


def _network_bytes(config: APPOConfig, sizes: EnvSizes) -> _NetworkBytes:
    return _NetworkBytes(*map(state_bytes, _networks(config, sizes)))

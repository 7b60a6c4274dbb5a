"""The memory of APPO: a ring of rollouts, and an update with autograd over all of a rollout's rows."""

import dataclasses
import functools
import json
import math
from typing import Any

import torch

from unilab.algos.torch.appo.actor_critic import Actor, Critic, build_networks
from unilab.algos.torch.appo.config import APPOConfig, NetworkConfig
from unilab.algos.torch.appo.learner import learner_items
from unilab.algos.torch.memory.processes import (
    ProcessCosts,
    Processes,
    learner_and_collector,
    mailbox_item,
    measure_process_cost,
    process_items,
)
from unilab.algos.torch.networks.sizes import pass_numbers, published_bytes, state_bytes
from unilab.envs.sizes import EnvSizes, env_sizes
from unilab.ipc.memory_budget import HOST, MIB, SHM, BudgetItem, MemoryBudget, pages, place_of
from unilab.ipc.rollout_ring_buffer import ring_bytes, slot_fields
from unilab.machine.devices import split_threads, usable_cores
from unilab.settings import parse

FLOAT = 4
"""bytes of a float32"""


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
    actor, critic = _networks(config, sizes)
    noise = 2 * FLOAT * (1 if sizes.num_actions else config.steps_per_env) * config.num_envs * sizes.dims.outputs
    hidden = 2 * FLOAT * config.num_envs * pass_numbers(actor.body, sizes.obs_dim)[1]
    processes: Processes = {"process": (costs.learner, {config.learner_device, config.collector_device})}
    if config.mode == "async":
        processes = learner_and_collector(costs, config.learner_device, config.collector_device)
    items = [
        *_exchange_items(config, sizes, learner),
        *learner_items(config, actor, critic, sizes, threads.learner, learner, costs.kept),
        BudgetItem("collector's models", collector, state_bytes(actor) + state_bytes(critic), "actor and critic"),
        BudgetItem("inference", collector, noise + hidden, "noise of a rollout, activations of a step"),
        *sizes.items(config.num_envs, threads.env),
        *process_items(processes, threads.learner, costs.thread),
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


def _networks(config: APPOConfig, sizes: EnvSizes) -> tuple[Actor, Critic]:
    """Actor and critic; those of the built-in networks without memory: only their shapes."""
    return _shapes(json.dumps(dataclasses.asdict(config.network)), config.obs_normalization, sizes)


@functools.lru_cache(maxsize=8)
def _shapes(network: str, obs_normalization: bool, sizes: EnvSizes) -> tuple[Actor, Critic]:
    """All that decides about them; a plan asks a thousand times for those of a few."""
    config = APPOConfig(network=parse(NetworkConfig, json.loads(network)), obs_normalization=obs_normalization)
    built_in = isinstance(config.network.actor, tuple) and isinstance(config.network.critic, tuple)
    with torch.device("meta") if built_in else torch.random.fork_rng(devices=[]):
        return build_networks(config, sizes.dims)

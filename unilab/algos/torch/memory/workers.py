"""The memory of workers that collect for SAC and TD3: their processes, environments, rollouts and weights."""

import dataclasses
from collections.abc import Collection

import torch

from unilab.algos.torch.memory.processes import ProcessCost, ProcessCosts, Processes
from unilab.algos.torch.networks.sizes import state_bytes
from unilab.algos.torch.offpolicy.config import OffPolicyConfig
from unilab.algos.torch.offpolicy.learner import hidden_widths
from unilab.algos.torch.offpolicy.worker import ExploringPolicy
from unilab.algos.torch.offpolicy.worker_source import QUEUE_SIZE
from unilab.distributed import RolloutLayout
from unilab.distributed.processes import VERSION
from unilab.envs import EnvDims
from unilab.envs.sizes import EnvSizes
from unilab.ipc.memory_budget import HOST, MIB, SHM, BudgetItem, pages
from unilab.ipc.rollout_ring_buffer import ring_bytes
from unilab.ipc.weight_sync import weight_sync_bytes

RAY_PROCESSES = 300 * MIB
"""Ray's own processes on a machine with one node (Ray 2.60, measured without a dashboard)"""
_KEPT_WEIGHTS = 6
"""versions at most that workers have been told of and may not have fetched, with the first and the newest"""
RAY_LIBRARY = 30 * MIB
"""that Ray adds to the learner's process and to each worker's (likewise)"""


def workers_here(config: OffPolicyConfig) -> int:
    """Workers on this machine; those of a cluster whose head is named are taken to be elsewhere."""
    elsewhere = config.workers.ray_address not in (None, "auto", "local")
    return 0 if elsewhere else config.workers.count


def worker_processes(config: OffPolicyConfig, costs: ProcessCosts) -> Processes:
    """The processes of a run whose workers collect."""
    cost, count, kind = costs.collector, workers_here(config), config.workers.kind
    processes: dict[str, tuple[ProcessCost, Collection[str]]] = {
        "learner process": (costs.learner, {config.learner_device})
    }
    if kind == "processes":
        processes["resource tracker"] = (costs.tracker, ())
    if kind != "sequential" and count:
        library = RAY_LIBRARY if kind == "ray" else 0
        processes["worker processes"] = (ProcessCost(count * (cost.private + library), cost.libraries), ())
    if kind == "ray":
        processes["Ray"] = (ProcessCost(RAY_LIBRARY + (RAY_PROCESSES if count else 0), 0), ())
    return processes


def worker_items(config: OffPolicyConfig, sizes: EnvSizes, threads: int) -> list[BudgetItem]:
    """What is there once for each worker.

    Args:
        threads: of the physics of each worker.
    """
    count = workers_here(config)
    built_in = isinstance(config.network.actor, tuple)
    with torch.device("meta") if built_in else torch.random.fork_rng(devices=[]):
        policy = ExploringPolicy(config, EnvDims(sizes.obs_dim, sizes.action_dim, sizes.critic_dim))
    rows = config.num_envs // config.workers.count
    layout = RolloutLayout(config.env_steps_per_sync, rows, sizes.obs_dim, sizes.action_dim, sizes.critic_dim)
    inference = 4 * rows * (2 * max(hidden_widths(policy), default=1) + 8 * sizes.action_dim + sizes.obs_dim)
    copies = 2 * count + 3  # of each worker: the one that acts and the newest; of the learner: first, newest, next
    transitions = (2 * 4 + 1) * layout.num_steps * rows * (2 * sizes.obs_dim + sizes.action_dim + 3)
    return [
        BudgetItem("workers' models", HOST, copies * state_bytes(policy), f"actor, {count} workers and the learner"),
        BudgetItem("inference", HOST, count * inference, "noise and activations of a step"),
        BudgetItem("transitions", HOST, transitions, "of a rollout on its way to the replay buffer"),
        *_rollout_items(config, layout, policy),
        *dataclasses.replace(sizes, model_bytes=count * sizes.model_bytes).items(rows * count, count * threads),
    ]


def _rollout_items(config: OffPolicyConfig, layout: RolloutLayout, policy: ExploringPolicy) -> list[BudgetItem]:
    """Rollouts and weights between workers and learner."""
    count, fields = config.workers.count, layout.fields()
    if config.workers.kind == "sequential":
        size = sum(array.nbytes for array in layout.allocate().values())
        return [BudgetItem("rollouts", HOST, size, f"one of {layout.num_steps} steps")]
    published = policy.state_dict() | {VERSION: torch.zeros((), dtype=torch.int64)}
    if config.workers.kind == "ray":
        rollout = sum(array.nbytes for array in layout.allocate().values())
        size = 2 * config.workers.count * rollout + _KEPT_WEIGHTS * state_bytes(policy)
        return [BudgetItem("object store", SHM, pages(size), "rollouts on their way and the newest weights")]
    ring = ring_bytes(
        layout.num_envs, layout.num_steps, layout.obs_dim, layout.action_dim, critic_dim=layout.critic_dim,
        num_slots=QUEUE_SIZE, fields=fields,
    )  # fmt: skip
    sync = weight_sync_bytes({name: (tuple(value.shape), value.dtype) for name, value in published.items()})
    return [
        BudgetItem("rollouts", SHM, count * pages(ring), f"room for {QUEUE_SIZE + 2} of each worker"),
        BudgetItem("weight sync", SHM, pages(sync), "3 buffers of the actor"),
        BudgetItem("mailbox", SHM, count * pages(8), "a counter of steps of each worker"),
    ]

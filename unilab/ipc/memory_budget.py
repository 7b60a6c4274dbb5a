"""What an APPO run will allocate, item by item, before anything is: so that what does not fit is refused.

Sizes of arrays follow from the configuration. The fixed cost of the processes is measured once on each machine
(``process_cost``). Two kinds of figures are neither: how much the C allocator keeps or loses to fragmentation was
fitted to measured runs (``FRAGMENTATION``), and what CUDA costs is assumed and was never measured by us
(``CUDA_CONTEXT_DEVICE`` and below).
"""

import dataclasses
import inspect
import math
import mmap
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import psutil
import torch

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.worker import build_networks
from unilab.envs import make
from unilab.envs.mujoco_env import MujocoVecEnv
from unilab.ipc.budget import (
    HOST,
    MIB,
    SHM,
    BudgetItem,
    MemoryAvailable,
    MemoryBudget,
    MemoryBudgetError,
)
from unilab.ipc.mailbox import LatestValue, mailbox_bytes
from unilab.ipc.process_cost import ProcessCosts, measure_process_cost
from unilab.ipc.rollout_ring_buffer import ring_bytes, slot_fields
from unilab.ipc.weight_sync import weight_sync_bytes
from unilab.training.devices import Threads, split_threads, usable_cores

__all__ = [
    "BudgetItem",
    "EnvDims",
    "MemoryAvailable",
    "MemoryBudget",
    "MemoryBudgetError",
    "env_dims",
    "estimate_appo",
]

FRAGMENTATION = 1.4
"""what blocks of several sizes take over their sum, as glibc keeps the freed ones apart for each thread"""
FRAGMENTATION_OF_ONE_SIZE = 1.15
"""the same when nearly all blocks have one size and so reuse each other's place"""
ALWAYS_RETURNED = 32 * MIB
"""glibc maps blocks from this size on one by one and gives them back as soon as they are freed"""
THREAD = 4 * MIB
"""stack, allocator arena and matrix-product scratch memory of one busy learner thread (torch 2.13, x86-64)"""

CUDA_CONTEXT_DEVICE = 512 * MIB
"""an assumption on the safe side of what is usual, not measured"""
CUDA_CONTEXT_HOST = 512 * MIB
"""driver and libraries in the process: an assumption, not measured"""
CUBLAS_WORKSPACE = 2 * 32 * MIB
"""cuBLAS and cuBLASLt, at the size that NVIDIA recommends for compute capability 9.0; 4 MiB each on older ones"""

_ACTIVATION_COPIES = {"elu": 2, "silu": 2, "relu": 1, "tanh": 1}
"""tensors a hidden layer that the backward pass needs: the output alone, or the input of the activation as well"""
_FLOAT = 4
_SOLVER_STATISTICS = 40
"""bytes of one mjSolverStat, three doubles and four integers; a simulation has thousands of them"""


@dataclass(frozen=True)
class EnvDims:
    """Sizes of an environment that a budget needs: widths of its vectors, and bytes."""

    obs_dim: int
    action_dim: int
    critic_dim: int = 0
    """0: no privileged observation"""
    model_bytes: int = 0
    """once for all environments"""
    thread_bytes: int = 0
    """for each physics thread"""
    row_bytes: int = 0
    """for each environment, the step's buffers included"""


def env_dims(env: str, env_cfg: dict[str, Any] | None = None, sim_backend: str = "mujoco") -> EnvDims:
    """The sizes of an environment, from instances of a few rows that are closed again. Takes well under a second.

    Raises:
        ValueError: no such environment.
        SettingsError: an impossible setting of the environment.
    """
    with make(env, 1, sim_backend, env_cfg, seed=0, num_threads=1) as one:
        buffers = _FLOAT * (4 * one.obs_dim + 4 * one.critic_dim + 3 * one.action_dim) + 64
        if isinstance(one, MujocoVecEnv):
            model, thread, row = _mujoco_bytes(one)
            return EnvDims(one.obs_dim, one.action_dim, one.critic_dim, model, thread, row + buffers)
    row = _measured_row_bytes(env, env_cfg, sim_backend)
    return EnvDims(one.obs_dim, one.action_dim, one.critic_dim, row_bytes=row + buffers)


def _mujoco_bytes(env: MujocoVecEnv) -> tuple[int, int, int]:
    """Bytes of the model, of each thread and of each row."""
    data = mujoco.MjData(env.model)
    mujoco.mj_step(env.model, data)
    statistics = _SOLVER_STATISTICS * len(data.solver)
    in_use = data.nbuffer + data.maxuse_arena + statistics  # the rest of the arena is address space, never touched
    states = 2 * env.batch.state[0].nbytes  # the batch's and the one before the step, for faults
    outputs = env.model.nbody * 6 * 8 if env.persistent else 0
    model = 2 * env.model.nbuffer  # the batch has a copy
    return model, in_use, states + outputs + (in_use if env.persistent else 0)


def _measured_row_bytes(env: str, env_cfg: dict[str, Any] | None, sim_backend: str, rows: int = 16) -> int:
    """Growth of this process by an environment of whose inside nothing is known."""
    process = psutil.Process()
    before = process.memory_info().rss
    with make(env, rows, sim_backend, env_cfg, seed=0, num_threads=1) as many:
        many.reset()
        many.step(np.zeros((rows, many.action_dim), np.float32))
        return max(0, process.memory_info().rss - before) // rows


def estimate_appo(
    config: APPOConfig,
    dims: EnvDims | None = None,
    *,
    cores: int | None = None,
    costs: ProcessCosts | None = None,
) -> MemoryBudget:
    """The memory of a run with ``config``, before anything is allocated.

    Args:
        config: the run.
        dims: its environment's sizes; asked from the environment when None.
        cores: that the run's threads are split over; those that this process may use when None.
        costs: fixed costs of the processes; this machine's when None.

    Raises:
        ValueError, SettingsError: see ``env_dims``.
    """
    dims = dims or env_dims(config.env, config.env_cfg, config.sim_backend)
    costs = costs or measure_process_cost()
    threads = split_threads(config, cores or usable_cores())
    learner, collector = _place(config.learner_device), _place(config.collector_device)
    networks = _network_bytes(config, dims)
    items = [
        *_exchange_items(config, dims, learner),
        *_learner_items(config, dims, networks, threads.learner, learner),
        *_collector_items(config, dims, networks, collector),
        *_physics_items(config, dims, threads.env),
        *_process_items(config, costs, threads),
    ]
    settings = {"num_envs": config.num_envs, "steps_per_env": config.steps_per_env}
    if config.mode == "async":
        settings["num_slots"] = config.num_slots

    def changed(name: str, value: int) -> MemoryBudget:
        change: dict[str, Any] = {name: value}
        return estimate_appo(dataclasses.replace(config, **change), dims, cores=cores, costs=costs)

    return MemoryBudget(tuple(items), settings, changed)


def _exchange_items(config: APPOConfig, dims: EnvDims, learner: str) -> list[BudgetItem]:
    """What passes between collector and learner."""
    sizes = (config.num_envs, config.steps_per_env, dims.obs_dim, dims.action_dim)
    rollout = _FLOAT * sum(math.prod(shape) for shape in slot_fields(*sizes, dims.critic_dim).values())
    if config.mode == "sync":
        items = [BudgetItem("rollout", HOST, rollout, f"{config.steps_per_env} x {config.num_envs} transitions")]
        return items if learner == HOST else [*items, BudgetItem("staging", learner, rollout, "the rollout")]
    ring = ring_bytes(*sizes, critic_dim=dims.critic_dim, num_slots=config.num_slots)
    weights = [
        weight_sync_bytes({name: (tuple(value.shape), value.dtype) for name, value in network.state_dict().items()})
        for network in _networks(config, dims)
    ]
    metrics = mailbox_bytes(inspect.signature(LatestValue).parameters["capacity"].default)
    return [
        BudgetItem("ring", SHM, _pages(ring), f"{config.num_slots} + 2 slots of {rollout / MIB:,.1f} MiB"),
        BudgetItem("weight sync", SHM, _pages(*weights), "3 buffers of actor and of critic"),
        BudgetItem("mailbox", SHM, _pages(metrics, 8), "the newest metrics, and a counter of steps"),
        BudgetItem("staging", learner, rollout, "the rollout that is learned from"),
    ]


def _learner_items(
    config: APPOConfig, dims: EnvDims, networks: "_NetworkBytes", threads: int, place: str
) -> list[BudgetItem]:
    """The update: what it keeps between rollouts, and what it needs while it runs."""
    rows = config.num_envs * config.steps_per_env
    critic_dim = dims.critic_dim or dims.obs_dim
    gradients, shares = threads + (threads > 1), "one a thread and their sum" if threads > 1 else ""
    observations = critic_dim + (dims.obs_dim if config.obs_normalization else 0)
    per_row = _FLOAT * (observations + dims.action_dim + 5)
    return [
        BudgetItem("models", place, networks.total + networks.actor, "actor, critic, target actor"),
        BudgetItem("gradients", place, gradients * networks.total, shares),
        BudgetItem("optimizer state", place, 2 * networks.total, "two moments of every parameter"),
        BudgetItem("samples", place, rows * per_row, f"{rows} rows prepared for the update"),
        _activations(config, dims, threads, place),
    ]


def _activations(config: APPOConfig, dims: EnvDims, threads: int, place: str) -> BudgetItem:
    """The networks' activations: over all rows without gradients, then over one minibatch with them."""
    policy, rows = config.policy, config.num_envs * config.steps_per_env
    width = 2 if config.learner_dtype == "bfloat16" else _FLOAT
    critic_dim = dims.critic_dim or dims.obs_dim
    widest = max(policy.hidden_dims + policy.critic_hidden_dims)
    # A layer's input and output, or the observations in double precision for the normalizer.
    prepare = rows * max(2 * width * widest, 8 * max(dims.obs_dim, critic_dim))
    minibatch = -(-rows // config.algorithm.num_mini_batches)
    kept = _ACTIVATION_COPIES[policy.activation] * (sum(policy.hidden_dims) + sum(policy.critic_hidden_dims))
    gathered = dims.obs_dim + critic_dim + 2 * dims.action_dim + 5
    update = minibatch * (width * (kept + 2 * widest) + _FLOAT * gathered)
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


def _collector_items(config: APPOConfig, dims: EnvDims, networks: "_NetworkBytes", place: str) -> list[BudgetItem]:
    """The policy that acts."""
    noise = 2 * _FLOAT * config.steps_per_env * config.num_envs * dims.action_dim
    hidden = 2 * _FLOAT * config.num_envs * max(config.policy.hidden_dims)
    return [
        BudgetItem("collector's models", place, networks.total, "actor and critic"),
        BudgetItem("inference", place, noise + hidden, "noise of a rollout, activations of a step"),
    ]


def _physics_items(config: APPOConfig, dims: EnvDims, threads: int) -> list[BudgetItem]:
    """The environments."""
    rows = config.num_envs * (dims.row_bytes + 40)  # 40: episode statistics
    return [
        BudgetItem("physics model", HOST, dims.model_bytes, "the environment's and the batch's"),
        BudgetItem("physics data", HOST, threads * dims.thread_bytes, f"physics threads: {threads}"),
        BudgetItem("environments", HOST, rows, f"states and buffers, {dims.row_bytes:,} bytes each"),
    ]


def _process_items(config: APPOConfig, costs: ProcessCosts, threads: Threads) -> list[BudgetItem]:
    """What the processes cost before they hold any of the above."""
    if config.mode == "sync":
        processes = {"process": (costs.learner, {config.learner_device, config.collector_device})}
    else:
        processes = {
            "learner process": (costs.learner, {config.learner_device}),
            "collector process": (costs.collector, {config.collector_device}),
            "resource tracker": (costs.tracker, set()),
        }
    items = []
    for name, (cost, devices) in processes.items():
        items.append(BudgetItem(name, HOST, cost.private, "interpreter and libraries, private part"))
        for device in sorted(device for device in devices if device.startswith("cuda")):
            items += [
                BudgetItem(f"CUDA in {name}", HOST, CUDA_CONTEXT_HOST, "driver and libraries; not measured"),
                BudgetItem("CUDA context", _place(device), CUDA_CONTEXT_DEVICE, "not measured"),
                BudgetItem("cuBLAS workspace", _place(device), CUBLAS_WORKSPACE, "as documented"),
            ]
    libraries = max(cost.libraries for cost, _ in processes.values())
    return [
        *items,
        BudgetItem("libraries", HOST, libraries, "pages that the processes share"),
        BudgetItem("threads", HOST, THREAD * (threads.learner - 1), "stacks, arenas, scratch of the learner's"),
    ]


@dataclass(frozen=True)
class _NetworkBytes:
    actor: int
    critic: int

    @property
    def total(self) -> int:
        return self.actor + self.critic


def _networks(config: APPOConfig, dims: EnvDims) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Actor and critic without memory: only their shapes."""
    with torch.device("meta"):
        return build_networks(config, dims.obs_dim, dims.action_dim, dims.critic_dim)


def _network_bytes(config: APPOConfig, dims: EnvDims) -> _NetworkBytes:
    actor, critic = (
        sum(value.numel() * value.itemsize for value in network.state_dict().values())
        for network in _networks(config, dims)
    )
    return _NetworkBytes(actor, critic)


def _pages(*sizes: int) -> int:
    """What segments of these sizes take of /dev/shm: whole pages."""
    return sum(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes)


def _place(device: str) -> str:
    """Where a torch device's memory is, as budgets name it."""
    return {"cpu": HOST, "cuda": "cuda:0"}.get(device, device)

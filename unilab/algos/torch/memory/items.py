"""What the budgets of all trainers have in common: environments, processes, networks, pages."""

import inspect
import mmap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import psutil
from torch import nn

from unilab.algos.torch.memory.process_cost import ProcessCost, ProcessCosts
from unilab.envs import make
from unilab.envs.mujoco_env import MujocoVecEnv
from unilab.ipc.latest import LatestValue, mailbox_bytes
from unilab.ipc.memory_budget import HOST, MIB, SHM, BudgetItem
from unilab.ipc.weight_sync import weight_sync_bytes

FLOAT = 4
"""bytes of a float32"""
THREAD = 4 * MIB
"""stack, allocator arena and matrix-product scratch memory of one busy learner thread (torch 2.13, x86-64)"""

CUDA_CONTEXT_DEVICE = 512 * MIB
"""an assumption on the safe side of what is usual, not measured"""
CUDA_CONTEXT_HOST = 512 * MIB
"""driver and libraries in the process: an assumption, not measured"""
CUBLAS_WORKSPACE = 2 * 32 * MIB
"""cuBLAS and cuBLASLt, at the size that NVIDIA recommends for compute capability 9.0; 4 MiB each on older ones"""

_SOLVER_STATISTICS = 40
"""bytes of one mjSolverStat, three doubles and four integers; a simulation has thousands of them"""
_EPISODE_STATISTICS = 40
"""bytes of each environment's running episode"""


@dataclass(frozen=True)
class EnvSizes:
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
    chooses: bool = False
    """see ``VecEnv.chooses``"""


def env_sizes(env: str, env_cfg: Mapping[str, Any] | None = None, sim_backend: str = "mujoco") -> EnvSizes:
    """The sizes of an environment, from instances of a few rows that are closed again. Takes well under a second.

    Raises:
        ValueError: no such environment.
        SettingsError: an impossible setting of the environment.
    """
    with make(env, 1, sim_backend, env_cfg, seed=0, num_threads=1) as one:
        buffers = FLOAT * (4 * one.obs_dim + 4 * one.critic_dim + 3 * one.action_dim) + 64
        if isinstance(one, MujocoVecEnv):
            model, thread, row = _mujoco_bytes(one)
            return EnvSizes(one.obs_dim, one.action_dim, one.critic_dim, model, thread, row + buffers)
    row = _measured_row_bytes(env, env_cfg, sim_backend)
    return EnvSizes(one.obs_dim, one.action_dim, one.critic_dim, row_bytes=row + buffers, chooses=one.chooses)


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


def _measured_row_bytes(env: str, env_cfg: Mapping[str, Any] | None, sim_backend: str, rows: int = 16) -> int:
    """Growth of this process by an environment of whose inside nothing is known."""
    process = psutil.Process()
    before = process.memory_info().rss
    with make(env, rows, sim_backend, env_cfg, seed=0, num_threads=1) as many:
        many.reset()
        many.step(np.zeros((rows, many.action_dim), np.float32))
        return max(0, process.memory_info().rss - before) // rows


def physics_items(num_envs: int, sizes: EnvSizes, threads: int) -> list[BudgetItem]:
    """The environments."""
    rows = num_envs * (sizes.row_bytes + _EPISODE_STATISTICS)
    return [
        BudgetItem("physics model", HOST, sizes.model_bytes, "the environment's and the batch's"),
        BudgetItem("physics data", HOST, threads * sizes.thread_bytes, f"physics threads: {threads}"),
        BudgetItem("environments", HOST, rows, f"states and buffers, {sizes.row_bytes:,} bytes each"),
    ]


Processes = Mapping[str, tuple[ProcessCost, Collection[str]]]
"""by name the fixed cost of each process, and the devices that it uses"""


def learner_and_collector(costs: ProcessCosts, learner_device: str, collector_device: str) -> Processes:
    """The processes of a run whose collector is a process of its own."""
    return {
        "learner process": (costs.learner, {learner_device}),
        "collector process": (costs.collector, {collector_device}),
        "resource tracker": (costs.tracker, ()),
    }


def process_items(processes: Processes, learner_threads: int) -> list[BudgetItem]:
    """What the processes cost before they hold any data; ``learner_threads`` are the busy ones of the learner's."""
    items = []
    for name, (cost, devices) in processes.items():
        items.append(BudgetItem(name, HOST, cost.private, "interpreter and libraries, private part"))
        for device in sorted(device for device in devices if device.startswith("cuda")):
            items += [
                BudgetItem(f"CUDA in {name}", HOST, CUDA_CONTEXT_HOST, "driver and libraries; not measured"),
                BudgetItem("CUDA context", place_of(device), CUDA_CONTEXT_DEVICE, "not measured"),
                BudgetItem("cuBLAS workspace", place_of(device), CUBLAS_WORKSPACE, "as documented"),
            ]
    libraries = max(cost.libraries for cost, _ in processes.values())
    return [
        *items,
        BudgetItem("libraries", HOST, libraries, "pages that the processes share"),
        BudgetItem("threads", HOST, THREAD * (learner_threads - 1), "stacks, arenas, scratch of the learner's"),
    ]


def state_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(value.numel() * value.itemsize for value in network.state_dict().values())


def published_bytes(network: nn.Module) -> int:
    """Bytes of shared memory through which a network's weights reach the collector."""
    return weight_sync_bytes({name: (tuple(v.shape), v.dtype) for name, v in network.state_dict().items()})


def mailbox_item() -> BudgetItem:
    """What the collector reports through."""
    metrics = mailbox_bytes(inspect.signature(LatestValue).parameters["capacity"].default)
    return BudgetItem("mailbox", SHM, pages(metrics, 8), "the newest metrics, and a counter of steps")


def pages(*sizes: int) -> int:
    """What segments of these sizes take of /dev/shm: whole pages."""
    return sum(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes)


def place_of(device: str) -> str:
    """Where a torch device's memory is, as budgets name it."""
    return {"cpu": HOST, "cuda": "cuda:0"}.get(device, device)

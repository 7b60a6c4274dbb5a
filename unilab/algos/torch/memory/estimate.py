"""What a run will allocate, item by item, before it allocates anything: a run that does not fit is refused.

Each object says beside its own code how many bytes it will take; here they are added up. What a process costs beside
its data, what the C allocator keeps of freed blocks included, is measured once on each machine (``processes``). What
CUDA and Ray cost is assumed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unilab.algos.torch.appo import learner as appo
from unilab.algos.torch.appo.actor_critic import build_networks as build_appo
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.rollout_source import exchange_items
from unilab.algos.torch.appo.worker import inference_items
from unilab.algos.torch.memory.processes import ProcessCosts, measure_process_cost, process_items
from unilab.algos.torch.networks.sizes import shapes
from unilab.algos.torch.offpolicy import learner as offpolicy
from unilab.algos.torch.offpolicy.config import OffPolicyConfig, check, divide_threads
from unilab.algos.torch.offpolicy.transition_source import collector_items, replay_items, row_layout
from unilab.algos.torch.offpolicy.worker_source import worker_items
from unilab.envs.sizes import EnvSizes, env_sizes
from unilab.ipc.memory_budget import HOST, MemoryAvailable, MemoryBudget, place_of
from unilab.ipc.replay_pipelines.choose import FREE_MEMORY_FRACTION, choose_kind, pipeline_items
from unilab.machine.devices import split_threads, usable_cores
from unilab.settings import SettingsError


def estimate(
    config: APPOConfig | OffPolicyConfig,
    sizes: EnvSizes | None = None,
    *,
    cores: int | None = None,
    costs: ProcessCosts | None = None,
    free: Mapping[str, int] | None = None,
) -> MemoryBudget:
    """The memory of a run with ``config``, before anything is allocated.

    Args:
        config: the run.
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
    usable, learner = cores or usable_cores(), place_of(config.learner_device)
    if isinstance(config, APPOConfig):
        names = ["num_envs", "steps_per_env", *(["num_slots"] if config.mode == "async" else [])]
        threads = split_threads(config, usable)
        actor, critic = shapes(config, sizes.dims, build_appo)
        items = [
            *exchange_items(config, sizes.dims, actor, critic),
            *appo.learner_items(config, actor, critic, sizes.dims, threads.learner, learner, costs.kept),
            *inference_items(config, actor, critic, sizes.dims),
            *sizes.items(config.num_envs, threads.env),
            *process_items(config, costs, threads.learner),
        ]
    else:
        names = ["replay_capacity", "num_envs", "batch_size"]
        threads = divide_threads(config, usable)
        learner_threads = threads.learner if learner == HOST else 1
        policy, critics = shapes(config, sizes.dims, offpolicy.build_networks)
        layout = row_layout(config, sizes.dims)
        here = ({} if learner == HOST else MemoryAvailable.here().devices) if free is None else free
        mirror = 4 * config.replay_capacity * layout.width
        room = int(FREE_MEMORY_FRACTION * here[learner]) if learner in here else mirror
        kind = choose_kind(config.pipeline, mirror, config.learner_device, device_budget_bytes=room)
        if config.workers.kind == "collector":
            collecting = [*collector_items(config, policy, sizes.dims), *sizes.items(config.num_envs, threads.env)]
        else:
            collecting = worker_items(config, policy, sizes, threads.env)
        items = [
            *replay_items(config, sizes.dims),
            *pipeline_items(kind, layout, config.replay_capacity, config.batch_size, learner),
            *offpolicy.learner_items(config, policy, critics, sizes.dims, learner_threads, learner),
            *collecting,
            *process_items(config, costs, learner_threads + (kind == "prefetch")),
        ]

    def with_(name: str, value: int) -> APPOConfig | OffPolicyConfig:
        change: dict[str, Any] = {name: value}
        return dataclasses.replace(config, **change)

    def changed(name: str, value: int) -> MemoryBudget:
        return estimate(with_(name, value), sizes, cores=cores, costs=costs, free=free)

    def possible(name: str, value: int) -> bool:
        other = with_(name, value)
        try:
            if isinstance(other, OffPolicyConfig):
                check(other)
        except SettingsError:
            return False
        return True

    return MemoryBudget(tuple(items), {name: getattr(config, name) for name in names}, changed, possible)

"""Budgets of SAC and TD3 whose workers collect."""

import mmap

import pytest

from unilab.algos.torch.memory.estimate import estimate
from unilab.algos.torch.memory.processes import FALLBACK, RAY_LIBRARY, RAY_PROCESSES
from unilab.algos.torch.offpolicy.config import SACConfig
from unilab.algos.torch.offpolicy.runner import OffPolicyRunner
from unilab.algos.torch.offpolicy.worker_source import WorkerSource
from unilab.envs import EnvDims, env_dims
from unilab.envs.sizes import EnvSizes
from unilab.ipc.memory_budget import SHM, MemoryBudget
from unilab.ipc.shared_memory import segments
from unilab.settings import parse

SIZES = EnvSizes(EnvDims(11, 3, 0), model_bytes=2**20, thread_bytes=20_000, row_bytes=2_000)
SMALL = {"env": "Hopper", "replay_capacity": 5000, "learning_starts": 2, "num_envs": 8, "env_steps_per_sync": 3}


def budget_of(**changes: object) -> MemoryBudget:
    return estimate(parse(SACConfig, SMALL | changes), SIZES, cores=4, costs=FALLBACK, free={})


def sizes(budget: MemoryBudget, name: str) -> list[int]:
    return [item.bytes for item in budget.items if item.name == name]


@pytest.mark.parametrize("count", [1, 4])
def test_shared_memory_is_exactly_what_a_run_creates(count: int) -> None:
    config = parse(SACConfig, SMALL | {"workers": {"kind": "processes", "count": count}, "obs_normalization": True})
    runner = OffPolicyRunner.from_config(config)
    collection = WorkerSource(runner, runner.config, env_dims("Hopper"))
    try:
        workers = collection._workers
        shared = [collection.replay.name, workers._weights.name, *(worker.ring.name for worker in workers._members)]
        created = sum((segments.ROOT / name).stat().st_blocks * 512 for name in shared)
        created += count * mmap.PAGESIZE  # a counter of steps of each process
        assert estimate(config, SIZES, cores=4, costs=FALLBACK).shm_bytes == created
    finally:
        collection.close()
        runner.close()


def test_each_worker_has_a_process_an_environment_and_a_policy() -> None:
    one, four = (budget_of(workers={"kind": "processes", "count": count}) for count in (1, 4))
    assert sizes(four, "worker processes") == [4 * FALLBACK.collector.private]
    assert sizes(one, "worker processes") == [FALLBACK.collector.private]
    assert sizes(four, "physics model") == [4 * 2**20]
    assert sizes(four, "physics data") == sizes(one, "physics data") == [4 * 20_000]  # a thread each, or four
    assert sizes(four, "environments") == sizes(one, "environments")
    assert sizes(four, "workers' models")[0] / sizes(one, "workers' models")[0] == 11 / 5


def test_workers_in_the_learners_process_need_no_other_and_no_shared_memory_but_the_replay_buffer() -> None:
    budget = budget_of(workers={"kind": "sequential", "count": 2})
    assert [item.name for item in budget.items if item.place == SHM] == ["replay buffer"]
    assert not sizes(budget, "worker processes")
    assert len(sizes(budget, "learner process")) == 1


def test_what_a_collector_needs_is_not_asked_for() -> None:
    names = {item.name for item in budget_of(workers={"kind": "processes", "count": 2}).items}
    assert not names & {"collector process", "collector's model"}
    assert {"collector process", "collector's model"} < {item.name for item in budget_of().items}


def test_workers_of_a_cluster_elsewhere_cost_nothing_here() -> None:
    here, there = (
        budget_of(workers={"kind": "ray", "count": 2, "ray_address": address}) for address in (None, "10.0.0.1:6379")
    )
    assert sizes(here, "worker processes") == [2 * (FALLBACK.collector.private + RAY_LIBRARY)]
    assert sizes(here, "Ray") == [RAY_PROCESSES + RAY_LIBRARY]
    assert not sizes(there, "worker processes") and sizes(there, "Ray") == [RAY_LIBRARY]
    assert sizes(there, "physics model") == sizes(there, "environments") == [0]
    assert sizes(there, "object store") == sizes(here, "object store") != [0]

"""Budgets of SAC and TD3: sizes against what is really allocated, and the change that would fit."""

import dataclasses
import mmap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unilab.algos.torch.memory.estimate import estimate
from unilab.algos.torch.memory.processes import FALLBACK
from unilab.algos.torch.offpolicy import learner as learner_module
from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.runner import build_learner
from unilab.envs import EnvDims
from unilab.envs.sizes import EnvSizes
from unilab.ipc import LatestValue, ReplayBuffer, SharedWeightSync
from unilab.ipc.memory_budget import BudgetItem, MemoryAvailable, MemoryBudget, MemoryBudgetError
from unilab.ipc.replay_pipelines import build_pipeline
from unilab.ipc.replay_rows import RowLayout
from unilab.ipc.shared_memory import segments
from unilab.settings import SettingsError, parse

MIB = 2**20
SIZES = EnvSizes(EnvDims(17, 6, 5), model_bytes=MIB, thread_bytes=20_000, row_bytes=2_000)
PLENTY = MemoryAvailable(host_total=2**50, host_free=2**50, shm_free=2**50)
SMALL = {"replay_capacity": 5000, "learning_starts": 2, "num_envs": 4}
algorithms = pytest.mark.parametrize("algorithm", ["sac", "td3"])


def config_of(trainer: str = "sac", /, **changes: object) -> OffPolicyConfig:
    return parse(CONFIGS[trainer], SMALL | changes)


def budget_of(trainer: str = "sac", /, **changes: object) -> MemoryBudget:
    return estimate(config_of(trainer, **changes), SIZES, cores=2, costs=FALLBACK, free={})


def item(budget: MemoryBudget, name: str, place: str | None = None) -> BudgetItem:
    return next(item for item in budget.items if item.name == name and place in (None, item.place))


def kept_for_gradients(learner: Any, batch: Any) -> int:
    """Bytes of all different memory, but the parameters', that the losses of a batch keep until they are
    differentiated: the largest of both losses."""
    parameters = {p.untyped_storage().data_ptr() for p in [*learner.actor.parameters(), *learner.critics.parameters()]}
    sizes = []
    for loss in (learner.critic_loss, learner.actor_loss):
        found: dict[int, int] = {}

        def keep(tensor: torch.Tensor, found: dict[int, int] = found) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            alive = loss(batch)
        sizes.append(sum(found.values()))
        del alive
    return max(sizes)


@algorithms
@pytest.mark.parametrize("n_step", [1, 3])
def test_shared_memory_is_exactly_what_a_run_creates(algorithm, n_step):
    config = config_of(algorithm, **{"algorithm.n_step": n_step, "network.actor": [32, 16]})
    learner = build_learner(config, EnvDims(17, 6, 5))
    replay = ReplayBuffer(5000, 17, 6, "cpu", critic_dim=5, multi_step=n_step > 1)
    sync, mailbox = SharedWeightSync.from_state_dict(learner.get_weights()), LatestValue()
    try:
        created = sum((segments.ROOT / shared.name).stat().st_blocks * 512 for shared in (replay, sync, mailbox))
        created += mmap.PAGESIZE  # the collector's counter of steps
        budget = estimate(config, SIZES, cores=2, costs=FALLBACK)
        assert budget.shm_bytes == created
        width = 17 + 6 + 3 + 17 + 5 + 5 + (n_step > 1)
        assert 0 <= item(budget, "replay buffer").bytes - 5000 * width * 4 < 3 * mmap.PAGESIZE
    finally:
        for shared in (replay, sync, mailbox):
            shared.cleanup()
        learner.close()


@algorithms
@pytest.mark.parametrize("parts", [1, 3])
def test_networks_and_gradients_are_those_of_the_learner(algorithm, parts, monkeypatch):
    monkeypatch.setattr(learner_module, "DATA_PARALLEL_ROWS", 1)  # as with a large batch: rows for each thread
    monkeypatch.setattr(learner_module, "PASS_ROWS", 256 // parts + 1)
    config = config_of(
        algorithm,
        batch_size=512,
        learner_threads=2,
        network={"actor": [64, 32], "critic": [48]},
        algorithm={"num_atoms": 3, "policy_frequency": 2},
    )
    learner = build_learner(config, EnvDims(17, 6, 5))
    try:
        batch = RowLayout(17, 6, 5).fields(torch.zeros(512, 53))
        for _ in range(2):  # the second one updates the actor as well
            learner.update(batch)
        budget = estimate(config, SIZES, cores=2, costs=FALLBACK)
        state = learner.state_dict()
        networks = [value for name, value in state.items() if name.removeprefix("target_") in ("actor", "critics")]
        assert item(budget, "models").bytes == sum(tensor.nbytes for network in networks for tensor in network.values())
        trained = [[p.grad.nbytes for p in network.parameters()] for network in (learner.actor, learner.critics)]
        of_threads = 2 * (2 if parts > 1 else 1) * max(map(sum, trained))
        assert item(budget, "gradients").bytes == sum(map(sum, trained)) + of_threads
        assert item(budget, "optimizer state").bytes == 2 * sum(map(sum, trained))
    finally:
        learner.close()


@algorithms
@pytest.mark.parametrize(("layer_norm", "atoms"), [(False, 1), (True, 1), (True, 101)])
@pytest.mark.parametrize("widths", [[256, 256], [400, 300, 64]])
def test_the_workspace_has_room_for_what_is_kept_for_gradients(algorithm, layer_norm, atoms, widths):
    network = {"actor": widths, "critic": widths, "layer_norm": layer_norm}
    values = {"algorithm.num_atoms": atoms}
    config = config_of(algorithm, batch_size=256, learner_threads=1, network=network, **values)
    learner = build_learner(config, EnvDims(17, 6, 5))
    try:
        batch = learner.prepared(RowLayout(17, 6, 5).fields(torch.zeros(256, 53)))
        kept = kept_for_gradients(learner, batch)
        room = item(estimate(config, SIZES, cores=1, costs=FALLBACK), "workspace").bytes
        assert 0.4 * room < kept < room
    finally:
        learner.close()


@pytest.mark.parametrize(("kind", "batches"), [("auto", 1), ("direct", 1), ("prefetch", 2)])
def test_batches_are_those_of_the_pipeline(kind, batches):
    config = config_of(pipeline=kind, batch_size=300)
    replay = ReplayBuffer(5000, 17, 6, "cpu", critic_dim=5)
    pipeline = build_pipeline(kind, replay, 300, "cpu")
    try:
        buffers = [getattr(pipeline, name) for name in ("_buffer", "_front", "_back") if hasattr(pipeline, name)]
        budget = estimate(config, SIZES, cores=2, costs=FALLBACK)
        assert len(buffers) == batches
        numbers = 300 * (8 + 8)  # of the sampled rows, and where these lie
        assert item(budget, "batches").bytes == sum(buffer.packed.nbytes for buffer in buffers) + numbers
        assert item(budget, "threads").bytes - item(budget_of(batch_size=300), "threads").bytes == 4 * MIB * (
            batches - 1
        )
    finally:
        pipeline.close()
        replay.cleanup()


@algorithms
def test_a_learner_on_an_accelerator_takes_its_arrays_there(algorithm):
    on_cpu, on_cuda = (budget_of(algorithm, batch_size=4096, learner_device=device) for device in ("cpu", "cuda"))
    assert on_cpu.device_bytes == 0
    for name in ("models", "gradients", "optimizer state", "workspace", "temporaries", "replay on the device"):
        assert item(on_cuda, name).place == "cuda:0"
    assert item(on_cuda, "replay on the device").bytes == 5000 * 53 * 4
    assert item(on_cuda, "replay buffer") == item(on_cpu, "replay buffer")
    assert item(on_cuda, "CUDA context").bytes > 0


def test_auto_keeps_the_replay_buffer_on_the_device_only_where_it_fits():
    def with_free(free: int) -> MemoryBudget:
        return estimate(config_of(learner_device="cuda"), SIZES, cores=2, costs=FALLBACK, free={"cuda:0": free})

    mirror = 5000 * 53 * 4
    assert item(with_free(2 * mirror), "replay on the device").bytes == mirror
    prefetched = with_free(2 * mirror - 2)
    assert [one.name for one in prefetched.items].count("replay on the device") == 0
    batch = 128 * 53 * 4
    assert item(prefetched, "batches", "cuda:0").bytes == 2 * batch
    assert item(prefetched, "batches", "host").bytes == 2 * batch + 128 * 16


def test_a_replay_buffer_on_the_device_of_a_cpu_is_refused():
    with pytest.raises(SettingsError, match="pipeline: 'device' keeps the rows on an accelerator"):
        budget_of(pipeline="device")


def test_a_checkpoint_with_the_replay_buffer_needs_it_twice():
    assert budget_of(save_replay=True).host_bytes - budget_of().host_bytes == 5000 * 53 * 4


def test_the_workspace_grows_with_the_batch_and_the_critics():
    small, large, many = (
        item(budget_of(**changes), "workspace").bytes
        for changes in ({}, {"batch_size": 8192}, {"algorithm.num_critics": 10})
    )
    # inputs and outputs of two hidden layers of the actor and of each critic, and the gradients of two layers of all
    actor, critic = 17 + 512, 5 + 6 + 512
    assert small == 128 * 4 * (actor + 2 * critic + 2 * 2 * 256)
    assert large == 2 * 512 * 4 * (actor + 2 * critic + 2 * 2 * 256)  # parts of 512 rows, two threads
    assert many == 128 * 4 * (actor + 10 * critic + 2 * 10 * 256)


def test_refusal_names_need_room_items_and_the_smallest_change():
    budget = budget_of(replay_capacity=1_000_000)
    replay = item(budget, "replay buffer").bytes
    with pytest.raises(MemoryBudgetError) as refusal:
        budget.check(dataclasses.replace(PLENTY, shm_free=budget.shm_bytes - replay // 4))
    assert refusal.value.changes == {"replay_capacity": pytest.approx(750_000, rel=1e-3)}
    assert "/dev/shm needs" in str(refusal.value) and "replay_capacity 1000000 -> 7" in str(refusal.value)


@settings(max_examples=25, deadline=None)
@given(
    algorithm=st.sampled_from(["sac", "td3"]),
    capacity=st.integers(1000, 10_000_000),
    num_envs=st.integers(1, 20_000),
    batch=st.integers(1, 32_768),
    host=st.integers(500 * MIB, 4000 * MIB),
)
def test_every_proposed_change_fits_and_is_smaller(algorithm, capacity, num_envs, batch, host):
    chosen = {"replay_capacity": capacity, "num_envs": num_envs, "batch_size": batch}
    budget, available = budget_of(algorithm, **chosen), MemoryAvailable(host, host, host // 2)
    try:
        budget.check(available, host_fraction=0.8)
    except MemoryBudgetError as refusal:
        for name, value in refusal.changes.items():
            assert 1 <= value < chosen[name]
            assert budget_of(algorithm, **chosen | {name: value}).shortages(available, 0.8) == []
    else:
        assert budget.host_bytes <= 0.8 * host and budget.shm_bytes <= host // 2

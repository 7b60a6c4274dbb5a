"""Budgets: sizes against what is really allocated, refusals, and the change that would fit."""

import dataclasses
import json
import logging
import mmap
import subprocess
from pathlib import Path

import gymnasium
import mujoco
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.robots.here import needs_go1
from unilab.algos.torch.appo.config import APPOConfig, NetworkConfig
from unilab.algos.torch.appo.runner import build_learner
from unilab.algos.torch.memory import processes
from unilab.algos.torch.memory.estimate import estimate
from unilab.algos.torch.memory.processes import FALLBACK, ProcessCost, ProcessCosts, measure_process_cost
from unilab.algos.torch.networks.build import mlp
from unilab.algos.torch.networks.sizes import pass_numbers
from unilab.algos.torch.offpolicy.config import SACConfig, WorkersConfig
from unilab.envs import EnvDims
from unilab.envs.registry import make
from unilab.envs.sizes import EnvSizes, env_sizes
from unilab.ipc import LatestValue, RolloutRingBuffer, SharedWeightSync
from unilab.ipc.memory_budget import BudgetItem, MemoryAvailable, MemoryBudget, MemoryBudgetError
from unilab.ipc.shared_memory import segments
from unilab.machine import user_cache
from unilab.machine.nvidia_smi import torch_device

MIB = 2**20
SIZES = EnvSizes(EnvDims(17, 6, 5), model_bytes=MIB, thread_bytes=20_000, row_bytes=2_000)
PLENTY = MemoryAvailable(host_total=2**50, host_free=2**50, shm_free=2**50)


def budget_of(**changes: object) -> MemoryBudget:
    return estimate(dataclasses.replace(APPOConfig(), **changes), SIZES, cores=2, costs=FALLBACK)


def item(budget: MemoryBudget, name: str) -> BudgetItem:
    return next(item for item in budget.items if item.name == name)


def test_totals_by_place():
    items = (
        BudgetItem("a", "host", 1),
        BudgetItem("b", "shm", 10),
        BudgetItem("c", "cuda:0", 100),
        BudgetItem("d", "cuda:1", 1000),
    )
    budget = MemoryBudget(items)
    assert budget.host_bytes == 11  # /dev/shm is RAM
    assert budget.shm_bytes == 10
    assert budget.devices == {"cuda:0": 100, "cuda:1": 1000}
    assert budget.device_bytes == 1100


def test_shared_memory_is_exactly_what_a_run_creates():
    config = APPOConfig(num_envs=48, steps_per_env=7, num_slots=3, network=NetworkConfig((32, 16), (24,)))
    learner = build_learner(config, EnvDims(17, 6, 5))
    ring = RolloutRingBuffer(48, 7, 17, 6, critic_dim=5, num_slots=3)
    syncs = [
        SharedWeightSync.from_state_dict(weights) for weights in (learner.get_weights(), learner.get_critic_weights())
    ]
    mailbox = LatestValue()
    try:
        names = [ring.name, *(sync.name for sync in syncs), mailbox.name]
        created = sum((segments.ROOT / name).stat().st_blocks * 512 for name in names)
        created += mmap.PAGESIZE  # the collector's counter of steps
        assert estimate(config, SIZES, cores=2, costs=FALLBACK).shm_bytes == created
    finally:
        for shared in (ring, *syncs, mailbox):
            shared.cleanup()
        learner.close()


def test_models_and_optimizer_are_those_of_the_learner():
    config = APPOConfig(network=NetworkConfig((64, 32), (48,)), learner_threads=2)
    learner = build_learner(config, EnvDims(17, 6, 5))
    budget = estimate(config, SIZES, cores=2, costs=FALLBACK)
    try:
        states = [network.state_dict() for network in (learner.actor, learner.critic, learner.target_actor)]
        assert item(budget, "models").bytes == sum(v.numel() * v.itemsize for state in states for v in state.values())
        parameters = 4 * sum(p.numel() for network in (learner.actor, learner.critic) for p in network.parameters())
        # The budget counts the normalization's few statistics as if they had moments and gradients as well.
        assert item(budget, "optimizer state").bytes == pytest.approx(2 * parameters, rel=0.03)
        assert item(budget, "gradients").bytes == pytest.approx(3 * parameters, rel=0.03)
    finally:
        learner.close()


def test_what_a_network_keeps_for_its_backward_pass_is_asked_of_it():
    with torch.device("meta"):
        plain, gated = mlp(17, (256, 128), 6, "elu"), mlp(17, (256, 128), 6, "silu")
    assert pass_numbers(plain, 17) == (17 + 256 + 128, 256)  # ELU works in place: its output is the next layer's input
    assert pass_numbers(gated, 17) == (17 + 2 * 256 + 2 * 128, 256)  # SiLU's input is kept beside its output
    users = torch.nn.Sequential(torch.nn.Linear(4, 300), torch.nn.Tanh(), torch.nn.Linear(300, 2))
    assert pass_numbers(users, 4) == (4 + 300, 300)


def test_physics_sizes_are_those_of_mujoco():
    sizes = env_sizes("HalfCheetah")
    assets = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
    model = mujoco.MjModel.from_xml_path(str(assets / "half_cheetah.xml"))
    data = mujoco.MjData(model)
    state = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION.value)
    assert sizes.dims == EnvDims(17, 6, 0)
    assert sizes.model_bytes == 2 * model.nbuffer
    assert data.nbuffer < sizes.thread_bytes < data.nbuffer + data.narena
    assert 2 * 8 * state < sizes.row_bytes < 2 * 8 * state + 1024


def test_an_environment_that_keeps_its_simulations_has_larger_rows():
    sizes = env_sizes("Ant")
    assert sizes.thread_bytes < sizes.row_bytes < sizes.thread_bytes + 10_000


@needs_go1
def test_simulations_that_differ_have_fields_of_the_model_in_their_rows():
    masses = {"randomize": {"masses": [0.9, 1.1], "gains": [0.9, 1.1]}}
    with make("Velocity-Go1", 1, "mujoco", masses) as env:
        env.reset()
        model = env.model
        drawn = [model.body_mass, model.body_inertia, model.actuator_gainprm, model.actuator_biasprm]
        derived = [model.body_subtreemass, model.body_invweight0, model.dof_invweight0, model.dof_M0]
        least = sum(field.nbytes for field in drawn + derived)
    more = env_sizes("Velocity-Go1", masses).row_bytes - env_sizes("Velocity-Go1").row_bytes
    assert least < more < 3 * least


def test_a_gymnasium_environment_has_measured_rows():
    sizes = env_sizes("Pendulum-v1")
    assert sizes.dims == EnvDims(3, 1, 0)
    assert 0 < sizes.row_bytes < 50 * MIB


def test_a_synchronous_run_is_one_process_without_shared_memory():
    budget = budget_of(mode="sync")
    assert budget.shm_bytes == 0
    names = [item.name for item in budget.items]
    assert "learner process" in names and "collector process" not in names and "resource tracker" not in names
    assert "num_slots" not in budget.settings


def test_a_learner_on_an_accelerator_takes_its_arrays_there():
    on_cpu, on_cuda = budget_of(num_envs=4096), budget_of(num_envs=4096, learner_device="cuda")
    assert on_cpu.device_bytes == 0
    for name in ("staging", "models", "gradients", "optimizer state", "samples", "activations"):
        assert item(on_cuda, name).place == "cuda:0"
    assert item(on_cuda, "ring") == item(on_cpu, "ring")
    assert item(on_cuda, "CUDA context").bytes > 0


def test_bfloat16_halves_the_activations():
    ratio = item(budget_of(num_envs=512, learner_dtype="bfloat16"), "activations").bytes
    assert ratio < 0.6 * item(budget_of(num_envs=512), "activations").bytes


def test_table_fits_80_columns_and_names_every_item():
    budget = budget_of(num_envs=4096, steps_per_env=128, num_slots=64, learner_device="cuda:3")
    table = budget.table()
    assert max(len(line) for line in table.splitlines()) <= 80
    for one in budget.items:
        assert one.bytes == 0 or one.name[:24] in table


def test_what_fits_is_not_refused():
    budget = budget_of()
    budget.check(PLENTY, host_fraction=0.8)
    budget.check(MemoryAvailable(budget.host_bytes, budget.host_bytes, budget.shm_bytes))


def test_refusal_names_need_room_items_and_the_smallest_change():
    budget = budget_of(num_envs=1000, steps_per_env=32, num_slots=8)
    ring = item(budget, "ring").bytes
    with pytest.raises(MemoryBudgetError) as refusal:
        budget.check(dataclasses.replace(PLENTY, shm_free=budget.shm_bytes - ring // 20))
    # 9.5 of 10 physical slots' room: one slot less, or 5 % fewer environments or steps; the least change comes first
    changes = refusal.value.changes
    assert changes == {"num_envs": pytest.approx(950, abs=3), "steps_per_env": 30, "num_slots": 7}
    assert list(changes) == ["num_envs", "steps_per_env", "num_slots"]
    text = str(refusal.value)
    assert "/dev/shm needs" in text and f"num_envs 1000 -> {changes['num_envs']} fits" in text and "ring" in text


def test_refusal_says_when_no_change_helps():
    with pytest.raises(MemoryBudgetError, match="no change of one setting alone fits"):
        budget_of().check(MemoryAvailable(100 * MIB, 100 * MIB))


def test_the_part_of_the_machine_and_what_is_free_both_limit():
    budget = budget_of()
    need = budget.host_bytes
    assert budget.shortages(MemoryAvailable(2 * need, 2 * need), 0.6) == []
    assert len(budget.shortages(MemoryAvailable(2 * need, 2 * need), 0.4)) == 1
    assert len(budget.shortages(MemoryAvailable(2 * need, need - 1), 0.6)) == 1


def test_a_device_without_room_is_named():
    budget = budget_of(learner_device="cuda:1")
    shortages = budget.shortages(dataclasses.replace(PLENTY, devices={"cuda:0": 2**50, "cuda:1": MIB}))
    assert len(shortages) == 1 and shortages[0].startswith("cuda:1 needs")


@settings(max_examples=25, deadline=None)
@given(
    num_envs=st.integers(1, 20_000),
    steps=st.integers(1, 256),
    slots=st.integers(1, 16),
    mode=st.sampled_from(["sync", "async"]),
    host=st.integers(500 * MIB, 4000 * MIB),
    shm=st.integers(MIB, 2000 * MIB),
)
def test_every_proposed_change_fits_and_is_smaller(num_envs, steps, slots, mode, host, shm):
    budget = budget_of(num_envs=num_envs, steps_per_env=steps, num_slots=slots, mode=mode)
    available = MemoryAvailable(host, host, shm)
    try:
        budget.check(available, host_fraction=0.8)
    except MemoryBudgetError as refusal:
        for name, value in refusal.changes.items():
            assert 1 <= value < budget.settings[name]
            changed = {"num_envs": num_envs, "steps_per_env": steps, "num_slots": slots, "mode": mode, name: value}
            assert budget_of(**changed).shortages(available, 0.8) == []
    else:
        assert budget.host_bytes <= 0.8 * host and budget.shm_bytes <= shm


@pytest.mark.parametrize(
    ("setting", "fits", "proposed"),
    [("num_envs", 103, 100), ("replay_capacity", 20_000, None), ("replay_capacity", 300_000, 300_000)],
)
def test_a_change_that_other_settings_refuse_is_not_proposed(setting, fits, proposed) -> None:
    config = SACConfig(num_envs=256, workers=WorkersConfig("processes", 4))  # learning starts at 25,600 transitions
    budget = estimate(config, SIZES, cores=2, costs=FALLBACK)
    assert budget.estimate is not None
    room = budget.estimate(setting, fits).host_bytes
    with pytest.raises(MemoryBudgetError) as refusal:
        budget.check(MemoryAvailable(room, room, None))
    found = refusal.value.changes.get(setting)
    assert found == (proposed if proposed is None else pytest.approx(proposed, rel=0.01))
    assert setting != "num_envs" or found % 4 == 0


COSTS = ProcessCosts(ProcessCost(3, 2), ProcessCost(2, 2), ProcessCost(1, 1), 4, 1.5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_process_cost_is_measured_once(cache, monkeypatch):
    measured = []
    monkeypatch.setattr(processes, "_measure", lambda: measured.append(1) or COSTS)
    assert [measure_process_cost() for _ in range(3)] == [COSTS] * 3
    assert len(measured) == 1
    assert (cache / "unilab" / processes.cache_name()).is_file()


@pytest.mark.parametrize("content", ["", "{}", '{"learner": {"private": 1}}', json.dumps([1])])
def test_a_damaged_cache_is_measured_again(cache, monkeypatch, content):
    user_cache.write(processes.cache_name(), content)
    monkeypatch.setattr(processes, "_measure", lambda: COSTS)
    assert measure_process_cost() == COSTS


def test_a_measurement_that_fails_falls_back_and_says_so(cache, monkeypatch, caplog):
    def fail() -> ProcessCosts:
        raise subprocess.CalledProcessError(1, "python", stderr="ImportError: no torch")

    monkeypatch.setattr(processes, "_measure", fail)
    with caplog.at_level(logging.WARNING):
        assert measure_process_cost() == FALLBACK
    assert "no torch" in caplog.text
    assert user_cache.read(processes.cache_name()) is None


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["cuda:0", "cuda:1", "cuda:2"]),
        ("2,0", ["cuda:1", None, "cuda:0"]),
        ("", [None, None, None]),
        ("GPU-5ac1,1", [None, None, None]),
    ],
)
def test_devices_are_called_as_torch_calls_them(visible, names, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [torch_device(index) for index in "012"] == names

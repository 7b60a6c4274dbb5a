"""Budgets of SAC and TD3: sizes against what is really allocated, and the change that would fit."""

import dataclasses
import mmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unilab.algos.torch.offpolicy.config import CONFIGS, AlgorithmConfig, OffPolicyConfig, PolicyConfig
from unilab.algos.torch.offpolicy.mlp import ExplicitPass
from unilab.algos.torch.offpolicy.runner import build_learner, check_replay_capacity
from unilab.envs import EnvDims
from unilab.ipc import LatestValue, ReplayBuffer, SharedWeightSync, segments
from unilab.ipc.memory_budget import (
    BudgetItem,
    EnvSizes,
    MemoryAvailable,
    MemoryBudget,
    MemoryBudgetError,
    estimate_offpolicy,
)
from unilab.ipc.process_cost import FALLBACK
from unilab.ipc.replay_pipelines import build_pipeline
from unilab.training.settings import SettingsError, parse

MIB = 2**20
SIZES = EnvSizes(obs_dim=17, action_dim=6, critic_dim=5, model_bytes=MIB, thread_bytes=20_000, row_bytes=2_000)
PLENTY = MemoryAvailable(host_total=2**50, host_free=2**50, shm_free=2**50)
SMALL = {"replay_capacity": 5000, "learning_starts": 2, "num_envs": 4}
algorithms = pytest.mark.parametrize("algorithm", ["sac", "td3"])


def config_of(algorithm: str = "sac", **changes: object) -> OffPolicyConfig:
    return parse(CONFIGS[algorithm], SMALL | changes)


def budget_of(algorithm: str = "sac", **changes: object) -> MemoryBudget:
    return estimate_offpolicy(config_of(algorithm, **changes), SIZES, cores=2, costs=FALLBACK, free={})


def item(budget: MemoryBudget, name: str, place: str | None = None) -> BudgetItem:
    return next(item for item in budget.items if item.name == name and place in (None, item.place))


def allocated(passes: list[ExplicitPass]) -> int:
    """Bytes of all different tensors of these passes, kept by layer normalizations included."""
    found: dict[int, int] = {}
    for one in passes:
        kept = [tensor for normed in one._normed if normed is not None for tensor in normed]
        for tensor in [one.inputs, one.outputs, *one._hidden, *one._deltas, *kept]:
            if tensor.numel():
                found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


@algorithms
@pytest.mark.parametrize("n_step", [1, 3])
def test_shared_memory_is_exactly_what_a_run_creates(algorithm, n_step):
    config = config_of(algorithm, **{"algorithm.n_step": n_step, "policy.hidden_dims": [32, 16]})
    learner = build_learner(config, algorithm, EnvDims(17, 6, 5))
    replay = ReplayBuffer(5000, 17, 6, "cpu", critic_dim=5, multi_step=n_step > 1)
    sync, mailbox = SharedWeightSync.from_state_dict(learner.get_weights()["actor"]), LatestValue()
    try:
        created = sum((segments.ROOT / shared.name).stat().st_blocks * 512 for shared in (replay, sync, mailbox))
        created += mmap.PAGESIZE  # the collector's counter of steps
        budget = estimate_offpolicy(config, SIZES, cores=2, costs=FALLBACK)
        assert budget.shm_bytes == created
        width = 17 + 6 + 3 + 17 + 5 + 5 + (n_step > 1)
        assert 0 <= item(budget, "replay buffer").bytes - 5000 * width * 4 < 3 * mmap.PAGESIZE
    finally:
        for shared in (replay, sync, mailbox):
            shared.cleanup()
        learner.close()


@algorithms
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_networks_and_workspace_are_those_of_the_learner(algorithm, layer_norm, dtype):
    config = config_of(
        algorithm,
        batch_size=512,
        learner_threads=2,
        learner_dtype=dtype,
        policy={"hidden_dims": [64, 32], "critic_hidden_dims": [48], "layer_norm": layer_norm},
        algorithm={"num_atoms": 3, "policy_frequency": 1},
    )
    learner = build_learner(config, algorithm, EnvDims(17, 6, 5))
    try:
        with ReplayBuffer_of(config) as replay:
            learner.update(replay.sample(512))
        budget = estimate_offpolicy(config, SIZES, cores=2, costs=FALLBACK)
        flats = [value for value in vars(learner).values() if type(value).__name__ == "FlatParameters"]
        computed = {flat._computed.data_ptr(): flat._computed.nbytes for flat in flats}
        computed |= {flat.values.data_ptr(): flat.values.nbytes for flat in flats}
        assert item(budget, "models").bytes == sum(computed.values())
        trained = learner.actor_parameters.values.nbytes + learner.critic_parameters.values.nbytes
        of_threads = learner.actor_parameters._gradients.nbytes + learner.critic_parameters._gradients.nbytes
        assert item(budget, "gradients").bytes == of_threads + 2 * trained
        assert item(budget, "optimizer state").bytes == 2 * trained
        passes = [part for share in learner.shares for part in vars(share).values() if isinstance(part, ExplicitPass)]
        # A layer normalization that is under way needs a little more than what it keeps.
        more = 0.25 if layer_norm else 0.0
        real = allocated(passes)
        assert real <= item(budget, "workspace").bytes <= (1 + more) * real
    finally:
        learner.close()

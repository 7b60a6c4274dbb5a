"""What is the same in all kinds of workers, and needs no other process to be seen."""

import functools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.algos.appo.counting_env import CountingEnv
from tests.distributed.test_contract import build
from tests.distributed.workload import SEEDS, STEPS, NoisyPolicy, RecordingBuffer, carts, stamps
from unilab.distributed import BaseDistributedWorkersWithBuffer, RolloutBuffer, SequentialWorkers, WorkerError
from unilab.ipc import ReplayBuffer
from unilab.machine.devices import DeviceError


def test_what_the_contract_leaves_open_is_abstract() -> None:
    assert BaseDistributedWorkersWithBuffer.__abstractmethods__ == {"broadcast_updated_policy", "collect_rollouts"}


def test_prefilling_with_what_fails_ends() -> None:
    replay = ReplayBuffer(100, 1, 1, "cpu", critic_dim=2)
    with (
        build(SequentialWorkers, replay, env={"sour_above": -1e9}) as workers,
        pytest.raises(RuntimeError, match=r"still holds 0 of 10 entries after 100 .* 2400 of 2400 env steps failed"),
    ):
        workers.prefill(10)
    replay.cleanup()


def test_prefilling_what_is_there_does_nothing() -> None:
    with build(SequentialWorkers, RecordingBuffer(5)) as workers:
        workers.prefill(5)
        assert workers.rollouts == 3, "of two sequences each"
        workers.prefill(5)
        assert workers.rollouts == 3


def test_a_copy_of_the_policy_acts() -> None:
    policy, buffers = NoisyPolicy(), (RecordingBuffer(), RecordingBuffer())
    for buffer in buffers:
        workers = SequentialWorkers(carts(), policy, STEPS, 1, 4, 1, False, SEEDS[:1], buffer)
        with workers, torch.no_grad():
            policy.layer.weight.add_(buffer is buffers[1])
            weights = NoisyPolicy(3).state_dict()
            workers.collect_rollouts()
            workers.broadcast_updated_policy(weights)
            weights["layer.weight"].fill_(float("nan"))
            workers.collect_rollouts()
    first, second = (buffer.rollouts for buffer in buffers)
    assert [one.steps["actions"].tobytes() for one in first] == [one.steps["actions"].tobytes() for one in second]


def test_what_cannot_be_made_is_a_failed_worker() -> None:
    with build(SequentialWorkers, RecordingBuffer(), env={"unknown": 1}) as workers:
        with pytest.raises(WorkerError, match="unknown") as caught:
            workers.collect_rollouts()
        assert caught.value.__cause__ is not None
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.worker, copy.traceback_text) == (str(caught.value), 0, caught.value.traceback_text)


def test_it_works_in_step_only() -> None:
    with pytest.raises(ValueError, match="SequentialWorkers works in step only"):
        build(SequentialWorkers, RecordingBuffer(), in_step=False)


def test_a_device_that_is_not_there() -> None:
    with build(SequentialWorkers, RecordingBuffer()) as workers:
        workers.collect_rollouts()
        with pytest.raises(DeviceError, match="learner_device: there is no device 'cuda:99'"):
            workers.sample_batch("cuda:99")


@pytest.mark.parametrize(
    ("state_dict", "problem"),
    [
        ({}, r"the policy's state_dict\(\) is empty"),
        ({"weight": torch.zeros(1, device="meta")}, "worker_policy has weight on meta, and workers act on the CPU"),
    ],
)
def test_a_policy_whose_weights_cannot_be_broadcast(state_dict: dict[str, torch.Tensor], problem: str) -> None:
    class Policy(NoisyPolicy):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return state_dict

    with pytest.raises(ValueError, match=problem):
        SequentialWorkers(carts(), Policy(), STEPS, 1, 4, 1, False, SEEDS[:1], RolloutBuffer(4))


def test_more_than_one_iteration_is_never_ordered() -> None:
    buffer = RecordingBuffer()
    with build(SequentialWorkers, buffer, 2, 3) as workers:
        for version in (1, 2, 3):
            workers.broadcast_updated_policy(NoisyPolicy(version).state_dict())
            workers.request_rollouts()
        workers.collect_rollouts()
        workers.collect_rollouts()
    assert stamps(buffer.rollouts) == [
        (0, 0, 0, 1),
        (1, 0, 0, 1),
        (0, 0, 1, 1),
        (1, 0, 1, 3),
        (0, 0, 2, 3),
        (1, 0, 2, 3),
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
def test_a_workers_rollouts_join_up(count: int, per_iteration: int, steps: int, rows: int, iterations: int) -> None:
    buffer = RecordingBuffer()
    factory = functools.partial(CountingEnv, rows, limit=4)
    seeds = list(range(count))
    with SequentialWorkers(factory, NoisyPolicy(), steps, count, 1, per_iteration, False, seeds, buffer) as workers:
        for _ in range(iterations):
            assert workers.collect_rollouts()[:2] == (0, 0)
    rollouts = per_iteration * iterations
    assert [one.worker for one in buffer.rollouts] == [number % count for number in range(rollouts)]
    assert (workers.rollouts, workers.env_steps, len(buffer)) == (rollouts, rollouts * steps * rows, rollouts * rows)
    for worker in range(min(count, rollouts)):
        made = [one for one in buffer.rollouts if one.worker == worker]
        assert [one.sequence for one in made] == list(range(len(made)))
        obs, next_obs, dones = (
            np.concatenate([one.steps[name] for one in made]) for name in ("obs", "next_obs", "dones")
        )
        assert np.array_equal(obs[1:, :, 0], np.where(dones[:-1], 0, next_obs[:-1, :, 0]))
        # episodes of even rows have 4 steps, those of odd ones 3
        assert sum(len(one.episodes) for one in made) == sum(len(obs) // (4 - row % 2) for row in range(rows))

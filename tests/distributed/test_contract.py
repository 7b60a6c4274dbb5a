"""What every implementation of distributed workers promises."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.distributed.conftest import MakeWorkers
from tests.distributed.workload import (
    SEEDS,
    STEPS,
    NoisyPolicy,
    RecordingBuffer,
    assert_same,
    carts,
    stamps,
)
from unilab.distributed import (
    BaseDistributedWorkersWithBuffer,
    NotEnoughEntriesError,
    Rollout,
    RolloutBuffer,
    SequentialWorkers,
    StatsLevel,
    WorkerError,
)
from unilab.distributed.supervision import SupervisedWorkers
from unilab.ipc import ReplayBuffer, SharedFlag
from unilab.ipc.shared_memory.wakeup import Deadline

SECONDS = 60.0


def build(
    make: MakeWorkers, buffer: Any, workers: int = 1, per_iteration: int = 1, batch: int = 4, **options: Any
) -> BaseDistributedWorkersWithBuffer:
    """Workers with carts; ``env`` in the options has settings of the cart."""
    split = not isinstance(buffer, RolloutBuffer)
    factory = carts(**options.pop("env", {}))
    seeds = options.pop("seeds", SEEDS[:workers])
    return make(factory, NoisyPolicy(), STEPS, workers, batch, per_iteration, split, seeds, buffer, **options)


def train(workers: BaseDistributedWorkersWithBuffer, iterations: int = 4) -> list[dict[str, dict[str, float]]]:
    """Iterations with a broadcast before some, and inside one; their statistics."""
    statistics = []
    with workers:
        for iteration in range(iterations):
            if iteration:
                workers.request_rollouts()
            if iteration != 1:
                workers.broadcast_updated_policy(NoisyPolicy(iteration + 1).state_dict())
            workers.collect_rollouts()
            statistics.append(workers.get_epoch_stats_aggregator().reduce())
    return statistics


def test_the_same_data_as_the_oracle_bit_for_bit(make_workers: MakeWorkers) -> None:
    count, per_iteration = 3, 4
    buffers = RecordingBuffer(), RecordingBuffer()
    workers = build(make_workers, buffers[0], count, per_iteration)
    statistics = train(workers)
    oracle = build(SequentialWorkers, buffers[1], count, per_iteration)
    assert statistics == train(oracle)
    assert_same(buffers[0].rollouts, buffers[1].rollouts)
    # Broadcast before the first order, then after the third and the fourth: each acts in the order that follows.
    versions = [version for _, _, _, version in stamps(buffers[0].rollouts)]
    assert versions == [version for version in (1, 1, 1, 2) for _ in range(per_iteration)]
    assert [one.worker for one in buffers[0].rollouts] == [number % count for number in range(4 * per_iteration)]
    assert (workers.policy_version, workers.acted_version) == (3, 2)
    assert workers.rollouts == 4 * per_iteration
    assert workers.env_steps == 4 * per_iteration * STEPS * 2
    assert workers.fault_count == sum(one.faults for one in buffers[0].rollouts) > 0
    values = workers.sample_batch("cpu"), oracle.sample_batch("cpu")
    for name, value in values[0].items():
        assert value.shape[:2] == (STEPS, 4)
        assert torch.equal(value, values[1][name])


def test_running_freely_nothing_is_lost_and_new_weights_arrive(make_free_workers: MakeWorkers) -> None:
    buffer = RecordingBuffer()
    with build(make_free_workers, buffer, 2, 5) as workers:
        for version in (1, 2):
            workers.broadcast_updated_policy(NoisyPolicy(version).state_dict())
            while workers.acted_version != version:
                before, after, seconds = workers.collect_rollouts()
                assert 0 <= min(before, after) <= max(before, after) <= 2 * workers.queue_size + 2
                assert seconds >= 0
    assert len(buffer.rollouts) == workers.rollouts == workers.env_steps / (2 * STEPS)
    assert len(buffer.rollouts) % 5 == 0
    for worker in range(2):
        made = [stamp for stamp in stamps(buffer.rollouts) if stamp[0] == worker]
        assert [sequence for _, _, sequence, _ in made] == list(range(len(made)))
        versions = [version for *_, version in made]
        assert versions == sorted(versions)


def until_waiting(workers: BaseDistributedWorkersWithBuffer, rollouts: int) -> None:
    """Wait until so many rollouts have been finished that are not stored."""
    assert isinstance(workers, SupervisedWorkers)
    limit = Deadline(SECONDS)
    while True:
        workers._supervise()
        if workers._waiting() >= rollouts:
            return
        assert limit.left()
        time.sleep(0.01)


def test_running_freely_workers_wait_when_their_queue_is_full(make_free_workers: MakeWorkers) -> None:
    buffer = RecordingBuffer()
    with build(make_free_workers, buffer, 2, 4, queue_size=3) as workers:
        workers.broadcast_updated_policy(NoisyPolicy(1).state_dict())
        workers.request_rollouts()
        until_waiting(workers, 6)
        before, after, seconds = workers.collect_rollouts()
        assert before == 6
        assert 2 <= after <= 6
        assert 0 < seconds < SECONDS
        until_waiting(workers, 6)
        workers.broadcast_updated_policy(NoisyPolicy(2).state_dict())
        assert workers.collect_rollouts()[0] == 6
        while workers.acted_version < 2:
            workers.collect_rollouts()
    versions = [version for *_, version in stamps(buffer.rollouts)]
    assert versions.count(1) == 10, "4 that were taken and 6 that waited when the second weights came"
    assert versions[:4] == [1] * 4
    for worker in range(2):
        made = [(one.sequence, one.policy_version) for one in buffer.rollouts if one.worker == worker]
        assert made == sorted(made)
        assert [sequence for sequence, _ in made] == list(range(len(made)))


def test_in_step_no_more_rollouts_wait_than_the_queue_holds(make_workers: MakeWorkers) -> None:
    buffer = RecordingBuffer()
    with build(make_workers, buffer, 1, 6, queue_size=2) as workers:
        workers.request_rollouts()
        assert isinstance(workers, SupervisedWorkers)
        if not isinstance(workers, SequentialWorkers):  # of whose rollouts none ever waits
            until_waiting(workers, 2)
            time.sleep(0.2)
            workers._supervise()
            assert workers._waiting() == 2
        assert workers.collect_rollouts()[1] == 0
    assert [one.sequence for one in buffer.rollouts] == list(range(6))


def test_transitions(make_workers: MakeWorkers) -> None:
    replays = [ReplayBuffer(400, 1, 1, "cpu", critic_dim=2, seed=2) for _ in range(2)]
    for replay, make in zip(replays, (make_workers, SequentialWorkers), strict=True):
        with build(make, replay) as workers:
            with pytest.raises(NotEnoughEntriesError, match=r"holds 0 entries, a batch has 4: call prefill\(4\)"):
                workers.sample_batch("cpu")
            with pytest.raises(ValueError, match="401 entries were asked for, and the replay buffer holds at most 400"):
                workers.prefill(401)
            workers.prefill(60)
            assert 60 <= len(replay) == workers.env_steps - workers.fault_count
            batch = workers.sample_batch("cpu")
            assert {name: tuple(value.shape) for name, value in batch.items()} == {
                "obs": (4, 1), "actions": (4, 1), "rewards": (4,), "next_obs": (4, 1), "dones": (4,),
                "truncated": (4,), "critic": (4, 2), "next_critic": (4, 2),
            }  # fmt: skip
    assert torch.equal(replays[0].rows(0, 400), replays[1].rows(0, 400))
    for replay in replays:
        replay.cleanup()


def test_a_worker_that_raises_is_restarted_with_new_episodes_up_to_the_limit(
    make_workers: MakeWorkers, caplog: pytest.LogCaptureFixture
) -> None:
    buffers = RecordingBuffer(), RecordingBuffer()
    env = {"fail_seed": SEEDS[1], "fail_at": STEPS + 7}
    for buffer, make in zip(buffers, (make_workers, SequentialWorkers), strict=True):
        workers = build(make, buffer, 2, 4, env=env, max_restarts=1)
        train(workers, 2)
        assert workers.restarts == 1
    assert_same(*(buffer.rollouts for buffer in buffers))
    assert [stamp[:3] for stamp in stamps(buffers[0].rollouts)] == [
        (0, 0, 0), (1, 0, 0), (0, 0, 1), (1, 1, 0), (0, 0, 2), (1, 1, 1), (0, 0, 3), (1, 1, 2)
    ]  # fmt: skip
    assert "worker 1 is restarted (1 of 1)" in caplog.text
    assert "UnpicklableError: 1 and 2" in caplog.text


def test_without_a_restart_left_the_traceback_is_raised(make_workers: MakeWorkers) -> None:
    buffer = RecordingBuffer()
    with build(make_workers, buffer, env={"fail_seed": SEEDS[0], "fail_at": STEPS + 7}) as workers:
        workers.collect_rollouts()
        for call in (workers.collect_rollouts, workers.request_rollouts, lambda: workers.sample_batch("cpu")):
            with pytest.raises(WorkerError, match="worker 0 failed after 0 restarts") as caught:
                call()
            assert "raise UnpicklableError(1, 2)" in str(caught.value)
            assert caught.value.traceback_text is not None
            assert "UnpicklableError: 1 and 2" in caught.value.traceback_text
    assert stamps(buffer.rollouts) == [(0, 0, 0, 0)], "the one that was whole"


def test_stop_ends_it(make_workers: MakeWorkers) -> None:
    workers = build(make_workers, RecordingBuffer(), batch=2)
    interrupt = SharedFlag()
    interrupt.set()
    workers.collect_rollouts(unless=interrupt)
    assert workers.rollouts == 0, "and what was ordered is still to come"
    workers.collect_rollouts()
    workers.request_rollouts()
    workers.stop()
    workers.stop()
    assert workers.sample_batch("cpu")["obs"].shape == (STEPS, 2, 1), "what was stored stays"
    weights = NoisyPolicy().state_dict()
    for call in (workers.collect_rollouts, workers.request_rollouts, lambda: workers.broadcast_updated_policy(weights)):
        with pytest.raises(RuntimeError, match="was stopped; make a new one"):
            call()


def test_weights_that_are_not_the_policys(make_workers: MakeWorkers) -> None:
    with build(make_workers, RecordingBuffer()) as workers:
        for wrong in ({"layer.weight": torch.zeros(1, 2)}, {"more": torch.zeros(1)}, {"calls": torch.zeros(())}):
            with pytest.raises(ValueError, match=f"the weights are not those of worker_policy: {next(iter(wrong))}"):
                workers.broadcast_updated_policy(NoisyPolicy().state_dict() | wrong)
        assert workers.policy_version == 0


def test_impossible_arguments(make_workers: MakeWorkers) -> None:
    replay = RecordingBuffer()
    with pytest.raises(ValueError, match="2 env_instance_seeds for 1 workers"):
        build(make_workers, replay, seeds=(1, 2))
    with pytest.raises(ValueError, match="env_instance_seeds has -1"):
        build(make_workers, replay, seeds=(-1,))
    with pytest.raises(ValueError, match="rollouts_per_iteration is 0; it must be positive"):
        build(make_workers, replay, per_iteration=0)
    with pytest.raises(ValueError, match="batch_size is 1001, and the replay buffer holds at most 1000"):
        build(make_workers, replay, batch=1001)
    with pytest.raises(ValueError, match="max_restarts is -1"):
        build(make_workers, replay, max_restarts=-1)
    policy = NoisyPolicy()
    with pytest.raises(
        TypeError, match="replay_buffer is a RecordingBuffer; with split_rollouts_into_transitions=True"
    ):
        make_workers(carts(), policy, STEPS, 1, 4, 1, True, SEEDS[:1], replay)
    with pytest.raises(TypeError, match=r"it must be a buffer unilab\.distributed\.RolloutBuffer"):
        make_workers(carts(), policy, STEPS, 1, 4, 1, False, SEEDS[:1], object())


def test_statistics(make_workers: MakeWorkers) -> None:
    buffer = RecordingBuffer()
    with build(make_workers, buffer, per_iteration=6) as workers:
        with pytest.raises(RuntimeError, match="no episode has ended yet"):
            workers.get_stats_value("episode_return", StatsLevel.EPISODE)
        workers.collect_rollouts()
        with pytest.raises(RuntimeError, match="no epoch has ended yet"):
            workers.get_stats_value("episode_return", StatsLevel.EPOCH)
        reduced = workers.get_epoch_stats_aggregator().reduce()
    returns, lengths = np.concatenate([one.episodes for one in buffer.rollouts]).T
    assert len(returns) > 3
    assert reduced.keys() == {"episode_return", "episode_length"}
    for event, values in (("episode_return", returns), ("episode_length", lengths)):
        expected = [len(values), values.mean(), values.min(), values.max(), values.std()]
        assert list(reduced[event].values()) == pytest.approx(expected)
        assert workers.get_stats_value(event, "epoch", "std") == reduced[event]["std"]
        assert workers.get_stats_value(event, "epoch") == reduced[event]["mean"]
        assert workers.get_stats_value(event, StatsLevel.EPISODE) == values[-1]
    with pytest.raises(ValueError, match="there is no event 'speed'; choose one of episode_return"):
        workers.get_stats_value("speed", StatsLevel.EPOCH)
    with pytest.raises(ValueError, match="there is no statistic 'median'; choose one of count"):
        workers.get_stats_value("episode_return", StatsLevel.EPOCH, "median")


class NumberedPolicy(NoisyPolicy):
    """Acts with the number of its worker."""

    def __init__(self) -> None:
        super().__init__()
        self._number = -1

    def become_worker(self, worker: int) -> None:
        self._number = worker

    def compute_actions(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        return torch.full((len(obs), 1), float(self._number))


def test_a_policy_knows_its_worker_and_what_is_stored_is_told(make_workers: MakeWorkers) -> None:
    told: list[tuple[int, int, int]] = []

    def tell(rollout: Rollout) -> None:
        assert (rollout.steps["actions"] == rollout.worker).all()
        assert 0 < rollout.seconds < 60
        told.append((rollout.worker, rollout.sequence, rollout.env_steps))

    made = make_workers(carts(), NumberedPolicy(), STEPS, 2, 4, 2, False, SEEDS[:2], RecordingBuffer(), on_stored=tell)
    with made as workers:
        workers.collect_rollouts()
        workers.collect_rollouts()
        assert workers.rollouts == 4
    assert told == [(0, 0, 24), (1, 0, 24), (0, 1, 24), (1, 1, 24)]

"""Workers in processes: running freely, back pressure, and every way to die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.distributed.test_contract import build, until_waiting
from tests.distributed.workload import SEEDS, STEPS, NoisyPolicy, RecordingBuffer, carts, dies_in_the_ring, stamps
from tests.ipc.conftest import SPAWN_SECONDS
from unilab.distributed import ProcessWorkers, WorkerError
from unilab.ipc import SharedMemoryFullError
from unilab.ipc.shared_memory import segments

HANG_SECONDS = 1.0


def free(buffer: RecordingBuffer, count: int, **options: Any) -> ProcessWorkers:
    workers = build(ProcessWorkers, buffer, count, in_step=False, **options)
    assert isinstance(workers, ProcessWorkers)
    return workers


@pytest.mark.parametrize(
    ("env", "how"),
    [
        ({"failure": "kill", "fail_seed": SEEDS[0], "fail_at": STEPS + 7}, "was killed by SIGKILL"),
        (
            {"failure": "stop", "fail_seed": SEEDS[0], "fail_at": STEPS + 7},
            f"no env step in {HANG_SECONDS:g} s, and was",
        ),
        (None, "was killed by SIGKILL"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_restarted_with_nothing_doubled_or_half_stored(
    env: dict[str, object] | None, how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = RecordingBuffer()
    factory = carts(**env) if env else dies_in_the_ring(tmp_path / "died")
    options = {"max_restarts": 1, "hang_seconds": HANG_SECONDS}
    with ProcessWorkers(factory, NoisyPolicy(), STEPS, 2, 4, 8, False, SEEDS[:2], buffer, **options) as workers:
        workers.collect_rollouts()
        assert workers.restarts == 1
    assert how in caplog.text
    assert workers.env_steps == 8 * STEPS * 2
    made = [stamp[:3] for stamp in stamps(buffer.rollouts)]
    dead = 0 if env else next(worker for worker, incarnation, _ in made if incarnation)
    # killed in its second rollout, or in the instant in which that one was announced: then it is whole
    finished = 1 if env else 2
    expected = [(dead, 0, number) for number in range(finished)] + [(dead, 1, number) for number in range(4 - finished)]
    assert [stamp for stamp in made if stamp[0] == dead] == expected
    assert [stamp for stamp in made if stamp[0] != dead] == [(1 - dead, 0, number) for number in range(4)]


def test_running_freely_a_worker_that_hangs_is_restarted_and_one_that_waits_is_not() -> None:
    buffer = RecordingBuffer()
    env = {"failure": "stop", "fail_seed": SEEDS[0], "fail_at": 2 * STEPS + 3}
    with free(buffer, 1, env=env, max_restarts=1, per_iteration=4, hang_seconds=HANG_SECONDS) as workers:
        workers.collect_rollouts()
        assert workers.restarts == 1
        until_waiting(workers, 2)  # its queue is full
        for _ in range(2 * int(HANG_SECONDS / 0.25)):
            time.sleep(0.25)
            workers.sample_batch("cpu")
        assert workers.restarts == 1
    assert [stamp[:3] for stamp in stamps(buffer.rollouts)] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]


def test_a_worker_killed_while_nobody_waits_is_noticed_by_the_next_call() -> None:
    with build(ProcessWorkers, RecordingBuffer(), batch=2, max_restarts=1) as workers:
        assert isinstance(workers, ProcessWorkers)
        for restarts in (1, 2):
            workers.collect_rollouts()
            group = workers._members[0].group
            assert group is not None
            os.kill(group._collectors[0].process.pid or 0, signal.SIGKILL)
            assert group.interrupt.wait(SPAWN_SECONDS)
            if restarts == 1:
                workers.sample_batch("cpu")
                assert workers.restarts == 1
        with pytest.raises(WorkerError, match=r"worker 0 failed after 1 restarts.*was killed by SIGKILL"):
            workers.sample_batch("cpu")


def test_workers_share_no_memory_of_the_policy() -> None:
    policy = NoisyPolicy()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with ProcessWorkers(*_arguments(policy)) as workers:
        workers.broadcast_updated_policy(NoisyPolicy(1).state_dict())
        workers.collect_rollouts()
        kept = workers._policy.state_dict()
        assert all(torch.equal(value, kept[name]) and not kept[name].is_shared() for name, value in before.items())


def test_what_cannot_be_pickled_is_refused() -> None:
    arguments = _arguments(NoisyPolicy())
    with pytest.raises(TypeError, match="env_factory and worker_policy go to other processes"):
        ProcessWorkers(lambda: arguments[0](), *arguments[1:])


@pytest.mark.parametrize("free", [0, 100_000])
def test_shared_memory_that_is_too_small_is_refused_and_none_is_left(
    free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_free_bytes", lambda: free)
    with pytest.raises(SharedMemoryFullError, match="weights:" if free == 0 else "rollout-ring:"):
        ProcessWorkers(carts(), NoisyPolicy(), 10_000, 1, 2, 1, False, SEEDS[:1], RecordingBuffer())


def test_killing_the_learner_ends_the_workers() -> None:
    script = "from tests.distributed.test_processes import learn_for_ever; learn_for_ever()"
    learner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert learner.stdout is not None
    with learner:
        assert learner.stdout.readline() == "collected\n"
        children = psutil.Process(learner.pid).children(recursive=True)
        prefix = segments._owner_prefix(learner.pid, segments.start_time(learner.pid) or 0)
        assert children
        assert list(segments.ROOT.glob(f"{prefix}*"))
        learner.kill()
        _, alive = psutil.wait_procs(children, timeout=SPAWN_SECONDS)
        assert alive == []
    assert list(segments.ROOT.glob(f"{prefix}*")) == []


def learn_for_ever() -> None:
    with free(RecordingBuffer(), 1) as workers:
        workers.collect_rollouts()
        print("collected", flush=True)
        while True:
            workers.collect_rollouts()


def _arguments(policy: NoisyPolicy) -> tuple[Any, ...]:
    return carts(), policy, STEPS, 1, 2, 1, False, SEEDS[:1], RecordingBuffer()

"""Workers on a real Ray cluster: every way to die, calls whose answers are lost, and the connection."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.distributed import ray_workload
from tests.distributed.test_contract import build
from tests.distributed.workload import NoisyPolicy, RecordingBuffer, stamps
from tests.ray_cluster import ROOT, RayCluster
from unilab.distributed import RayWorkers, WorkerError, supervision
from unilab.distributed.ray import connection
from unilab.distributed.ray.connection import choose_address, connect

SECONDS = 60.0


def test_a_worker_that_dies_or_stands_still_is_replaced_with_nothing_doubled_or_missing(
    cluster: RayCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    buffer = RecordingBuffer()
    with ray_workload.workers(buffer, tmp_path, max_restarts=2, hang_seconds=1.0) as workers:
        workers.collect_rollouts()
        first = [ray_workload.home(tmp_path, worker) for worker in range(2)]
        assert first[0]["node"] != first[1]["node"], "they are spread"
        ray.kill(workers._members[1].actor)
        assert_ended([first[1]["pid"]])  # it may outlive the call for a moment, and deliver
        workers.broadcast_updated_policy(NoisyPolicy(5).state_dict())
        workers.collect_rollouts()
        assert workers.restarts == 1
        second = [ray_workload.home(tmp_path, worker) for worker in range(2)]
        assert (second[0] == first[0], second[1]["pid"] == first[1]["pid"]) == (True, False)
        os.kill(first[0]["pid"], signal.SIGSTOP)
        workers.collect_rollouts()
        assert workers.restarts == 2
        assert "It made no env step in 1 s" in caplog.text
        third = [ray_workload.home(tmp_path, worker) for worker in range(2)]
        os.kill(third[0]["pid"], signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"(?s)worker 0 failed after 2 restarts.*worker process has died"):
            workers.collect_rollouts()
    assert stamps(buffer.rollouts) == [
        (0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0), (1, 0, 1, 0),
        (0, 0, 2, 1), (1, 1, 0, 1), (0, 0, 3, 1), (1, 1, 1, 1),
        (0, 1, 0, 1), (1, 1, 2, 1), (0, 1, 1, 1), (1, 1, 3, 1),
    ]  # fmt: skip
    assert "worker 1 is restarted (1 of 2)" in caplog.text
    assert_ended([one["pid"] for one in (*first, *second, *third)])


def test_a_worker_whose_node_is_lost_goes_on_elsewhere(cluster: RayCluster, tmp_path: Path) -> None:
    buffer = RecordingBuffer()
    with ray_workload.workers(buffer, tmp_path, max_restarts=1) as workers:
        workers.collect_rollouts()
        before = [ray_workload.home(tmp_path, worker) for worker in range(2)]
        cluster.remove_node(cluster.node(before[1]["node"]))
        assert_ended([before[1]["pid"]])  # it may outlive its node for a moment, and deliver
        workers.collect_rollouts()
        assert workers.restarts == 1
        assert ray_workload.home(tmp_path, 1)["node"] == before[0]["node"]
    made = [[one for one in buffer.rollouts if one.worker == worker] for worker in range(2)]
    assert [stamp[1:3] for stamp in stamps(made[0])] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert [one.sequence for one in made[1]] == [0, 1, 0, 1]
    assert [one.incarnation > 0 for one in made[1]] == [False, False, True, True]
    cluster.add_node()
    cluster.wait()


def test_what_a_dead_worker_has_answered_is_stored(cluster: RayCluster) -> None:
    import ray

    buffer = RecordingBuffer()
    with build(RayWorkers, buffer, per_iteration=2, in_step=False, max_restarts=1) as workers:
        assert isinstance(workers, RayWorkers)
        workers.request_rollouts()
        (member,) = workers._members
        ray.wait(member.calls, num_returns=2)
        ray.kill(member.actor)
        member.report = a_call_to_the_dead(member.actor)
        workers.collect_rollouts()
        assert workers.restarts == 1
    assert stamps(buffer.rollouts) == [(0, 0, 0, 0), (0, 0, 1, 0)]


def test_a_worker_that_the_memory_monitor_of_its_machine_has_killed_is_replaced(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    get, deaths = ray.get, [ray.exceptions.OutOfMemoryError("95 % of the memory are taken")]

    def answer(call: Any) -> Any:
        if deaths:
            raise deaths.pop()
        return get(call)

    with build(RayWorkers, RecordingBuffer(), per_iteration=2, in_step=False, max_restarts=1) as workers:
        workers.collect_rollouts()
        monkeypatch.setattr(ray, "get", answer)
        workers.collect_rollouts()
        assert workers.restarts == 1
    assert "95 % of the memory are taken" in caplog.text


def a_call_to_the_dead(actor: Any) -> Any:
    """A call that failed because the actor is dead: for a moment after the kill, an actor may still answer."""
    import ray

    given_up = time.monotonic() + SECONDS
    while time.monotonic() < given_up:
        call = actor.take_policy.remote(0, None)
        try:
            ray.get(call)
        except ray.exceptions.ActorDiedError:
            return call
        except ray.exceptions.ActorUnavailableError:
            pass  # Ray does not know yet whether it comes back
    raise AssertionError("Ray never said that the actor is dead")


def assert_ended(pids: Sequence[int]) -> None:
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert psutil.wait_procs(processes, timeout=SECONDS)[1] == [], "an actor is left"


def test_a_connection_that_was_there_before_is_kept(cluster: RayCluster) -> None:
    import ray

    build(RayWorkers, RecordingBuffer(), ray_address=cluster.address).stop()
    assert ray.is_initialized()
    with pytest.raises(ValueError, match=r"this process is connected to Ray at 127\.0\.0\.2:"):
        build(RayWorkers, RecordingBuffer(), ray_address="127.0.0.2:1")


def test_no_room_in_the_cluster_is_an_error_that_says_what_there_is(
    cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "START_SECONDS", 0.1)
    resources = {"tpu_of_ours": 1.0}
    workers = build(RayWorkers, RecordingBuffer(), worker_resources=resources, hang_seconds=0.1)
    with workers, pytest.raises(WorkerError, match=r"'tpu_of_ours': 1.0}; the cluster has {'CPU': 4.0, .* are free"):
        workers.collect_rollouts()


def test_lost_calls_the_learners_own_connection_and_its_death(cluster: RayCluster, tmp_path: Path) -> None:
    """A learner with its own connection, some of whose calls fail before, while or after they are carried out."""
    chaos = {"num_failures": 3, "req_failure_prob": 25, "resp_failure_prob": 25, "in_flight_failure_prob": 25}
    failures = json.dumps({"CoreWorkerService.grpc_client.PushTask": chaos})
    learner = subprocess.Popen(
        [sys.executable, "-m", ray_workload.__name__, cluster.address, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"RAY_testing_rpc_failure": failures},
    )
    assert learner.stdout is not None
    with learner:
        restarts, made = json.loads(learner.stdout.readline())
        assert restarts == 0
        expected = [[number % 2, 0, number // 2, 1 + number // 4] for number in range(12)]
        assert made == expected
        connected, signals_untouched = json.loads(learner.stdout.readline())
        assert not connected, "stop() ended the connection that it had made"
        assert signals_untouched
        assert learner.stdout.readline() == "learning\n"
        actor = ray_workload.home(tmp_path, 0)["pid"]
        assert psutil.pid_exists(actor)
        learner.kill()
        assert_ended([actor])


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """A server that is not Ray, and answers this; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as client:
                client.recv(100)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_an_address_without_ray_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=f"no Ray cluster at {address}: .*refused.*`ray start --head` starts one"):
        connect(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConnectionError, match=f"no Ray cluster at {address}"):
        connect()
    monkeypatch.setattr(connection, "_CONNECT_SECONDS", 0.5)
    silent = b"\0\0\0\4\0\0\0\0\0"  # begins as Ray does, and does not show whether it asks for a token
    for answer, reason in ((b"HTTP/1.1 400 Bad Request\r\n\r\n", "http1.x server"), (silent, "")):
        with server(answer) as other, pytest.raises(ConnectionError, match=f"no Ray cluster at {other}: .*{reason}"):
            connect(other)
    for wrong in ("ray://127.0.0.1:10001", "127.0.0.1"):
        with pytest.raises(ValueError, match=f"ray_address is '{wrong}'; give host:port of the head"):
            connect(wrong)


def test_a_cluster_of_this_machine_that_is_gone_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert [choose_address(None), choose_address("auto")] == [None, "auto"], "Ray looks for one"
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{gone.getsockname()[1]}")
    assert choose_address(None) == "local"
    with pytest.raises(ConnectionError, match="no Ray cluster at 127"):
        choose_address("auto")


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[ray\]' in this project"):
        build(RayWorkers, RecordingBuffer())
    script = "import sys, unilab.distributed; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

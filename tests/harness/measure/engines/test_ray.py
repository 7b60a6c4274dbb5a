"""A study on the nodes of a real Ray cluster, on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.cli import main
from harness.measure.record import Record, read_records
from harness.measure.stop import Stopped, StopSignal
from harness.predict.plan import Plan
from harness.study.folder import Study
from harness.study.search import Sweep
from tests.harness.study.test_search import Quiet
from tests.ray_cluster import RayCluster, ray_cluster
from unilab.distributed.ray.connection import lets_anybody_in
from unilab.machine.devices import usable_cores

ENDS_WITHIN = 60.0
LASTING = ("fixed.real_clock=true", "measure={warmup_seconds: 0.2, seconds: 1.2, disturbed_retries: 0}")
"""half of it in the search, which looks at the best trials again; long enough that two nodes measure at a time"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayCluster]:
    """Two nodes that may measure, one that may not, and a head without CPUs."""
    with ray_cluster(2, usable_cores()) as cluster:
        cluster.add_node(usable_cores() + 1)
        cluster.wait()
        yield cluster


class Seen(Quiet):
    """When each repeat was seen running; ``react`` is called with each record that has progress."""

    def __init__(self, react: Callable[[Record], None] = lambda record: None) -> None:
        self.times: dict[str, list[float]] = {}
        self.react = react

    def progress(self, record: Record, progress: dict) -> None:
        self.times.setdefault(record.log, []).append(time.monotonic())
        self.react(record)

    def overlaps(self, records: list[Record]) -> list[tuple[str, str]]:
        """Repeats that were running at the same time on the same node."""
        ends = [(r.node, r.log, min(self.times[r.log]), max(self.times[r.log])) for r in records if r.log in self.times]
        return [
            (one, other)
            for node, one, begun, ended in ends
            for there, other, later, _ in ends
            if node == there and one != other and begun <= later <= ended
        ]


def sweep(
    nodes: RayCluster, plan: Plan, results: Path, seen: Quiet, say: Callable[[str], Any] = print, **options: Any
) -> list[Record]:
    from harness.measure.engines.cluster import connected
    from harness.measure.engines.ray_engine import RayEngine

    with (
        connected(nodes.address) as cluster,
        Study(plan.folder(results)) as study,
        StopSignal() as stop,
        RayEngine(cluster, stop, say=say, **options) as engine,
    ):
        Sweep(plan, study, stop, seen, engine).run()
        return study.records.records


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENDS_WITHIN
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # files and processes of others: nothing wakes us


def pids(marker: Path) -> list[int]:
    return [int(line.split()[0]) for line in marker.read_text().splitlines()] if marker.exists() else []


def test_a_head_without_tokens_lets_anybody_in(nodes) -> None:
    host, _, port = nodes.address.rpartition(":")
    assert lets_anybody_in(host, int(port))


def test_a_repeat_has_its_node_to_itself_and_leaves_its_files_with_the_study(nodes, make_plan, tmp_path) -> None:
    huge = 9_000_000_000_000_000
    plan = make_plan(*LASTING, f"search.host_bytes=[1000, {huge}]", "search.speed=[20, 40]", "baseline.host_bytes=1000",
                     "limits.trials=4", "confirm={top: 1, repeats: 2}")  # fmt: skip
    seen = Seen()
    records = sweep(nodes, plan, tmp_path, seen)
    keys = [(r.trial, r.repeat, r.phase) for r in records]
    assert len(set(keys)) == len(keys) == 4 + 4
    assert sorted(r.trial for r in records if r.phase == "search") == [0, 1, 2, 3]
    assert seen.overlaps(records) == []
    ran = [r for r in records if r.state == "complete"]
    assert len({r.node for r in ran}) == 2 and {r.machine for r in ran} == {records[0].machine}
    assert records[0].machine.startswith("cluster-") and not any(r.shared for r in records)
    infeasible = [r for r in records if r.state == "infeasible"]
    assert [r.params["host_bytes"] for r in infeasible] == [huge, huge]
    assert "host needs" in infeasible[0].error and "ring" in infeasible[0].error
    assert len({r.node for r in ran if r.phase == "confirm"}) == 1, "there and back"
    folder = plan.folder(tmp_path) / "logs" / "0-0"
    assert {path.name for path in folder.iterdir()} == {"curve.jsonl", "spec.json", "stderr.log", "stdout.log"}
    assert ran[0].env_steps_per_second == pytest.approx(100 * ran[0].params["speed"])
    assert ran[0].peak_host_bytes > 2**20


def test_what_the_driver_measures_itself_has_its_node_to_itself_too(nodes, monkeypatch) -> None:
    import ray

    from harness.measure.engines.cluster import connected
    from harness.measure.engines.ray_engine import RayEngine

    def free() -> float:
        return ray.available_resources().get("CPU", 0.0)

    with connected(nodes.address) as cluster, StopSignal() as stop, RayEngine(cluster, stop) as engine:
        total = ray.cluster_resources()["CPU"]
        with engine.reserved_here():  # the driver is on the head, which measures nothing
            wait_until(lambda: free() == total)
        here = cluster.nodes[0].id
        monkeypatch.setattr("ray.runtime_context.RuntimeContext.get_node_id", lambda self: here)
        with engine.reserved_here():
            wait_until(lambda: free() == total - usable_cores())
        wait_until(lambda: free() == total)


def test_nodes_share_when_told_and_the_records_say_so(nodes, make_plan, tmp_path) -> None:
    if usable_cores() < 2:
        pytest.skip("needs two cores")
    plan = make_plan("fixed.threads=1", "fixed.host_bytes=100000000", "fixed.behaviour=endless")
    running: set[int] = set()

    def react(record: Record) -> None:
        assert record.shared
        before = len(running)
        running.add(record.trial)
        if before < len(running) == 3:  # on two nodes; once, as a second signal ends the process at once
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        sweep(nodes, plan, tmp_path, Seen(react), share_nodes=True)


def test_a_lost_node_s_trial_begins_again_and_each_is_recorded_once(nodes, make_plan, tmp_path) -> None:
    plan = make_plan(*LASTING, "limits.trials=4")
    said: list[str] = []
    running: set[int] = set()

    def react(record: Record) -> None:
        running.add(record.trial)
        if len(running) == 2 and not said:
            said.append("killed")
            nodes.remove_node(nodes.measuring.pop())  # type: ignore[attr-defined]

    nodes.measuring = [node for node in nodes._cluster.worker_nodes if node._ray_params.num_cpus == usable_cores()]  # type: ignore[attr-defined]
    records = sweep(nodes, plan, tmp_path, Seen(react), said.append)
    nodes.add_node(usable_cores())
    nodes.wait()
    assert [text for text in said if text.endswith("is lost; what it measured begins again on another one")]
    assert sorted((r.trial, r.state) for r in records) == [(trial, "complete") for trial in range(4)]


def test_a_trial_that_loses_its_place_twice_has_failed_and_nothing_of_it_runs(nodes, make_plan, tmp_path) -> None:
    marker = tmp_path / "started"
    plan = make_plan("fixed.behaviour=endless", f"fixed.marker={marker}", "limits.trials=1")
    killed: set[int] = set()

    def react(record: Record) -> None:
        trial = pids(marker)[-1]
        if trial not in killed:
            killed.add(trial)
            actor = psutil.Process(trial).parent()
            assert actor is not None
            actor.kill()

    records = sweep(nodes, plan, tmp_path, Seen(react))
    assert [(r.trial, r.state) for r in records] == [(0, "failed")]
    assert "lost 2 times" in records[0].error
    assert len(killed) == 2
    wait_until(lambda: all(map(gone, killed)))


def test_an_interrupted_search_goes_on_and_records_each_repeat_once(nodes, make_plan, tmp_path) -> None:
    plan = make_plan(*LASTING, "limits.trials=4")
    begun: set[str] = set()

    def react(record: Record) -> None:
        before = len(begun)
        begun.add(record.log)
        if before < len(begun) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        sweep(nodes, plan, tmp_path, Seen(react))
    kept = read_records(plan.folder(tmp_path) / "trials.jsonl")
    assert 0 < len(kept) < 4
    records = sweep(nodes, plan, tmp_path, Seen())
    assert records[: len(kept)] == kept
    assert sorted(r.trial for r in records) == [0, 1, 2, 3]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_no_trial_outlives_its_driver(nodes, suite_file, tmp_path, signum: signal.Signals) -> None:
    marker = tmp_path / "started"
    driver = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", str(suite_file), "--engine", "ray", "--address", nodes.address,
         "--results", str(tmp_path), "--set", "fixed.behaviour=endless", "--set", f"fixed.marker={marker}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(pids(marker)) == 2)
        driver.send_signal(signum)
        output, _ = driver.communicate(timeout=ENDS_WITHIN)
    finally:
        driver.kill()
    assert driver.returncode == (130 if signum == signal.SIGINT else -signal.SIGKILL)
    if signum == signal.SIGINT:
        assert "stopped by SIGINT" in output and all(map(gone, pids(marker)))
        assert output.count("not used:") == 2
    wait_until(lambda: all(map(gone, pids(marker))))


def test_what_keeps_a_cluster_from_being_used_is_said_at_once(suite_file, monkeypatch, capsys) -> None:
    run = ["run", str(suite_file), "--engine", "ray", "--address"]
    assert main([*run, "127.0.0.1:9"]) == 1
    assert "no Ray cluster at 127.0.0.1:9" in capsys.readouterr().err
    assert main([*run, "ray://head:10001"]) == 1
    assert "give host:port of the head" in capsys.readouterr().err
    assert main(["run", str(suite_file), "--share-nodes"]) == 1
    assert "go with --engine ray" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*run, "127.0.0.1:9"]) == 1
    assert "pip install -e '.[ray]'" in capsys.readouterr().err


def test_a_block_whose_configurations_need_more_and_more_stays_on_its_node(
    nodes, make_plan, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the order is random, and that which needs less has to be the first
    monkeypatch.setattr("harness.study.confirmation.mirrored", lambda *_: [(0, 0), (1, 0), (0, 1)])
    plan = make_plan(*LASTING, "search.host_bytes=[200000000, 100000000]", "search.speed=[20]", "limits.trials=2",
                     "baseline.host_bytes=100000000", "confirm={top: 1, repeats: 1}")  # fmt: skip
    records = sweep(nodes, plan, tmp_path, Seen(), share_nodes=True)
    block = [r for r in records if r.phase == "confirm"]
    assert [(r.trial, r.state, r.attempt) for r in block] == [(t, "complete", 0) for t in (0, 1, 0)]
    assert len({r.node for r in block}) == 1 and all(r.shared for r in records)

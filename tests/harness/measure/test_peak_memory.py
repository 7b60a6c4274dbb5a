"""Peak memory of real process trees, and the budget of a run against its measured peak."""

import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from harness.measure import peak_memory as memory
from harness.measure.peak_memory import PeakMemory, owned_shm, process_memory, trial_processes
from harness.trainers import trainer as trainers
from unilab.ipc import start_time

MIB = 2**20
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux reports PSS")

HOLD = """
import sys
data = bytearray(int(sys.argv[1]))
data[::4096] = b"x" * len(data[::4096])
print("ready", flush=True)
sys.stdin.readline()
"""

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.readline()
"""


@contextmanager
def child(code: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process in a session of its own that has printed a line and waits for one; killed with all it started."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@linux
def test_memory_of_descendants_counts():
    with child(PARENT, HOLD, str(64 * MIB)) as (parent, grandchild), PeakMemory(parent.pid) as peak:
        sample = peak.sample()
        assert trial_processes(parent.pid) == {parent.pid, int(grandchild)}
        assert 64 * MIB < sample.host < 64 * MIB + 60 * MIB
        assert peak.peak.host >= sample.host


@linux
def test_members_of_the_group_count_after_their_parent_died():
    with child(PARENT, HOLD, str(32 * MIB)) as (parent, grandchild):
        parent.kill()
        parent.wait()
        assert trial_processes(parent.pid) == {int(grandchild)}
        with PeakMemory(parent.pid) as peak:
            assert peak.sample().host > 32 * MIB


SHARE = """
import sys
from unilab.ipc.shared_memory import segments
segment = segments.create(int(sys.argv[1]), "test")
segment.memory[:] = b"x" * segment.size
print(segment.name, flush=True)
sys.stdin.readline()
segment.unlink()
"""


@linux
def test_shared_memory_counts_once_and_by_its_creator():
    with child(SHARE, str(48 * MIB)) as (owner, name), PeakMemory(owner.pid) as peak:
        sample = peak.sample()
        assert sample.shm == owned_shm([owner.pid]) == 48 * MIB
        assert sample.host > 48 * MIB
        assert owned_shm([os.getpid()]) == 0
        # Mapped by a process outside of the trial too, it is still all the trial's.
        mapped = np.memmap(f"/dev/shm/{name}", np.uint8, mode="r")
        assert mapped.sum(dtype=np.int64) == 48 * MIB * ord("x")
        assert peak.sample().host == pytest.approx(sample.host, abs=4 * MIB)


def test_a_process_that_has_ended_holds_nothing():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert trial_processes(ended.pid) == set()
    for how in ("pss", "rss"):
        assert process_memory(ended.pid, how) == memory.ProcessMemory()
    with PeakMemory(ended.pid) as peak:
        assert peak.sample() == memory.MemorySample()


def test_where_there_is_no_pss_rss_stands_in(monkeypatch):
    monkeypatch.setattr(memory, "accounting", lambda: "rss")
    with child(HOLD, str(32 * MIB)) as (process, _), PeakMemory(process.pid) as peak:
        assert peak.accounting == "rss"
        assert 32 * MIB < peak.sample().host < 100 * MIB


def test_the_limit_is_reported_once_with_what_was_seen():
    seen: list[int] = []
    reported = threading.Event()

    def on_exceed(host: int) -> None:
        seen.append(host)
        reported.set()

    with child(HOLD, str(32 * MIB)) as (process, _):
        with PeakMemory(process.pid, interval=0.01, limit=16 * MIB, on_exceed=on_exceed) as peak:
            assert reported.wait(60)
            before = peak.samples
            wait_until(lambda: peak.samples > before + 3)
        assert len(seen) == 1 and seen[0] > 32 * MIB


def test_below_the_limit_nothing_is_reported():
    with child(HOLD, "1") as (process, _):
        with PeakMemory(process.pid, interval=0.01, limit=2**50, on_exceed=lambda _: pytest.fail("reported")) as peak:
            wait_until(lambda: peak.samples > 3)
        peak.close()  # again is harmless


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("did not happen within 30 s")


def test_device_memory_is_that_of_the_trials_processes(tmp_path, monkeypatch):
    with child(HOLD, "1") as (process, _):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho '{process.pid}, 300'\necho '1, 5000'\necho '{process.pid}, [N/A]'\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with PeakMemory(process.pid) as peak:
            assert peak.sample().device == 300 * MIB


def test_how_busy_the_only_device_is_counts_while_the_trial_uses_it_and_is_measured(tmp_path, monkeypatch):
    def answers(device: str) -> None:
        tool.write_text(f"#!/bin/sh\ncase $1 in *gpu=*) {device};; *) echo '{process.pid}, 300';; esac\n")

    with child(HOLD, "1") as (process, _):
        tool = tmp_path / "nvidia-smi"
        answers("echo 40")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(memory, "DEVICE_INTERVAL", 0.0)
        measuring = False
        with PeakMemory(process.pid, interval=600.0, measuring=lambda: measuring) as peak:
            wait_until(lambda: peak.samples == 1)  # by the thread
            peak.sample()
            assert math.isnan(peak.device_busy_fraction)
            measuring = True
            peak.sample()
            answers("echo 60")
            peak.sample()
            answers("echo '[N/A]'")
            peak.sample()
            answers("echo 90; echo 10")  # which of them is the trial's?
            peak.sample()
            assert peak.device_busy_fraction == pytest.approx(0.5)


def test_samples_of_several_threads_share_one_answer_of_the_driver(tmp_path, monkeypatch):
    with child(HOLD, "1") as (process, _):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\nsleep 0.2\necho '{process.pid}, 300'\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(memory, "DEVICE_INTERVAL", 600.0)
        with PeakMemory(process.pid) as peak, ThreadPoolExecutor(4) as threads:
            samples = [threads.submit(peak.sample) for _ in range(4)]
            assert {sample.result().device for sample in samples} == {300 * MIB}
        assert (tmp_path / "asked").read_text() == "asked\n"


RUN = """
import json, sys
from pathlib import Path
from harness.trainers import trainer as trainers
if __name__ == "__main__":
    trainers.calm_thread_pools()
    name, settings, folder = sys.argv[1:]
    run = trainers.get(name).run
    run(json.loads(settings), lambda progress: True, log_dir=Path(folder), max_iterations=8)
"""
ROLLOUTS = {"num_envs": 512, "steps_per_env": 16, "algorithm.num_learning_epochs": 1}
TRANSITIONS = {"learning_starts": 8, "updates_per_step": 2, "replay_capacity": 200_000}


@linux
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("appo", ROLLOUTS | {"mode": "async"}),
        ("appo", ROLLOUTS | {"mode": "sync"}),
        ("sac", TRANSITIONS | {"batch_size": 4096, "learner_threads": 2}),
        ("td3", TRANSITIONS | {"sync_collection": False, "pipeline": "prefetch", "learner_threads": 1}),
    ],
)
def test_the_budget_is_near_the_measured_peak(tmp_path, name, settings):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    budget = trainers.get(name).budget(settings)
    assert budget is not None
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script), name, json.dumps(settings), str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    with PeakMemory(process.pid, interval=0.05) as peak:
        assert process.wait(120) == 0
    assert peak.peak.shm == budget.shm_bytes
    assert 0.95 <= budget.host_bytes / peak.peak.host <= 1.15


def test_what_stands_still_is_not_sampled() -> None:
    stands = True
    asked = 0

    def standing() -> bool:
        nonlocal asked
        asked += 1
        return stands

    with PeakMemory(os.getpid(), interval=0.01, stands=standing) as peak:
        wait_until(lambda: asked > 3)
        assert peak.samples == 0
        stands = False
        wait_until(lambda: peak.samples > 0)
    assert peak.peak.host > 0


def test_a_process_whose_name_is_no_text_hides_none() -> None:
    """The kernel cuts names after 15 bytes, in the middle of a letter."""
    rename = "open('/proc/self/comm', 'wb').write(b'ab\\xd0'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as named:
        assert named.stdin is not None and named.stdout is not None
        named.stdout.readline()
        assert trial_processes(named.pid) == {named.pid} and start_time(named.pid) is not None
        named.stdin.write(b"\n")

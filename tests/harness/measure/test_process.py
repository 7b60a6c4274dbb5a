import dataclasses
import json
import math
import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.files.writing import RecordError, is_full
from harness.measure import peak_memory
from harness.measure.engines.local import execute
from harness.measure.process import RepeatLimits
from harness.measure.repeat import TrialSpec, describe, run_repeat
from harness.measure.stop import Stopped, StopSignal
from tests.harness.fake_trainer import FakeTrainer
from unilab.distributed import WorkerError
from unilab.ipc import CollectorError, SharedMemoryFullError

PATIENT = RepeatLimits(30, 30)


def spec(folder: Path, behaviour: str = "good", **settings) -> TrialSpec:
    settings = {"behaviour": behaviour, "marker": str(folder / "started"), **settings}
    return TrialSpec("tests.harness.fake_trainer:FakeTrainer", settings, 0.1, 0.2, str(folder / "log"), -1)


def pid_of(folder: Path) -> int:
    return int((folder / "started").read_text().split()[0])


def run(one: TrialSpec, limits: RepeatLimits = PATIENT, **more):
    with StopSignal() as stop:
        outcome = execute(one, limits, stop, **more)
        assert stop.groups == set()
    return outcome


def test_a_trial_runs_in_process_as_well(tmp_path) -> None:
    messages: list = []
    assert run_repeat(spec(tmp_path, speed=50), messages.append)
    assert messages[-1]["event"] == "result"
    assert messages[-1]["result"]["env_steps_per_second"] == pytest.approx(5000)
    assert json.loads((tmp_path / "log/curve.jsonl").read_text().splitlines()[0])["iteration"] == 1
    assert not run_repeat(spec(tmp_path, "fail"), messages.append)
    assert messages[-1]["error"] == "ValueError: the physics exploded in environment 3"
    assert "in misbehave" in messages[-1]["traceback"]


def test_running_out_of_memory_is_named_as_such() -> None:
    assert describe(MemoryError("no room")).startswith("out of memory (MemoryError")
    assert describe(RuntimeError("CUDA out of memory. Tried")).startswith("out of memory (RuntimeError")
    assert describe(RuntimeError("other")) == "RuntimeError: other"


def test_a_good_repeat_is_measured_in_a_process_of_its_own(tmp_path) -> None:
    seen: list = []
    outcome = run(spec(tmp_path, speed=70), on_progress=seen.append)
    assert outcome.state == "complete" and outcome.error is None
    assert outcome.result["env_steps_per_second"] == pytest.approx(7000)
    assert outcome.result["learner_busy_fraction"] == pytest.approx(0.75)
    assert seen and seen[-1]["measuring"]
    assert outcome.result["peak_host_bytes"] > 2**20
    assert outcome.result["wall_seconds"] > 0
    assert pid_of(tmp_path) != os.getpid() and not psutil.pid_exists(pid_of(tmp_path))


class Playing(FakeTrainer):
    """The GPU works while it trains and stands idle while it plays; both last until the driver was asked."""

    def run(self, settings, on_progress, *, log_dir, **options):
        def training(progress):
            if progress.iteration == 20:  # in the middle of the window
                wait_for_questions(log_dir.parent, "gpu", 2)
            return on_progress(progress)

        return super().run(settings, training, log_dir=log_dir, **options)

    def evaluate(self, settings, log_dir, episodes):
        wait_for_questions(log_dir.parent, "compute-apps", 2)  # the parent knows by now that the window has ended
        (log_dir.parent / "idle").touch()
        wait_for_questions(log_dir.parent, "compute-apps", 3)
        return 0.0


def wait_for_questions(folder: Path, kind: str, count: int) -> None:
    """Until nvidia-smi was asked so many more."""
    asked, deadline = folder / "asked", time.monotonic() + 60
    question = f"--query-{kind}="
    before = asked.read_text().count(question)
    while asked.read_text().count(question) < before + count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_idle_gpu_counts_in_the_window_alone(tmp_path, monkeypatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"""#!/bin/sh
cd {tmp_path}
echo "$1" >> asked
case $1 in
  *gpu=*) if [ -e idle ]; then echo 0; else echo 80; fi;;
  *) read -r pid speed < started && echo "$pid, 300";;
esac
""")
    tool.chmod(0o755)
    (tmp_path / "asked").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(peak_memory, "DEVICE_INTERVAL", 0.0)
    playing = dataclasses.replace(spec(tmp_path), trainer=f"{__name__}:Playing", evaluate=1)
    outcome = run(playing, RepeatLimits(120, 120))
    assert outcome.state == "complete", outcome.error
    assert outcome.result["device_busy_fraction"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("fail", "ValueError: the physics exploded in environment 3"),
        ("die", "killed by SIGKILL"),
        ("exit", "exit code 7 without a result"),
    ],
)
def test_a_failing_repeat_says_how(tmp_path, behaviour: str, error: str) -> None:
    outcome = run(spec(tmp_path, behaviour))
    assert outcome.state == "failed"
    assert outcome.error.startswith(error)
    if behaviour == "fail":
        assert "in misbehave" in Path(outcome.error.partition("; traceback: ")[2]).read_text()
    assert math.isnan(outcome.result.get("env_steps_per_second", math.nan))


def test_shared_memory_of_other_packages_does_not_outlive_its_repeat(tmp_path) -> None:
    before = set(Path("/dev/shm").iterdir())
    outcome = run(spec(tmp_path, "share_and_die"))
    assert "killed by SIGKILL" in outcome.error
    name = (tmp_path / "log/stdout.log").read_text().strip()
    assert name.startswith("psm_") and not Path("/dev/shm", name).exists()
    assert not {path for path in set(Path("/dev/shm").iterdir()) - before if path.name.startswith("sem.mp-")}


def test_the_cause_in_another_process_comes_first() -> None:
    raised = (
        "Traceback (most recent call last):\n  File \"a.py\", line 1, in step\nKeyError: 'joint'\nCart: environment 0\n"
    )
    failed = CollectorError("collector", 12, 1, traceback_text=raised, last_step=7)
    assert describe(failed) == "KeyError: 'joint' (in collector 'collector', after env step 7)"
    assert describe(WorkerError(3, 0, "it failed", raised)) == "KeyError: 'joint' (in worker 3)"
    killed = CollectorError("collector", 12, -11)
    assert describe(killed).startswith("CollectorError: collector 'collector' (process 12) was killed by SIGSEGV")


@pytest.mark.parametrize("behaviour", ["hang", "hold_gil", "deaf"])
def test_a_hanging_repeat_is_ended_with_a_stack_dump(tmp_path, behaviour: str) -> None:
    outcome = run(spec(tmp_path, behaviour), RepeatLimits(60, 3.0))
    assert outcome.state == "timeout"
    assert "no progress for progress_timeout_seconds = 3" in outcome.error
    dump = Path(outcome.error.rpartition("stack dump: ")[2]).read_text()
    assert "fake_trainer.py" in dump and "in misbehave" in dump
    assert not psutil.pid_exists(pid_of(tmp_path))


class Slow(FakeTrainer):
    """Nothing is heard of its evaluation for longer than progress may take."""

    def evaluate(self, settings: Mapping[str, Any], log_dir: Path, episodes: int) -> float:
        time.sleep(8.0)
        return 3.0


@pytest.mark.parametrize(("longest", "state"), [(60.0, "complete"), (2.0, "timeout")])
def test_an_evaluation_may_take_as_long_as_the_repeat(tmp_path, longest: float, state: str) -> None:
    evaluated = dataclasses.replace(spec(tmp_path), trainer=f"{__name__}:Slow", evaluate=1)
    outcome = run(evaluated, RepeatLimits(longest + 1.5, 6.0))
    assert outcome.state == state, outcome.error


def test_a_repeat_that_goes_on_for_ever_is_ended(tmp_path) -> None:
    outcome = run(spec(tmp_path, "endless"), RepeatLimits(3.0, 30))
    assert outcome.state == "timeout"
    assert "took longer than the 3 s that it had; see limits.trial_timeout_seconds" in outcome.error
    assert not psutil.pid_exists(pid_of(tmp_path))


def test_a_repeat_over_its_memory_limit_is_ended_as_out_of_memory(tmp_path) -> None:
    outcome = run(spec(tmp_path, "eat"), RepeatLimits(30, 30, host_bytes=300 * 2**20))
    assert outcome.state == "failed"
    assert outcome.error.startswith("out of memory:") and "the limit is 300 MiB" in outcome.error
    assert outcome.result["peak_host_bytes"] > 300 * 2**20


def test_a_signal_ends_the_repeat_and_leaves_nothing(tmp_path) -> None:
    with StopSignal() as stop, pytest.raises(Stopped) as caught:
        execute(spec(tmp_path, "endless"), PATIENT, stop, lambda progress: os.kill(os.getpid(), signal.SIGTERM))
    assert caught.value.exit_code == 143
    assert not psutil.pid_exists(pid_of(tmp_path))
    assert stop.groups == set()


class Filling(FakeTrainer):
    """Its checkpoint is larger than what is free."""

    def run(self, settings, on_progress, *, log_dir, **options):
        (log_dir / "checkpoint.pt").write_bytes(bytes(60_000))


def test_a_full_disk_ends_the_study_and_is_no_failure_of_the_trial(tmp_path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # as good as a full disk
    try:
        message = r"log: cannot be written \(OSError: .*File too large\); .* run the same"
        with StopSignal() as stop, pytest.raises(RecordError, match=message):
            execute(dataclasses.replace(spec(tmp_path), trainer=f"{__name__}:Filling"), PATIENT, stop)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stop.groups == set()


def test_shared_memory_that_is_too_small_is_a_failure_of_the_trial() -> None:
    assert not is_full(SharedMemoryFullError("ring", 10, 5))


def test_a_folder_that_cannot_be_written_is_told_and_not_a_failure_of_the_trial(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"log: cannot be written \(Not a directory\); .* run the same command again"):
        run(spec(tmp_path / "file"))

"""The guard: verdicts on readings that are given, and a real busy process beside a real trial."""

import dataclasses
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.measure import interference as contention
from harness.measure.engines.local import execute
from harness.measure.interference import Interference, Reading, between
from harness.measure.process import RepeatLimits
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal

FOUR = frozenset(range(4))


def window(
    seconds: float = 10.0, *, own: float, others: float = 0.0, stolen: float = 0.0, cores: frozenset[int] = FOUR, **more
) -> tuple[Reading, Reading]:
    """Readings around a window in which these cores' worth of CPU time were used."""
    idle = max(0.0, len(cores) - own - others - stolen)
    before = Reading(100.0, cores, None, 50.0, 3.0, 7.0, None)
    throttled = more.pop("throttled", None)
    before = dataclasses.replace(before, throttled=None if throttled is None else 1.0, **more)
    after = dataclasses.replace(
        before, at=100.0 + seconds, idle=50.0 + idle * seconds, stolen=3.0 + stolen * seconds, own=7.0 + own * seconds,
        throttled=None if throttled is None else 1.0 + throttled,
    )  # fmt: skip
    return before, after


@pytest.mark.parametrize("own", [0.0, 1.5, 4.0])
def test_a_trial_alone_on_its_cores_is_not_disturbed_however_many_it_uses(own: float) -> None:
    nothing = pytest.approx(0.0, abs=1e-9)
    assert between(*window(own=own)) == Interference(other_cpu_fraction=nothing, disturbance=nothing)


@pytest.mark.parametrize("own", [0.5, 3.0])
def test_what_others_take_is_their_part_of_the_usable_cores(own: float) -> None:
    assert between(*window(own=own, others=1.0)).other_cpu_fraction == pytest.approx(0.25)
    assert between(*window(own=own, others=1.0)).disturbed == "other processes took 1 of 4 cores"


def test_the_threshold_is_a_part_of_few_cores_and_half_of_one_of_many() -> None:
    assert between(*window(own=1, others=0.19)).disturbed == ""
    assert between(*window(own=1, others=0.21)).disturbed == "other processes took 0.21 of 4 cores"
    many = frozenset(range(64))
    assert between(*window(own=1, others=0.49, cores=many)).disturbed == ""
    assert between(*window(own=1, others=0.51, cores=many)).disturbed == "other processes took 0.51 of 64 cores"


def test_a_quota_leaves_cores_to_others_for_nothing() -> None:
    assert between(*window(own=2, others=2, quota=2.0)).disturbed == ""
    busy = between(*window(own=1.5, others=2.5, quota=2.0))
    assert busy.disturbed == "other processes took 0.5 of 2 cores" and busy.other_cpu_fraction == pytest.approx(0.25)


def test_what_the_hypervisor_takes_is_named() -> None:
    assert between(*window(own=3, stolen=0.5)).disturbed == "the hypervisor took 0.5 of 4 cores"
    both = between(*window(own=2, others=1, stolen=0.5)).disturbed
    assert both == "other processes took 1 of 4 cores; the hypervisor took 0.5 of 4 cores"


def test_a_quota_that_held_a_trial_back_disturbed_it_unless_the_trial_used_it_up_by_itself() -> None:
    stopped = between(*window(own=1.2, quota=2.0, throttled=3.0))
    assert stopped.disturbed == "the CPU quota held it back for 3 s though it used 1.2 of 2 cores"
    assert stopped.throttled_seconds == 3.0
    assert between(*window(own=1.9, quota=2.0, throttled=3.0)).disturbed == ""
    assert between(*window(own=1.2, quota=2.0, throttled=0.4)).disturbed == ""


def test_cores_that_change_disturb() -> None:
    before, after = window(own=1)
    fewer = between(before, dataclasses.replace(after, cores=frozenset({0, 1})))
    assert fewer.disturbed == "the usable cores changed from 4 to 2" and math.isnan(fewer.other_cpu_fraction)
    assert between(before, dataclasses.replace(after, quota=1.5)).disturbed == "the usable cores changed from 4 to 1.5"


def test_a_disturbance_is_above_1_where_it_is_one_and_grows_with_what_was_taken() -> None:
    before, after = window(own=1)
    changed = between(before, dataclasses.replace(after, cores=frozenset({0, 1})))
    others = [between(*window(own=1, others=cores)) for cores in (0.19, 0.21, 1.0)]
    held_back = between(*window(own=1.2, quota=2.0, throttled=3.0))
    stolen = between(*window(own=3, stolen=0.5))
    for one in (*others, changed, held_back, stolen):
        assert (one.disturbance > 1) == bool(one.disturbed)
    assert others[0].disturbance < others[1].disturbance < others[2].disturbance < changed.disturbance


def test_nothing_is_said_of_what_cannot_be_seen() -> None:
    before, after = window(0.5, own=1, others=3)
    for unknown in (between(before, after), between(None, after), between(before, None)):
        assert math.isnan(unknown.other_cpu_fraction) and unknown.disturbed == ""


def test_idle_and_stolen_time_are_those_of_the_cores_that_may_be_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    hertz = os.sysconf("SC_CLK_TCK")
    lines = [f"cpu{n} 1 1 1 {(n + 1) * 100 * hertz} {hertz} {hertz} {hertz} {n * hertz} 5 5" for n in range(3)]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  9 9 9 9 9 9 9 9 9 9\n" + "\n".join(lines) + "\nintr 1 2\nctxt 7\n")
    reading = contention.read(tmp_path)
    assert reading is not None
    assert reading.idle == 100 + 3 + 300 + 3  # waiting and interrupts are no process's either
    assert reading.stolen == 2
    assert reading.cores == {0, 2} and reading.quota is None and reading.throttled is None
    assert contention.read(tmp_path / "nowhere") is None


def test_a_guard_may_use_cores_that_are_not_the_trials(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(contention, "trial_processes", lambda *_: {7, 8})
    monkeypatch.setattr(os, "getpgid", lambda _: 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1} if pid == 7 else {0}, raising=False)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 1 1 1 1 1 1 1 1 1 1\ncpu1 1 1 1 1 1 1 1 1 1 1\n")
    reading = contention.read(tmp_path)
    assert reading is not None and reading.cores == {0}


def test_threads_that_could_have_run_and_waited_for_a_core(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(contention, "trial_processes", lambda *_: {7, 8})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 1 1 1 1 1 1 1 1 1 1\n")
    silent = contention.read(tmp_path)
    for pid, thread, ran, queued in ((7, 7, 3, 1), (7, 9, 2, 2), (8, 8, 1, 0)):
        (tmp_path / f"proc/{pid}/task/{thread}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/task/{thread}/schedstat").write_text(f"{ran * 10**9} {queued * 10**9} 5\n")
    before = contention.read(tmp_path)
    assert before is not None and (before.ran, before.queued) == (6.0, 3.0)
    assert silent is not None and (silent.ran, silent.queued) == (0.0, 0.0)
    after = dataclasses.replace(before, at=before.at + 10, ran=12.0, queued=5.0)
    assert between(before, after).queue_wait_fraction == pytest.approx(2 / 8)
    assert math.isnan(between(silent, dataclasses.replace(silent, at=silent.at + 10)).queue_wait_fraction)


@pytest.fixture
def busy_process() -> Iterator[None]:
    """Keeps a core busy from the moment it has said so."""
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def test_a_busy_process_beside_a_trial_is_seen(tmp_path: Path, busy_process: None) -> None:
    spec = TrialSpec("tests.harness.fake_trainer:FakeTrainer", {"real_clock": True}, 0.1, 1.2, str(tmp_path), -1)
    with StopSignal() as stop:
        outcome = execute(spec, RepeatLimits(30, 30), stop)
    assert outcome.state == "complete"
    assert outcome.result["disturbed"].startswith("other processes took ")
    assert outcome.result["other_cpu_fraction"] > 0.3 / len(os.sched_getaffinity(0))
    assert outcome.result["load_average"] >= 0


def test_what_the_trial_and_its_ended_children_used_is_its_own() -> None:
    before = contention.read()
    started = time.process_time()
    while time.process_time() - started < 0.2:
        pass
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    after = contention.read()
    assert before is not None and after is not None
    assert after.own - before.own >= 0.35


@pytest.mark.parametrize(("alone", "counted"), [(True, True), (False, False)])
def test_another_trial_that_ends_beside_it_is_not_the_trials_own(alone: bool, counted: bool, monkeypatch) -> None:
    monkeypatch.setattr(contention, "trial_processes", lambda *_: set())
    monkeypatch.setattr(os, "getppid", os.getpid)  # this process is the harness
    before = contention.read(alone=alone)
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    after = contention.read(alone=alone)
    assert before is not None and after is not None
    assert (after.own - before.own >= 0.25) == counted

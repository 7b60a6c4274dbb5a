"""Repeats side by side on this machine, each on cores of its own."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.measure.engines import local
from harness.measure.engines.local import LocalEngine
from harness.measure.process import Job, Outcome, RepeatLimits
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from tests.harness.fake_trainer import FakeTrainer
from unilab.ipc.memory_budget import MemoryAvailable
from unilab.machine import devices

LIMITS = RepeatLimits(60, 60)


class CountingCores(FakeTrainer):
    """Its threads are the cores that its process may run on."""

    def threads(self, settings: Mapping[str, Any]) -> dict[str, int]:
        return {"env": len(os.sched_getaffinity(0))}


def job(folder: Path, name: str, seconds: float = 0.2) -> Job:
    settings = {"real_clock": True, "marker": str(folder / f"{name}.pid")}
    trainer = f"{CountingCores.__module__}:CountingCores"
    return Job(TrialSpec(trainer, settings, 0.0, seconds, str(folder / name), -1), LIMITS, lambda progress: None)


def test_a_work_has_a_place_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "core_sets", lambda size: [[5], [7]])
    ran: list[list[int] | None] = []

    def executed(spec: TrialSpec, *_: object) -> Outcome:
        ran.append(spec.cores)
        return Outcome("complete")

    with StopSignal() as stop, LocalEngine("here", stop, executed, cores=1) as engine:
        assert engine.concurrency == 2 and engine.has_room()
        engine.start(0, [job(tmp_path, "a")])
        engine.start(1, [job(tmp_path, "b")])
        assert not engine.has_room()
        ended, _ = engine.wait()
        assert engine.has_room()
        engine.start(ended, [job(tmp_path, "c")])
        engine.wait(), engine.wait()
    assert ran == [[5], [7], [5]]


@pytest.mark.skipif(devices.usable_cores() < 2, reason="needs two cores")
def test_one_alone_has_as_many_cores_as_it_is_to_have(tmp_path: Path) -> None:
    one = job(tmp_path, "one")
    with StopSignal() as stop:
        outcome = local.execute(one.spec, one.limits, stop, cores=1)
    assert (outcome.state, outcome.result["threads"]) == ("complete", "env 1")


@pytest.mark.skipif(devices.usable_cores() < 2, reason="needs two cores")
def test_two_run_at_once_on_a_core_each_and_what_runs_ends_with_the_engine(tmp_path: Path) -> None:
    with StopSignal() as stop, LocalEngine("here", stop, cores=1) as engine:
        engine.start(0, [job(tmp_path, "long", seconds=600)])
        engine.start(1, [job(tmp_path, "short")])
        work, (outcome,) = engine.wait()
        assert (work, outcome.state, outcome.result["threads"]) == (1, "complete", "env 1")
        deadline = time.monotonic() + 60
        while not (marker := tmp_path / "long.pid").exists() or not marker.read_text():
            assert time.monotonic() < deadline, "the long one does not begin"
            time.sleep(0.01)  # on a busy machine the second one may end before the first one begins
        pid = int(marker.read_text().split()[0])
        assert len(os.sched_getaffinity(pid)) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(devices.usable_cores() < 2, reason="needs two cores")
def test_each_has_its_part_of_the_memory() -> None:
    with StopSignal() as stop, LocalEngine("here", stop, cores=1) as engine:
        share, whole = engine.available(), MemoryAvailable.here()
        assert share is not None and share.host_total == whole.host_total // engine.concurrency
    with StopSignal() as stop, LocalEngine("here", stop) as engine:
        assert engine.available() is None

"""Ctrl-C while whoever collects hangs: the run ends in time, with a checkpoint, however it collects."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.algos.appo.test_runner import learn as learn_appo
from tests.algos.offpolicy.test_runner import learn as learn_off_policy
from tests.ipc.conftest import nothing_left
from unilab.algos.torch.offpolicy import transition_source
from unilab.distributed import processes
from unilab.ipc.process import group
from unilab.run.checkpoint import load_checkpoint

__all__ = ["nothing_left"]

CALM_SECONDS = 2.0
"""for everything but waiting for what hangs, on a busy machine"""
WORKERS = {"kind": "processes", "count": 2}


def test_the_waits_together_leave_time_for_the_rest() -> None:
    assert group.END_SECONDS < 5
    assert transition_source.REPLY_SECONDS < group.END_SECONDS
    assert processes._STOP_SECONDS < group.END_SECONDS


@pytest.mark.parametrize(
    ("learn", "changes"),
    [
        (learn_appo, {"mode": "async"}),
        (learn_off_policy, {}),
        (learn_off_policy, {"workers": WORKERS}),
        (learn_off_policy, {"workers": WORKERS, "sync_collection": False}),
    ],
    ids=["APPO", "lock step", "workers", "free workers"],
)
def test_a_signal_ends_a_run_whose_collectors_stand_still(
    learn: Any, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "END_SECONDS", 0.6)
    monkeypatch.setattr(transition_source, "REPLY_SECONDS", 0.3)
    monkeypatch.setattr(processes, "_STOP_SECONDS", 0.6)
    signalled = []

    def interrupt() -> None:
        signalled.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    def stop_collectors(progress: Any) -> bool:
        if progress.iteration == 3:
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGSTOP)
            threading.Timer(0.3, interrupt).start()
        return True

    # a second signal would end this process at once
    env = {"env": "tests.algos.appo.counting_env:CountingEnv"}
    summary = learn(iterations=10**9, log_dir=tmp_path, on_iteration=stop_collectors, **env, **changes)
    assert time.monotonic() - signalled[0] < 0.6 + CALM_SECONDS
    assert summary.stopped_by == "SIGINT"
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["progress"]["iteration"] == summary.progress.iteration >= 3
    if learn is learn_off_policy and not changes:
        assert saved["collection"]["collector"] is None
        on = {"iterations": summary.progress.iteration + 2, "resume": tmp_path / "checkpoint.pt"}
        resumed = learn(**on, **env, **changes).progress
        assert resumed.iteration == on["iterations"]
        assert resumed.collected_env_steps > summary.progress.collected_env_steps

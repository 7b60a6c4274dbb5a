"""Shared-memory segments: names, free space, leftovers, use after close."""

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from unilab.ipc.shared_memory import segments
from unilab.ipc.shared_memory.segments import LockHeldError, SegmentClosedError, SharedMemoryFullError


def test_the_name_carries_the_owner() -> None:
    segment = segments.create(100, "test")
    match = segments._NAME.fullmatch(segment.name)
    assert match is not None
    assert int(match["pid"]) == os.getpid()
    assert int(match["started"]) == segments.start_time(os.getpid())
    assert match["kind"] == "test"
    segment.close()
    segment.unlink()


def test_attached_handles_see_the_same_bytes_and_only_the_owner_unlinks() -> None:
    owner = segments.create(64, "test")
    other = segments.attach(owner.name)
    owner.array(0, (4,), np.int64)[:] = [1, 2, 3, 4]
    assert other.words(8, 3).tolist() == [2, 3, 4]
    other.unlink()
    other.close()
    assert (segments.ROOT / owner.name).exists()
    owner.unlink()
    owner.unlink()
    assert not (segments.ROOT / owner.name).exists()


def test_a_label_serves_to_attach() -> None:
    owner = segments.create(8, "test", label="my ring")
    assert segments.attach("my ring").name == owner.name
    with pytest.raises(FileNotFoundError, match="0 shared-memory segments are called 'another'"):
        segments.attach("another")
    owner.unlink()


def test_an_owner_that_is_collected_leaves_nothing() -> None:
    name = segments.create(8, "test").name
    assert not (segments.ROOT / name).exists()


def test_views_outlive_close_and_access_raises() -> None:
    segment = segments.create(1 << 16, "test")
    view = segment.array(0, (1 << 13,), np.int64)
    view[:] = 7
    segment.close()
    segment.close()
    segment.unlink()
    assert view.sum() == 7 << 13
    for access in (lambda: segment.memory, lambda: segment.array(0, (1,), np.int64), lambda: segment.words(0, 1)):
        with pytest.raises(SegmentClosedError, match="after close"):
            access()


def test_too_large_is_refused_with_need_free_and_remedy() -> None:
    status = os.statvfs(segments.ROOT)
    need = status.f_blocks * status.f_frsize + 1
    before = set(segments.ROOT.iterdir())
    with pytest.raises(SharedMemoryFullError, match=r"fewer environments.*--shm-size") as caught:
        segments.create(need, "rollouts")
    assert caught.value.need == need
    assert 0 <= caught.value.free < need
    assert f"needs {need} bytes" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert set(segments.ROOT.iterdir()) - before == set()


TINY_SHM = """
import os, pathlib, subprocess, sys
root = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(root)], check=True)
from unilab.ipc.shared_memory import segments
segments.ROOT = root
free = segments._free_bytes
answers = [1 << 40]   # as if another process took the space after the check
segments._free_bytes = lambda: answers.pop() if answers else free()
try:
    segments.create(2 << 20, "rollouts")
except segments.SharedMemoryFullError as error:
    print("refused", error.need, error.free, len(list(root.iterdir())))
first = segments.create(700 << 10, "first")
try:
    segments.create(700 << 10, "second")
except segments.SharedMemoryFullError as error:
    print("refused", error.need, error.free)
first.array(0, (700 << 10,), "uint8")[:] = 1
print("written")
"""


def test_a_full_file_system_is_an_error_and_no_bus_error(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if sys.platform != "linux" or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own")
    command = [*unshare, sys.executable, "-c", TINY_SHM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["refused", str(2 << 20), str(1 << 20), "0"]
    assert lines[1][:2] == ["refused", str(700 << 10)]
    assert int(lines[1][2]) < 700 << 10
    assert lines[2] == ["written"]


CRASH = """
import os, signal
from unilab.ipc.shared_memory import segments
segment = segments.create(4096, "test")
print(segment.name, flush=True)
os.killpg(0, signal.SIGKILL)
"""


def test_leftovers_of_a_crashed_run_are_removed_and_those_of_a_running_one_stay() -> None:
    crashed = subprocess.run(
        [sys.executable, "-c", CRASH], capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert crashed.returncode == -signal.SIGKILL
    name = crashed.stdout.strip()
    mine = segments.create(8, "test")
    same_pid_earlier = f"unilab.{segments._namespace():x}.{os.getpid()}.1.test.0"
    foreign = f"unilab.{segments._namespace() + 1:x}.999999999.1.test.0"
    unrelated = "unilab.txt"
    for extra in (same_pid_earlier, foreign, unrelated):
        (segments.ROOT / extra).touch()
    try:
        assert (segments.ROOT / name).exists()
        removed = segments.remove_leftovers()
        assert {name, same_pid_earlier} <= set(removed)
        assert not {mine.name, foreign, unrelated} & set(removed)
        assert not (segments.ROOT / name).exists()
        assert (segments.ROOT / mine.name).exists()
    finally:
        for extra in (foreign, unrelated):
            (segments.ROOT / extra).unlink()
    mine.unlink()


LEFTOVER = f"unilab.{segments._namespace():x}.999999999.1.someone"
"""of a process that is dead, or hidden"""


def test_what_belongs_to_another_user_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(segments, "ROOT", tmp_path)
    (tmp_path / LEFTOVER).touch()
    with monkeypatch.context() as another_user:
        another_user.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
        assert segments.remove_leftovers() == []
        with pytest.raises(FileNotFoundError, match="0 shared-memory segments are called 'someone'"):
            segments.attach("someone")
    assert segments.remove_leftovers() == [LEFTOVER]


def test_a_forked_process_holds_no_lock() -> None:
    segment = segments.create(8, "test")
    holder = segments.attach(segment.name)
    held = holder.locked()
    held.__enter__()
    receive, send = os.pipe()
    forked = os.fork()
    if forked == 0:
        signal.alarm(60)
        try:
            holder.locked().__enter__()
        except SegmentClosedError:
            os.write(send, b"refused")
        time.sleep(60)
    os.close(send)
    answer = os.read(receive, 8)
    holder._close()  # as if it had died
    with segment.locked():  # else an error
        lives = os.waitpid(forked, os.WNOHANG) == (0, 0)
    os.kill(forked, signal.SIGKILL)
    os.waitpid(forked, 0)
    os.close(receive)
    assert (answer, lives) == (b"refused", True)
    segment.unlink()


def test_a_lock_whose_holder_stands_still_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LOCK_SECONDS", 0.05, raising=False)
    segment = segments.create(8, "test")
    held = segments.attach(segment.name).locked()
    held.__enter__()
    with pytest.raises(LockHeldError, match=rf"{segment.name} has been locked .* stopped \(SIGSTOP"), segment.locked():
        pass
    held.__exit__(None, None, None)
    with segment.locked():
        pass
    segment.unlink()


WAIT_FOR_A_LOCK = """
import sys
from unilab.ipc.shared_memory import segments
segments.LOCK_SECONDS = float(sys.argv[2])
segment = segments.attach(sys.argv[1])
print("waiting", flush=True)
with segment.locked():
    print("taken")
"""


def waits_for(segment: segments.Segment, seconds: float) -> tuple[subprocess.Popen[str], IO[str]]:
    """A process that wants the lock, for so long at most; and what it prints next."""
    command = [sys.executable, "-c", WAIT_FOR_A_LOCK, segment.name, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    return process, process.stdout


def test_one_holder_at_a_time_between_processes_and_threads() -> None:
    segment = segments.create(8, "test")
    with segment.locked():
        waiting, output = waits_for(segment, seconds=4)
        assert not select.select([output], [], [], 0.1)[0]
        entered = threading.Event()

        def enter() -> None:
            with segment.locked():
                entered.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(60)
    thread.join()
    assert waiting.communicate(timeout=60)[0] == "taken\n"
    segment.unlink()


def test_a_pause_of_the_waiting_process_itself_does_not_count() -> None:
    segment = segments.create(8, "test")
    with segment.locked():
        waiting, _ = waits_for(segment, seconds=0.5)
        waiting.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        waiting.send_signal(signal.SIGCONT)
        time.sleep(0.02)
    assert waiting.communicate(timeout=60)[0] == "taken\n"
    segment.unlink()


def test_a_dead_process_has_no_start_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = segments.start_time(process.pid)
    assert started is not None
    assert started == segments.start_time(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert segments.start_time(process.pid) is None, "a zombie is dead"
    process.communicate()
    assert segments.start_time(process.pid) is None

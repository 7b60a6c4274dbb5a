"""Flags: wake-ups that no death and no order of events can lose."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.processes import wait_for_flag
from unilab.ipc import SharedFlag
from unilab.ipc.shared_memory import segments
from unilab.ipc.shared_memory.wakeup import Deadline


def test_a_flag_stays_set_for_everybody(spawn: Callable[..., Any]) -> None:
    flag = SharedFlag()
    assert not flag.is_set()
    assert not flag.wait(0.01)
    waiters = [spawn(wait_for_flag, flag) for _ in range(2)]
    for _ in range(100_000):  # more often than a pipe holds
        flag.set()
    for waiter in waiters:
        waiter.join(SPAWN_SECONDS)
        assert waiter.exitcode == 0
    assert flag.is_set()
    assert flag.wait()


def test_a_killed_waiter_harms_no_flag(quick: Callable[..., Any]) -> None:
    flag = SharedFlag()
    waiter = quick(wait_for_flag, flag)
    waiter.kill()
    waiter.join()
    assert not flag.is_set()
    flag.set()
    assert flag.is_set()


def test_a_flag_that_was_cleared_is_set_again_by_the_next_set_alone() -> None:
    flag = SharedFlag()
    flag.clear()
    for _ in range(100_000):
        flag.set()
    assert flag.wait(SPAWN_SECONDS)
    flag.clear()
    assert not flag.wait(0)
    flag.set()
    assert flag.is_set()


def test_another_flag_ends_the_wait() -> None:
    flag, end = SharedFlag(), SharedFlag()
    timer = threading.Timer(0.01, end.set)
    timer.start()
    assert not flag.wait(SPAWN_SECONDS, unless=end)
    timer.join()
    flag.set()
    assert flag.wait(SPAWN_SECONDS, unless=end), "it counts although the other one is set"


def test_a_deadline_ends_at_zero_and_ignores_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Deadline(-1).left() == 0
    deadline, started = Deadline(60), segments.start_time(os.getpid())
    for jump in (-86400, 86400):
        now = time.time() + jump
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            assert 0 < deadline.left() <= 60
            assert segments.start_time(os.getpid()) == started

"""Flags and bells: wake-ups that no death and no order of events can lose."""

import threading
from collections.abc import Callable
from multiprocessing.context import SpawnContext
from typing import Any

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.processes import wait_for_flag
from unilab.ipc import SharedFlag
from unilab.ipc.wakeup import Bell, Deadline


def test_a_flag_stays_set_for_everybody(spawn: Callable[..., Any], context: SpawnContext) -> None:
    flag = SharedFlag(context)
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


def test_a_killed_waiter_harms_no_flag(quick: Callable[..., Any], context: SpawnContext) -> None:
    flag = SharedFlag(context)
    waiter = quick(wait_for_flag, flag)
    waiter.kill()
    waiter.join()
    assert not flag.is_set()
    flag.set()
    assert flag.is_set()


def test_a_bell_rung_before_the_wait_is_heard_and_then_silent() -> None:
    bell = Bell()
    for _ in range(100_000):
        bell.ring()
    assert bell.wait(SPAWN_SECONDS)
    assert bell.wait(0)


def test_a_bell_says_when_the_flag_ended_the_wait() -> None:
    bell, flag = Bell(), SharedFlag()
    timer = threading.Timer(0.01, flag.set)
    timer.start()
    assert not bell.wait(SPAWN_SECONDS, unless=flag)
    timer.join()
    bell.ring()
    assert not bell.wait(SPAWN_SECONDS, unless=flag)


def test_a_deadline_ends_at_zero() -> None:
    assert Deadline(-1).left() == 0
    assert 0 < Deadline(60).left() <= 60

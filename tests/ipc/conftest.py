"""Every test here must leave no process and no shared memory behind."""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import pytest

from unilab.ipc.shared_memory import segments

SPAWN_SECONDS = 60.0
"""for a spawned process on a loaded machine to import torch and do its part"""


def own_segments() -> set[str]:
    prefix = segments._owner_prefix(os.getpid(), segments.start_time(os.getpid()) or 0)
    return {path.name for path in segments.ROOT.glob(f"{prefix}*")}


def own_children() -> set[int]:
    """Running child processes other than multiprocessing's own and a Ray cluster's, which live longer than a test."""
    helpers = ("resource_tracker", "forkserver", "/site-packages/ray/")
    commands = {}
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended, if only as a zombie of Ray's
            commands[child.pid] = " ".join(child.cmdline())
    return {pid for pid, command in commands.items() if not any(helper in command for helper in helpers)}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    segments_before, children_before = own_segments(), own_children()
    yield
    gc.collect()
    assert own_segments() - segments_before == set()
    assert own_children() - children_before == set()


@pytest.fixture
def context() -> SpawnContext:
    return multiprocessing.get_context("spawn")


@pytest.fixture
def spawn(context: SpawnContext) -> Iterator[Callable[..., BaseProcess]]:
    """Start ``target(*args)`` in a spawned process, which is ended with the test."""
    yield from _starter(context)


@pytest.fixture
def quick() -> Iterator[Callable[..., BaseProcess]]:
    """The same from a clean server that has imported everything, for tests that need many processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ipc.processes"])
    yield from _starter(context)


def _starter(context: Any) -> Iterator[Callable[..., BaseProcess]]:
    started: list[BaseProcess] = []

    def start(target: Callable[..., object], *args: object) -> BaseProcess:
        process = context.Process(target=target, args=args)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
        process.close()

"""What the tests run in spawned processes."""

import contextlib
import faulthandler
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch

from unilab.ipc import LatestValue, RolloutRingBuffer, SharedFlag, SharedWeightSync
from unilab.ipc.collector_process import report_step


def stamp(ring: RolloutRingBuffer, number: int) -> None:
    """Fill every element of the rollout being written with its number, so that any mixture shows."""
    for array in ring.write_buffer.values():
        array.fill(number)
    ring.policy_version = number


def stamped(ring: RolloutRingBuffer) -> int:
    """The number of the rollout being read, all of whose elements must carry it."""
    number = ring.read_policy_version
    for name, view in ring.read_numpy_views().items():
        assert (view == number).all(), f"torn: {name} of rollout {number} has {np.unique(view)}"
    return number


def write_rollouts(ring: RolloutRingBuffer, stop: SharedFlag, ready: SharedFlag | None = None) -> None:
    """Write stamped rollouts as fast as possible until stopped or killed."""
    number = ring.written
    while not stop.is_set():
        if ring.when_full == "wait" and not ring.wait_for_space(unless=stop):
            continue
        stamp(ring, number)
        ring.signal_write_done()
        number += 1
        if ready is not None:
            ready.set()


def read_rollouts(ring: RolloutRingBuffer, ready: SharedFlag) -> None:
    """Read and check rollouts until killed."""
    while True:
        if ring.wait_for_data():
            stamped(ring)
            ring.advance_read()
            ready.set()


def hold_lock_until_killed(ring: RolloutRingBuffer, ready: SharedFlag) -> None:
    with ring._segment.lock:
        ready.set()
        time.sleep(600)


def write_weights_for_ever(sync: SharedWeightSync, stop: SharedFlag) -> None:
    """Publish versions all of whose elements equal the version modulo 100."""
    weights = {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in sync.param_shapes.items()}
    while not stop.is_set():
        for value in weights.values():
            value.fill_((sync.version + 1) % 100)
        sync.write_weights(weights)


def die_while_writing(sync: SharedWeightSync) -> None:
    def fill(buffer: int) -> None:
        sync._buffers[buffer][0].fill_(99)
        os.kill(os.getpid(), signal.SIGKILL)

    with sync._lock:
        sync._latest.write(fill)


def put_for_ever(mailbox: LatestValue, ready: SharedFlag) -> None:
    number = 0
    while True:
        mailbox.put({"number": number, "array": np.full(1000, number)})
        number += 1
        if number == 10:
            ready.set()


def get_once(mailbox: LatestValue, answer: Connection) -> None:
    answer.send_bytes(pickle.dumps(mailbox.get()))


def wait_for_flag(flag: SharedFlag) -> None:
    flag.wait()


# Collectors


def step_then_raise(stop: SharedFlag, error: Callable[[], Exception]) -> None:
    report_step(1234)
    raise error()


def step_until_stopped(stop: SharedFlag, step: int, pids: Connection | None = None) -> None:
    report_step(step)
    if pids is not None:
        pids.send(os.getpid())
    stop.wait()


def return_at_once() -> None:
    """Ends by itself, which no collector may."""


def exit_with(code: int) -> None:
    sys.exit(code)


def print_then_crash() -> None:
    print("loading the terrain", flush=True)
    faulthandler._sigsegv()


def ignore_the_stop(ready: SharedFlag) -> None:
    ready.set()
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(600)


def compute_for_ever(pids: Connection) -> None:
    """A collector that never looks at anything."""
    pids.send(os.getpid())
    while True:
        sum(range(10_000))


class UnpicklableError(Exception):
    """Cannot be made from its args, so unpickling it fails."""

    def __init__(self, first: int, *, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.hook = lambda: None


def unpicklable() -> Exception:
    return UnpicklableError(1, second=2)


def plain_error() -> Exception:
    return ValueError("joint 3 has no limits")


class BrokenArgument:
    """Fails where it is unpickled, in the collector."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return _fail_to_load, ("the argument is broken",)


def _fail_to_load(text: str) -> object:
    raise RuntimeError(text)

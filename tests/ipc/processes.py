"""What the tests run in spawned processes."""

import os
import pickle
import signal
import time
from multiprocessing.connection import Connection

import numpy as np
import torch

from unilab.ipc import LatestValue, RolloutRingBuffer, SharedFlag, SharedWeightSync


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


def write_rollouts(
    ring: RolloutRingBuffer, stop: SharedFlag, ready: SharedFlag | None = None, waits: bool = False
) -> None:
    """Write stamped rollouts as fast as possible until stopped or killed."""
    number = ring.written
    while not stop.is_set():
        if waits and not ring.wait_for_space(unless=stop):
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
    with ring._segment.locked():
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

    sync._publish(fill)


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

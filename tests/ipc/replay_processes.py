"""Transitions that prove their own integrity, and the processes that add them."""

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from unilab.ipc import ReplayBuffer, SharedFlag

OBS, ACTIONS = 5, 2
MODULUS = 8191
LIMIT = 2**24
"""of counters: float32 holds smaller integers exactly"""


def buffer(capacity: int, **options: Any) -> ReplayBuffer:
    return ReplayBuffer(capacity, OBS, ACTIONS, "cpu", **options)


def counted(counters: Any) -> dict[str, np.ndarray]:
    """Arguments of add(): in each row every number follows from its counter, which is the reward (below LIMIT)."""
    base = np.asarray(counters, dtype=np.int64).reshape(-1, 1)
    return {
        "obs": (base + np.arange(OBS)) % MODULUS,
        "actions": (3 * base + np.arange(ACTIONS)) % MODULUS,
        "rewards": base[:, 0],
        "next_obs": (7 * base + np.arange(OBS)) % MODULUS,
        "dones": base[:, 0] % 2 == 0,
        "truncated": base[:, 0] % 4 == 0,
    }


def counters_of(replay: ReplayBuffer, packed: torch.Tensor) -> np.ndarray:
    """The counters of packed rows, each of which must be whole."""
    found = {name: value.numpy() for name, value in replay.fields(packed).items()}
    counters = found["rewards"].astype(np.int64)
    for name, values in counted(counters).items():
        wrong = values != found[name]
        torn = np.flatnonzero(wrong.any(1) if wrong.ndim == 2 else wrong)
        assert not torn.size, f"torn: {name} of row {counters[torn[0]]} is {found[name][torn[0]]}"
    return counters


def contents(replay: ReplayBuffer) -> list[int]:
    """The counters of all rows that can be sampled, oldest first."""
    return counters_of(replay, replay.rows(*replay.window)).tolist()


def sampled(replay: ReplayBuffer, batch_size: int = 64) -> list[int]:
    """The counters of a random batch."""
    return counters_of(replay, replay.sample_packed(batch_size)).tolist()


def add_range(replay: ReplayBuffer, first: int, stop: int, batch: int) -> None:
    """Add the counters [first, stop)."""
    for start in range(first, stop, batch):
        replay.add(**counted(np.arange(start, min(start + batch, stop))))


def add_until_stopped(replay: ReplayBuffer, batch: int, stop: SharedFlag) -> None:
    """Add rows whose counters are their numbers modulo LIMIT."""
    first = replay.written
    while not stop.is_set():
        replay.add(**counted(np.arange(first, first + batch) % LIMIT))
        first += batch


def add_until_killed(replay: ReplayBuffer, first: int, ready: SharedFlag) -> None:
    """Add batches of every size for ever, the first of them before ``ready``."""
    number = 0
    while True:
        batch = 1 + 37 * number % 600
        replay.add(**counted(first + np.arange(batch)))
        ready.set()
        number += 1


def add_on_request(replay: ReplayBuffer, requests: Connection) -> None:
    """Add the counters [first, stop) for each pair that comes, and say so."""
    while (span := requests.recv()) is not None:
        replay.add(**counted(np.arange(*span)))
        requests.send(replay.written)


class MortalWords:
    """The words of a replay buffer's header; before one of its stores the writer ends as ``die`` says."""

    def __init__(self, replay: ReplayBuffer, stores: int, die: Callable[[], object]) -> None:
        self._words, self._left, self._die = replay._words, stores, die

    def __getitem__(self, index: int) -> int:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if self._left == 0:
            self._die()
        self._left -= 1
        self._words[index] = value


def die_in_the_middle_of_rows(replay: ReplayBuffer, count: int) -> None:
    """Be killed when the second part of the rows is written and not yet told of."""
    words = MortalWords(replay, 3, lambda: os.kill(os.getpid(), signal.SIGKILL))
    replay._words = words  # type: ignore[assignment]
    replay.add(**counted([7] * count))

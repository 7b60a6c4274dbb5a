"""The replay buffer between processes: no row is torn or lost, whoever is faster and whoever dies."""

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.replay_processes import (
    LIMIT,
    add_range,
    add_until_killed,
    add_until_stopped,
    buffer,
    contents,
    counted,
    counters_of,
    die_in_the_middle_of_rows,
    sampled,
)
from unilab.ipc import SharedFlag

KILLS = 10


@pytest.mark.parametrize(("capacity", "batch"), [(20_000, 1024), (20_000, 4096), (3000, 64)])
def test_millions_of_rows_and_none_is_torn(capacity: int, batch: int, quick: Callable[..., Any]) -> None:
    rows = 2_000_000 if batch > 64 else 200_000
    replay, stop = buffer(capacity), SharedFlag()
    replay.add(**counted(np.arange(batch)))
    writer = quick(add_until_stopped, replay, batch, stop)
    looks = written = 0
    out = torch.empty(2048, replay.width)
    while looks < 100 or written < rows:
        assert replay.written >= written
        written = replay.written
        ages = (counters_of(replay, replay.sample_packed(2048, out)) - written) % LIMIT
        assert ((ages >= LIMIT - capacity) | (ages < replay.written - written)).all(), "older than the ring, or not yet"
        copied = counters_of(replay, replay.rows(written - 500, written))
        assert (copied == np.arange(written - len(copied), written) % LIMIT).all()
        looks += 1
    stop.set()
    writer.join(SPAWN_SECONDS)
    assert writer.exitcode == 0
    assert contents(replay) == [number % LIMIT for number in range(replay.written - capacity, replay.written)]
    replay.cleanup()


def test_several_writers_take_turns_and_lose_nothing(quick: Callable[..., Any]) -> None:
    each, batch = 300_000, 512
    replay = buffer(30_000)
    writers = [quick(add_range, replay, 4_000_000 * number, 4_000_000 * number + each, batch) for number in range(3)]
    while any(writer.is_alive() for writer in writers):
        if len(replay):
            sampled(replay, 2048)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert (replay.written, len(replay)) == (3 * each, 30_000)
    numbers = contents(replay)
    assert len(set(numbers)) == 30_000
    assert all(number % 4_000_000 < each for number in numbers)
    replay.cleanup()


def test_a_writer_killed_in_the_middle_of_its_rows(quick: Callable[..., Any]) -> None:
    replay = buffer(1000)
    replay.add(**counted(np.arange(900)))
    writer = quick(die_in_the_middle_of_rows, replay, 300)
    writer.join(SPAWN_SECONDS)
    assert writer.exitcode == -9
    assert (replay.written, replay.window) == (1000, (125, 1000)), "a part of 100 rows is there, another is not"
    assert contents(replay) == [*range(125, 900), *[7] * 100]
    for first in range(1000, 2000, 50):
        replay.add(**counted(np.arange(first, first + 50)))
        assert set(sampled(replay, 4096)) <= {*range(125, 900), 7, *range(1000, first + 50)}
        assert len(replay) == min(1000, first + 50 - 125)
    assert contents(replay) == list(range(1000, 2000))
    replay.cleanup()


def test_a_writer_killed_at_any_instant_harms_nobody(quick: Callable[..., Any]) -> None:
    replay = buffer(5000)
    instants = random.Random(1)
    counter = 0
    for number in range(KILLS):
        ready = SharedFlag()
        writer = quick(add_until_killed, replay, number * 1_000_000, ready)
        assert ready.wait(SPAWN_SECONDS)
        for _ in range(instants.randrange(20)):
            sampled(replay, 512)
        time.sleep(instants.uniform(0, 0.001))  # anywhere in what the writer does
        writer.kill()
        writer.join()
        before = replay.written
        replay.add(**counted(np.arange(counter, counter + 700)))
        counter += 700
        assert replay.written >= before
        sampled(replay, 2048)
    for _ in range(20):
        replay.add(**counted(np.arange(counter, counter + 500)))
        counter += 500
    assert contents(replay) == list(range(counter - 5000, counter))
    assert len(replay) == 5000
    replay.cleanup()

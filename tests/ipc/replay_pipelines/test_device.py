"""The pipeline that keeps a copy of the replay buffer: each row once, whole, and the batches of the buffer itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.replay_processes import LIMIT, add_until_stopped, buffer, counted, counters_of
from unilab.ipc import ReplayBuffer, SharedFlag
from unilab.ipc.replay_pipelines.device import DevicePipeline


def contents(replay: ReplayBuffer, pipeline: DevicePipeline) -> list[int]:
    """The counters of all rows that it draws from, which are whole."""
    return counters_of(replay, pipeline._rows[torch.arange(*pipeline._window) % replay.capacity]).tolist()


def test_each_row_is_copied_once() -> None:
    replay = buffer(100)
    pipeline = DevicePipeline(replay, 1, "cpu", seed=0)
    assert pipeline.copy_new_rows() == 0
    copied = []
    for first in range(0, 260, 26):
        replay.add(**counted(np.arange(first, first + 26)))
        copied.append(pipeline.copy_new_rows())
        assert contents(replay, pipeline) == list(range(max(0, first - 74), first + 26))
    assert copied == [26] * 10
    replay.add(**counted(np.arange(260, 420)))  # a lap between two looks
    assert pipeline.copy_new_rows() == 100
    assert contents(replay, pipeline) == list(range(320, 420))
    replay.cleanup()


@pytest.mark.parametrize("added", [60, 100, 250])
def test_the_same_batches_as_from_the_buffer(added: int) -> None:
    replay = buffer(100, seed=8)
    replay.add(**counted(np.arange(added)))
    pipeline = DevicePipeline(replay, 32, "cpu", seed=8)
    for _ in range(3):
        batch, wanted = pipeline.next_batch(), replay.sample(32)
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
    replay.cleanup()


def test_held_rows_stay_while_others_are_added() -> None:
    replay = buffer(100)
    pipeline = DevicePipeline(replay, 1, "cpu", seed=0)
    replay.add(**counted(np.arange(150)))
    replay.hold(20)
    pipeline.copy_new_rows()
    assert contents(replay, pipeline) == list(range(70, 150))
    replay.add(**counted(np.arange(150, 170)))
    assert pipeline.copy_new_rows() == 0
    assert contents(replay, pipeline) == list(range(70, 150))
    replay.release()
    assert pipeline.copy_new_rows() == 20
    assert contents(replay, pipeline) == list(range(70, 170))
    replay.cleanup()


def test_loaded_contents_replace_those_copied() -> None:
    replay = buffer(50)
    pipeline = DevicePipeline(replay, 1, "cpu", seed=0)
    replay.add(**counted(np.arange(40)))
    state, own = replay.state_dict(include_rows=True), pipeline.state_dict()
    replay.add(**counted(np.arange(1000, 1040)))
    pipeline.copy_new_rows()
    for rows, kept in ((state["rows"], range(40)), (None, range(0))):
        replay.load_state_dict(state | {"rows": rows})
        pipeline.load_state_dict(own)
        pipeline.copy_new_rows()
        assert contents(replay, pipeline) == list(kept)
    replay.cleanup()


def test_nothing_is_torn_while_another_process_laps_it(quick: Callable[..., Any]) -> None:
    replay, stop = buffer(20_000), SharedFlag()
    pipeline = DevicePipeline(replay, 512, "cpu", seed=0)
    writer = quick(add_until_stopped, replay, 256, stop)
    looks = 0
    while looks < 25:
        pipeline.copy_new_rows()
        low, high = pipeline._window
        assert contents(replay, pipeline) == [number % LIMIT for number in range(low, high)]
        looks += high > low
    stop.set()
    writer.join(SPAWN_SECONDS)
    assert writer.exitcode == 0
    pipeline.copy_new_rows()
    assert contents(replay, pipeline) == [number % LIMIT for number in range(replay.written - 20_000, replay.written)]
    replay.cleanup()

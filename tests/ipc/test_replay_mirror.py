"""The copy of a replay buffer on a device: each row once, whole, and the same batches as from the buffer itself."""

from collections.abc import Callable
from multiprocessing.context import SpawnContext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.replay_processes import LIMIT, add_until_stopped, buffer, counted, counters_of
from tests.ipc.replay_writers import ACTS, Writers
from unilab.ipc import ReplayBuffer, ReplayEmptyError, SharedFlag
from unilab.ipc.replay.mirror import DeviceMirror
from unilab.ipc.replay.window import without


def numbers_of(mirror: DeviceMirror) -> torch.Tensor:
    """The numbers of all rows that the mirror samples from."""
    window = mirror.window
    spans = without([(window.low, window.high)], window.holes)
    numbers = torch.cat([torch.arange(0), *(torch.arange(*span) for span in spans)])
    assert len(numbers) == len(window)
    return numbers


def contents(replay: ReplayBuffer, mirror: DeviceMirror) -> list[int]:
    """The counters of all rows that the mirror samples from, which are whole."""
    return counters_of(replay, mirror._rows[numbers_of(mirror) % replay.capacity]).tolist()


def test_each_row_is_copied_once() -> None:
    replay = buffer(100)
    mirror = DeviceMirror(replay, "cpu")
    assert mirror.update() == 0
    with pytest.raises(ReplayEmptyError):
        mirror.sample_packed(1, torch.Generator())
    copied = []
    for first in range(0, 260, 26):
        replay.add(**counted(np.arange(first, first + 26)))
        copied.append(mirror.update())
        assert mirror.window == replay.sampling_window()
        assert contents(replay, mirror) == list(range(max(0, first - 74), first + 26))
    assert copied == [26] * 10
    replay.add(**counted(np.arange(260, 420)))  # a lap between two looks
    assert mirror.update() == 100
    assert contents(replay, mirror) == list(range(320, 420))
    replay.cleanup()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 24),
    st.lists(
        st.one_of(ACTS, st.tuples(st.sampled_from(["update", "hold", "release"]), st.just(0), st.integers(0, 30)))
    ),
)
def test_what_it_samples_is_whole_whatever_writers_do(capacity: int, acts: list[tuple[str, int, int]]) -> None:
    writers = Writers(capacity, 3)
    replay = writers.replay
    mirror = DeviceMirror(replay, "cpu")
    for act, writer, count in acts:
        if act == "hold":
            replay.hold(min(count, capacity - 1))
        elif act == "release":
            replay.release()
        else:
            writers.act(act, writer, count)
        if act in ("hold", "update"):
            mirror.update()
        kept = contents(replay, mirror)
        if kept:
            assert set(counters_of(replay, mirror.sample_packed(20, torch.Generator()))) <= set(kept)
    replay.release()
    for writer in range(3):
        writers.finish(writer)
    mirror.update()
    assert set(contents(replay, mirror)) <= set(counters_of(replay, replay.rows(*replay.window)))
    for _ in range(3 * capacity):  # once around, holes of dead writers are written over
        writers.add(1)
        mirror.update()
    assert mirror.window == replay.sampling_window()
    assert contents(replay, mirror) == list(range(writers.counter - capacity, writers.counter))
    writers.close()


@pytest.mark.parametrize("added", [60, 100, 250])
def test_the_same_batches_as_from_the_buffer(added: int) -> None:
    replay = buffer(100, seed=8)
    replay.add(**counted(np.arange(added)))
    mirror = DeviceMirror(replay, "cpu")
    mirror.update()
    generator = torch.Generator().manual_seed(8)
    out = torch.empty(32, replay.width)
    for _ in range(3):
        assert mirror.sample_packed(32, generator, out) is out
        assert torch.equal(out, replay.sample_packed(32))
    replay.cleanup()


def test_held_rows_stay_while_others_are_added() -> None:
    replay = buffer(100)
    mirror = DeviceMirror(replay, "cpu")
    replay.add(**counted(np.arange(150)))
    replay.hold(20)
    mirror.update()
    assert contents(replay, mirror) == list(range(70, 150))
    replay.add(**counted(np.arange(150, 170)))
    assert mirror.update() == 0
    assert contents(replay, mirror) == list(range(70, 150))
    replay.release()
    assert mirror.update() == 20
    assert contents(replay, mirror) == list(range(70, 170))
    replay.cleanup()


def test_loaded_contents_replace_those_copied() -> None:
    replay = buffer(50)
    mirror = DeviceMirror(replay, "cpu")
    replay.add(**counted(np.arange(40)))
    state = replay.state_dict(include_rows=True)
    replay.add(**counted(np.arange(1000, 1040)))
    mirror.update()
    replay.load_state_dict(state)
    mirror.update()
    assert contents(replay, mirror) == list(range(40))
    replay.load_state_dict(state | {"rows": None})
    mirror.update()
    assert contents(replay, mirror) == []
    replay.cleanup()


def test_nothing_is_torn_while_another_process_laps_it(quick: Callable[..., Any], context: SpawnContext) -> None:
    replay, stop = buffer(20_000), SharedFlag(context)
    mirror = DeviceMirror(replay, "cpu")
    writer = quick(add_until_stopped, replay, 256, stop)
    generator, looks = torch.Generator(), 0
    while looks < 25:
        mirror.update()
        assert contents(replay, mirror) == (numbers_of(mirror) % LIMIT).tolist()
        if len(mirror.window):
            counters_of(replay, mirror.sample_packed(512, generator))
            looks += 1
    stop.set()
    writer.join(SPAWN_SECONDS)
    assert writer.exitcode == 0
    mirror.update()
    assert contents(replay, mirror) == [number % LIMIT for number in range(replay.written - 20_000, replay.written)]
    replay.cleanup()

"""Every replay pipeline through one contract, on the real replay buffer."""

import io
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch

from tests.ipc.replay_pipelines.rows import (
    ACTIONS,
    BATCH,
    CAPACITY,
    OBS,
    MakePipeline,
    MakeReplay,
    add_rows,
    drawn,
    numbers_of,
    row_numbers,
)
from unilab.ipc.replay_buffer import ReplayBuffer, ReplayEmptyError
from unilab.ipc.replay_pipelines import ReplayPipeline

KINDS = ["direct", "prefetch", "prefetch with streams", "device"]
WRITTEN = 4000
"""rows that the collector process adds"""


def through_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_whole_rows_of_the_window(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    replay = make_replay(CAPACITY + 40)
    pipeline = make(kind, replay)
    batch = pipeline.next_batch()
    assert {name: list(value.shape) for name, value in batch.items()} == {
        "obs": [BATCH, OBS],
        "actions": [BATCH, ACTIONS],
        "rewards": [BATCH],
        "dones": [BATCH],
        "truncated": [BATCH],
        "next_obs": [BATCH, OBS],
    }
    assert {value.dtype for value in batch.values()} == {torch.float32}
    assert drawn(pipeline, 60) == set(range(40, CAPACITY + 40))  # a row is missed with probability e-13


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_users_until_the_next_call(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    replay = make_replay(CAPACITY)
    pipeline = make(kind, replay)
    for _ in range(4):
        batch = pipeline.next_batch()
        row_numbers(batch)
        before = {name: value.clone() for name, value in batch.items()}
        add_rows(replay, CAPACITY)
        pipeline.refresh()
        assert all(torch.equal(batch[name], value) for name, value in before.items())
        for value in batch.values():
            value.fill_(-1)
        batch.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_held_rows_alone_are_drawn_while_others_are_added(
    kind: str, make_replay: MakeReplay, make: MakePipeline
) -> None:
    replay = make_replay(CAPACITY)
    pipeline = make(kind, replay)
    pipeline.refresh()
    replay.hold(16)
    seen = drawn(pipeline, 20)
    add_rows(replay, 16)
    assert seen | drawn(pipeline, 40) == set(range(16, CAPACITY))

    pipeline.refresh()
    replay.hold(8)
    first = drawn(pipeline, 1)  # prefetch drew it before the window moved
    assert first <= (set(range(16, CAPACITY)) if "prefetch" in kind else set(range(24, CAPACITY + 16)))
    assert drawn(pipeline, 60) == set(range(24, CAPACITY + 16))

    pipeline.refresh()
    replay.release()
    add_rows(replay, 8)
    drawn(pipeline, 1)
    assert drawn(pipeline, 60) == set(range(24, CAPACITY + 24))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_added_meanwhile_are_drawn_without_a_hold(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    replay = make_replay(4)
    pipeline = make(kind, replay)
    for rows in (4, 20, CAPACITY, CAPACITY + 30):
        add_rows(replay, rows - replay.written)
        drawn(pipeline, 1)
        assert drawn(pipeline, 60) == set(range(max(0, rows - CAPACITY), rows))


def iterations(replay: ReplayBuffer, pipeline: ReplayPipeline, start: int, count: int) -> list[list[int]]:
    """Some iterations in lock step: hold, rows come in between the batches, release."""
    seen = []
    for iteration in range(start, start + count):
        pipeline.refresh()
        replay.hold(12)
        for _ in range(3):
            seen += numbers_of(pipeline, 1)
            add_rows(replay, 4)
        assert replay.written == CAPACITY // 2 + 12 * (iteration + 1)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_batches(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    runs = []
    for _ in range(2):
        replay = make_replay(CAPACITY // 2)
        runs.append(iterations(replay, make(kind, replay), 0, 8))
    assert runs[0] == runs[1]
    assert len({tuple(batch) for batch in runs[0]}) == 24  # no batch twice


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [0, 5])
def test_a_resumed_run_gets_the_same_batches(kind: str, done: int, make_replay: MakeReplay, make: MakePipeline) -> None:
    replay = make_replay(CAPACITY // 2)
    pipeline = make(kind, replay)
    iterations(replay, pipeline, 0, done)
    state = through_file({"pipeline": pipeline.state_dict(), "replay": replay.state_dict(include_rows=True)})
    expected = iterations(replay, pipeline, done, 6)

    resumed_replay = make_replay(5, seed=99)
    resumed = make(kind, resumed_replay)
    numbers_of(resumed, 2)
    resumed.refresh()
    resumed_replay.load_state_dict(state["replay"])
    resumed.load_state_dict(state["pipeline"])
    assert iterations(resumed_replay, resumed, done, 6) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_taking_the_state_changes_nothing(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    runs = []
    for take in (False, True):
        pipeline = make(kind, make_replay(CAPACITY))
        seen = []
        for _ in range(5):
            seen += numbers_of(pipeline, 1)
            if take:
                pipeline.state_dict()
        runs.append(seen)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_another_kind_is_refused(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    replay = make_replay(CAPACITY)
    pipeline, other = make(kind, replay), make("direct" if kind != "direct" else "prefetch", replay)
    own = pipeline.state_dict()["kind"]
    theirs = other.state_dict()
    with pytest.raises(ValueError, match=f"kind '{theirs['kind']}', not '{own}'; resume with pipeline"):
        pipeline.load_state_dict(theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_buffer_is_an_error_until_it_has_rows(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    replay = make_replay()
    pipeline = make(kind, replay)
    for _ in range(2):
        with pytest.raises(ReplayEmptyError):
            pipeline.next_batch()
    add_rows(replay, 3)
    assert drawn(pipeline, 3) == {0, 1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_close_is_final_and_idempotent(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    replay = make_replay(CAPACITY)
    pipeline = make(kind, replay)
    batch = pipeline.next_batch()
    pipeline.close()
    pipeline.close()
    row_numbers(batch)  # what was handed out stays readable
    with pytest.raises(RuntimeError, match=r"used after close\(\)"):
        pipeline.next_batch()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_size_below_one_is_refused(kind: str, make_replay: MakeReplay, make: MakePipeline) -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1 transition a batch, got 0"):
        make(kind, make_replay(4), 0)


def write_rows(replay: ReplayBuffer, count: int) -> None:
    """Entry of a collector process."""
    for start in range(CAPACITY, CAPACITY + count, 8):
        add_rows(replay, 8, start)
    replay.close()


def test_rows_are_whole_while_another_process_writes(
    make_replay: MakeReplay, make: MakePipeline, spawn: Callable[..., BaseProcess]
) -> None:
    replay = make_replay(CAPACITY)
    pipelines = [make(kind, replay) for kind in KINDS]
    writer = spawn(write_rows, replay, WRITTEN)
    while replay.written < CAPACITY + WRITTEN and writer.is_alive():
        for pipeline in pipelines:
            pipeline.refresh()  # they share one replay buffer, which samples for one at a time
            row_numbers(pipeline.next_batch())
            pipeline.refresh()
    writer.join()
    assert (writer.exitcode, replay.written) == (0, CAPACITY + WRITTEN)

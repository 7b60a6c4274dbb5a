"""The pipeline that samples and copies one batch ahead, in a thread."""

import gc
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ipc.replay_pipelines.conftest import prefetch_threads
from tests.ipc.replay_pipelines.rows import (
    BATCH,
    CAPACITY,
    MakePipeline,
    MakeReplay,
    add_rows,
    numbers_of,
    row_numbers,
)
from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines.host import PrefetchPipeline


class Gate:
    """Lets the replay buffer sample once for each permit."""

    def __init__(self, replay: ReplayBuffer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._permits = threading.Semaphore(0)
        self.permit = self._permits.release
        sample_packed = replay.sample_packed

        def sample_later(*args: Any, **kwargs: Any) -> Tensor:
            self.calls += 1
            assert self._permits.acquire(timeout=60)
            return sample_packed(*args, **kwargs)

        monkeypatch.setattr(replay, "sample_packed", sample_later)


def test_prefetch_gives_the_batches_of_direct(make_replay: MakeReplay, make: MakePipeline) -> None:
    direct, ahead = make("direct", make_replay(CAPACITY)), make("prefetch", make_replay(CAPACITY))
    for _ in range(20):
        expected, batch = direct.next_batch(), ahead.next_batch()
        assert all(torch.equal(batch[name], value) for name, value in expected.items())


def test_batches_do_not_depend_on_when_the_thread_samples(
    make_replay: MakeReplay, make: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt_replay, late_replay = make_replay(CAPACITY // 2), make_replay(CAPACITY // 2)
    prompt, late = make("prefetch", prompt_replay), make("prefetch", late_replay)
    gate = Gate(late_replay, monkeypatch)
    seen: dict[str, list[list[int]]] = {"prompt": [], "late": []}
    for _ in range(6):
        prompt.refresh()
        prompt_replay.hold(12)
        gate.permit()
        late.refresh()
        late_replay.hold(12)
        for batch in range(3):
            seen["prompt"] += numbers_of(prompt, 1)
            prompt.refresh()  # here the next batch is sampled before these rows are added, ...
            add_rows(prompt_replay, 4)

            if batch > 0:
                gate.permit()
            seen["late"] += numbers_of(late, 1)
            add_rows(late_replay, 4)  # ... here after
    gate.permit()
    assert seen["late"] == seen["prompt"]


def test_one_batch_is_ahead_and_it_is_asked_for_in_next_batch(
    make_replay: MakeReplay, make: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make_replay(CAPACITY)
    gate = Gate(replay, monkeypatch)
    gate.permit(10)
    pipeline = make("prefetch", replay)
    pipeline.refresh()
    assert gate.calls == 0
    for batches in range(1, 4):
        pipeline.next_batch()
        pipeline.refresh()
        pipeline.refresh()
        assert gate.calls == batches + 1


def test_an_error_in_the_thread_is_raised_at_the_next_call(
    make_replay: MakeReplay, make: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make_replay(CAPACITY)
    pipeline = make("prefetch", replay)

    def broken_sampling(*_: Any, **__: Any) -> Tensor:
        raise ZeroDivisionError("a broken row")

    calls: list[Callable[[], object]] = [pipeline.next_batch, pipeline.refresh, pipeline.state_dict]
    for call in calls:
        pipeline.next_batch()
        pipeline.refresh()
        with monkeypatch.context() as patch:
            patch.setattr(replay, "sample_packed", broken_sampling)
            batch = pipeline.next_batch()  # hands out the good batch and asks for the one that fails
            row_numbers(batch)
            with pytest.raises(ZeroDivisionError, match="a broken row") as caught:
                call()
        assert "broken_sampling" in "".join(traceback.format_exception(caught.value))
        row_numbers(pipeline.next_batch())


def test_close_drops_an_error_that_nobody_asked_for(
    make_replay: MakeReplay, make: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make_replay(CAPACITY)
    pipeline = make("prefetch", replay)
    pipeline.next_batch()
    pipeline.refresh()
    monkeypatch.setattr(replay, "sample_packed", lambda batch_size, out: 1 // 0)
    pipeline.next_batch()
    pipeline.close()
    assert not prefetch_threads()


def test_the_thread_ends_with_a_pipeline_that_is_dropped(make_replay: MakeReplay) -> None:
    pipeline = PrefetchPipeline(make_replay(CAPACITY), BATCH, "cpu")
    pipeline.next_batch()
    (thread,) = prefetch_threads()
    del pipeline
    gc.collect()
    assert not thread.is_alive()


def test_the_thread_takes_one_intra_op_thread_and_leaves_the_others_alone(
    make_replay: MakeReplay, make: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = make_replay(CAPACITY)
    counts = []
    sample_packed = replay.sample_packed

    def count_threads(*args: Any, **kwargs: Any) -> Tensor:
        counts.append(torch.get_num_threads())
        return sample_packed(*args, **kwargs)

    monkeypatch.setattr(replay, "sample_packed", count_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        make("prefetch", replay).next_batch()
        later = threading.Thread(target=lambda: counts.append(-torch.get_num_threads()))
        later.start()
        later.join()
        assert torch.get_num_threads() == 3
        assert set(counts) == {1, -3}
    finally:
        torch.set_num_threads(before)


def test_a_saved_batch_of_another_shape_is_refused(make_replay: MakeReplay, make: MakePipeline) -> None:
    replay = make_replay(CAPACITY)
    saved = make("prefetch", replay, 16)
    saved.next_batch()
    with pytest.raises(ValueError, match=r"the saved batch is \[16, 11\], expected \[32, 11\]"):
        make("prefetch", replay).load_state_dict(saved.state_dict())

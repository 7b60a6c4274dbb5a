"""Every replay pipeline through one contract, on the real replay buffer; then what is special in each of them."""

import gc
import io
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch
from torch import Tensor

from unilab.ipc.replay_buffer import ReplayBuffer, ReplayEmptyError
from unilab.ipc.replay_pipelines import ReplayPipeline, build_pipeline, prefetch
from unilab.ipc.replay_pipelines.batch_buffer import PlainBuffer, StreamBuffer
from unilab.ipc.replay_pipelines.choose import choose_kind
from unilab.ipc.replay_pipelines.device_resident import DeviceResidentPipeline, mirror_bytes
from unilab.ipc.replay_pipelines.prefetch import PrefetchPipeline

CAPACITY, BATCH, OBS, ACTIONS = 64, 32, 3, 2
KINDS = ["direct", "prefetch", "prefetch with streams", "device"]
WRITTEN = 4000
"""rows that the collector process adds"""
CPU = torch.device("cpu")

Batch = dict[str, Tensor]
MakeReplay = Callable[..., ReplayBuffer]
MakePipeline = Callable[..., ReplayPipeline]


def add_rows(replay: ReplayBuffer, count: int, start: int | None = None) -> None:
    """Rows that prove themselves: everything in row n follows from n, which is its reward."""
    first = replay.written if start is None else start
    number = torch.arange(first, first + count, dtype=torch.float32)
    obs = number[:, None] + torch.arange(OBS) / 8
    replay.add(obs, obs[:, :ACTIONS] / 4, number, obs + 0.5, number % 2, number % 4 == 3)


def row_numbers(batch: Batch) -> Tensor:
    """Numbers of the rows of a batch, each of which must be whole."""
    number = batch["rewards"]
    obs = number[:, None] + torch.arange(OBS) / 8
    assert torch.equal(batch["obs"], obs)
    assert torch.equal(batch["actions"], obs[:, :ACTIONS] / 4)
    assert torch.equal(batch["next_obs"], obs + 0.5)
    assert torch.equal(batch["dones"], number % 2)
    assert torch.equal(batch["truncated"], (number % 4 == 3).float())
    return number.long()


def drawn(pipeline: ReplayPipeline, batches: int) -> set[int]:
    return {number for _ in range(batches) for number in row_numbers(pipeline.next_batch()).tolist()}


def numbers_of(pipeline: ReplayPipeline, batches: int) -> list[list[int]]:
    return [row_numbers(pipeline.next_batch()).tolist() for _ in range(batches)]


def through_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "replay prefetch"]


@pytest.fixture
def make_replay() -> Iterator[MakeReplay]:
    made: list[ReplayBuffer] = []

    def make(rows: int = 0, *, capacity: int = CAPACITY, seed: int = 7) -> ReplayBuffer:
        made.append(ReplayBuffer(capacity, OBS, ACTIONS, "cpu", seed=seed))
        if rows:
            add_rows(made[-1], rows)
        return made[-1]

    yield make
    for replay in made:
        replay.cleanup()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePipeline]:
    """A pipeline for a learner on the CPU; the classes for accelerators run there too, in the same code."""
    made: list[ReplayPipeline] = []

    def stream_buffers(count: int, shape: tuple[int, int], device: torch.device) -> list[StreamBuffer]:
        stream = torch.cpu.Stream()
        return [StreamBuffer(shape, device, stream, torch.cpu) for _ in range(count)]

    def build(kind: str, replay: ReplayBuffer, batch_size: int = BATCH) -> ReplayPipeline:
        pipeline: ReplayPipeline
        if kind == "device":
            pipeline = DeviceResidentPipeline(replay, batch_size, "cpu", seed=5)
        elif kind == "prefetch with streams":
            with monkeypatch.context() as patch:
                patch.setattr(prefetch, "batch_buffers", stream_buffers)
                pipeline = PrefetchPipeline(replay, batch_size, "cpu")
        else:
            pipeline = build_pipeline(kind, replay, batch_size, "cpu")  # type: ignore[arg-type]
        made.append(pipeline)
        return pipeline

    yield build
    for pipeline in made:
        pipeline.close()
    made.clear()
    assert prefetch_threads() == []


# What holds for all of them


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


# Prefetch


class Gate:
    """Lets the replay buffer sample once for each permit."""

    def __init__(self, replay: ReplayBuffer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._permits = threading.Semaphore(0)
        self.permit = self._permits.release
        sample_packed = replay.sample_packed

        def sample_later(*args: Any, **kwargs: Any) -> Tensor:
            self.calls += 1
            assert self._permits.acquire(timeout=30)
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
    monkeypatch.setattr(replay, "sample_packed", None)
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


# Streams


class RecordingDevice:
    """Stands for torch.cuda: writes down what is queued where instead of running it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.learner = self.Stream(self, "learner")
        self._events = iter(["copied", "released"])

    class Stream:
        def __init__(self, device: "RecordingDevice", name: str) -> None:
            self.device, self.name = device, name

        def wait_event(self, event: "RecordingDevice.NamedEvent") -> None:
            self.device.log.append(f"{self.name} waits for {event.name}")

    class NamedEvent:
        def __init__(self, device: "RecordingDevice", name: str) -> None:
            self.device, self.name = device, name

        def record(self, stream: "RecordingDevice.Stream") -> None:
            self.device.log.append(f"{stream.name} records {self.name}")

        def synchronize(self) -> None:
            self.device.log.append(f"host waits for {self.name}")

    def Event(self) -> "RecordingDevice.NamedEvent":
        return self.NamedEvent(self, next(self._events))

    def stream(self, stream: "RecordingDevice.Stream") -> AbstractContextManager[None]:
        return nullcontext()

    def current_stream(self, device: torch.device) -> "RecordingDevice.Stream":
        assert device == CPU
        return self.learner


def test_a_stream_buffer_orders_host_copy_and_learner() -> None:
    device = RecordingDevice()
    buffer = StreamBuffer((2, 3), CPU, device.Stream(device, "copy"), device)
    for value in (1.0, 2.0):

        def write(out: Tensor, value: float = value) -> None:
            device.log.append("host writes")
            out.fill_(value)

        device.log.append("fill")
        buffer.fill(write)
        buffer.hand_out()
        assert torch.equal(buffer.packed, torch.full((2, 3), value))
        buffer.take_back()
    buffer.close()
    once = [
        "fill",
        "host waits for copied",
        "host writes",
        "copy waits for released",
        "copy records copied",
        "learner waits for copied",
        "learner records released",
    ]
    assert device.log == ["learner records released", *once, *once, "host waits for copied"]


def test_a_plain_buffer_copies_to_a_device_without_streams() -> None:
    buffer = PlainBuffer((2, 3), torch.device("meta"))
    seen = []
    buffer.fill(lambda out: seen.append((out.device.type, list(out.shape))))
    assert (seen, buffer.packed.device.type) == ([("cpu", [2, 3])], "meta")


# Choice


def test_the_kind_follows_from_device_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[Any, str, int | None, str]] = [
        ("auto", "cpu", None, "direct"),
        ("auto", "cpu", 10**12, "direct"),
        ("auto", "cuda", 1000, "device"),
        ("auto", "cuda:1", 999, "prefetch"),
        ("auto", "mps", None, "prefetch"),
        ("auto", "mps", 1000, "device"),
        ("direct", "cuda", 1000, "direct"),
        ("prefetch", "cpu", None, "prefetch"),
        ("prefetch", "cuda", 1000, "prefetch"),
        ("device", "cuda", 0, "device"),
    ]
    for kind, device, budget, expected in cases:
        assert choose_kind(kind, 1000, device, device_budget_bytes=budget) == expected, (kind, device, budget)
    for free, expected in ((2000, "device"), (1999, "prefetch")):  # by default half of the free memory
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert choose_kind("auto", 1000, "cuda") == expected


def test_a_kind_that_cannot_be_is_refused(make_replay: MakeReplay) -> None:
    replay = make_replay(4)
    with pytest.raises(ValueError, match=r"keeps the rows on an accelerator, .* is cpu; use 'auto', 'direct'"):
        build_pipeline("device", replay, BATCH, "cpu")
    with pytest.raises(ValueError, match="unknown kind 'pinned'; use one of: auto, direct, prefetch, device"):
        build_pipeline("pinned", replay, BATCH, "cpu")  # type: ignore[arg-type]


def test_the_copy_on_the_device_takes_what_was_said(make_replay: MakeReplay) -> None:
    assert mirror_bytes(make_replay(4)) == 4 * CAPACITY * (OBS + ACTIONS + 3 + OBS)

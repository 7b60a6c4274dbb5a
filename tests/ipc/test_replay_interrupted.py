"""What can be read of a replay buffer is whole, wherever a writer dies and whatever is added during a read."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.ipc.replay_processes import ACTIONS, OBS, MortalWords, buffer, contents, counted, counters_of, sampled
from unilab.ipc import ReplayBuffer, ReplayEmptyError
from unilab.ipc.replay_buffer import contiguous
from unilab.ipc.replay_pipelines.device import DevicePipeline


class KilledError(BaseException):
    """A writer dies here."""


def die() -> None:
    raise KilledError


class Writer:
    """Adds rows that count on, and dies in the middle of some."""

    def __init__(self, replay: ReplayBuffer) -> None:
        self.replay = replay
        self.counter = 0

    def add(self, count: int) -> None:
        self.replay.add(**counted(np.arange(self.counter, self.counter + count)))
        self.counter += count

    def die_in_add(self, count: int, stores: int) -> None:
        """Die before one of the stores of add(), with half of the next row torn; or after it."""
        words, written = self.replay._words, self.replay.written
        self.replay._words = MortalWords(self.replay, stores, die)  # type: ignore[assignment]
        with contextlib.suppress(KilledError):
            self.replay.add(**counted(np.arange(self.counter, self.counter + count)))
        self.replay._words = words
        self.counter += self.replay.written - written
        begun = words[1]
        for number in range(self.replay.written, begun):  # all that it may have touched
            self.replay._shared[number % self.replay.capacity, :3] = -1


class InterruptedWords:
    """Others add before the look at what is written, the last one."""

    def __init__(self, words: memoryview, events: Iterator[Callable[[], object]]) -> None:
        self._words, self._events = words, events

    def __getitem__(self, index: int) -> int:
        if index == 0:
            next(self._events, int)()
        return self._words[index]


class InterruptedReader(ReplayBuffer):
    """Others add within its look at what is there, between it and the copy, and before the second look."""

    events: Iterator[Callable[[], object]] = iter(())

    def _readable(self) -> tuple[int, int]:
        words = self._words
        self._words = InterruptedWords(words, self.events)  # type: ignore[assignment]
        low, high = super()._readable()
        self._words = words
        assert low <= high <= low + self.capacity
        next(self.events, int)()
        return low, high

    def _oldest(self) -> int:
        next(self.events, int)()
        return super()._oldest()


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9), st.integers(1, 10))
def test_contiguous_spans_cover_and_never_wrap(start: int, stop: int, capacity: int, limit: int) -> None:
    spans = list(contiguous(start, stop, capacity, limit))
    assert [number for span in spans for number in range(*span)] == list(range(start, stop))
    assert all(first // capacity == (last - 1) // capacity for first, last in spans)
    assert all(last - first <= limit for first, last in spans)


ACTS = st.tuples(st.sampled_from(["add", "add", "die", "hold", "release"]), st.integers(0, 60), st.integers(0, 12))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.lists(ACTS, max_size=20))
def test_whole_wherever_a_writer_dies(capacity: int, acts: list[tuple[str, int, int]]) -> None:
    replay = buffer(capacity)
    writer, pipeline = Writer(buffer(capacity, name=replay.name)), DevicePipeline(replay, 30, "cpu", seed=0)
    written = begun = 0
    for act, count, stores in acts:
        if act == "add":
            writer.add(count)
        elif act == "die":
            writer.die_in_add(count, stores)
        elif act == "hold":
            replay.hold(min(count, capacity - 1))
        else:
            replay.release()
        assert replay.written == writer.counter >= written
        assert replay._words[1] >= max(begun, replay.written)
        written, begun = replay.written, replay._words[1]
        low, high = replay._readable()
        assert counters_of(replay, replay.rows(0, high)).tolist() == list(range(low, high))
        low, high = max(low, replay.window[0]), replay.window[1]
        pipeline.copy_new_rows()
        if low < high:
            assert set(sampled(replay)) <= set(range(low, high))
            batch = pipeline.next_batch()["rewards"].tolist()  # it may still have what is overwritten in the buffer
            assert set(batch) <= set(range(*replay.window))
    replay.release()
    while writer.counter < begun + capacity:  # once around, what the dead left is written over
        writer.add(1)
        pipeline.copy_new_rows()
    assert contents(replay) == list(range(writer.counter - capacity, writer.counter))
    low, high = pipeline._window
    assert (low, high) == replay.window
    assert counters_of(replay, pipeline._rows).tolist() == counters_of(replay, replay._rows).tolist()
    writer.replay.close()
    replay.cleanup()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 40),
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 6))), max_size=8),
    st.sampled_from(["sample", "rows", "device"]),
)
@example(40, 79, [(10, None)], "sample")
def test_whole_whatever_is_added_during_a_read(
    capacity: int, filled: int, events: list[tuple[int, int | None]], way: str
) -> None:
    reader = InterruptedReader(capacity, OBS, ACTIONS, "cpu")
    writer, pipeline = Writer(buffer(capacity, name=reader.name)), DevicePipeline(reader, 30, "cpu", seed=0)
    writer.add(filled)

    def event(count: int, stores: int | None) -> Callable[[], object]:
        return lambda: writer.add(count) if stores is None else writer.die_in_add(count, stores)

    reader.events = iter([event(*one) for one in events])
    if way == "sample":
        with contextlib.suppress(ReplayEmptyError):  # a writer that has died in the whole ring leaves nothing
            counters_of(reader, reader.sample_packed(50))
    elif way == "rows":
        found = counters_of(reader, reader.rows(0, 10**9)).tolist()
        assert found == list(range(*(found[0], found[-1] + 1))) if found else True
    else:
        for _ in range(3):
            with contextlib.suppress(ReplayEmptyError):
                pipeline.next_batch()
            low, high = pipeline._window
            numbers = np.arange(low, high)
            assert counters_of(reader, pipeline._rows[numbers % capacity]).tolist() == numbers.tolist()
    reader.events = iter(())
    writer.replay.close()
    reader.cleanup()


def test_most_of_the_ring_can_be_read_while_many_rows_are_added() -> None:
    replay = buffer(80)
    replay.add(**counted(np.arange(100)))
    writer = Writer(buffer(80, name=replay.name))
    writer.counter = 100
    writer.die_in_add(80, 3)  # in the second of eight parts
    assert replay.window == (100 + 20 - 80, 110)
    with pytest.raises(AssertionError, match="torn"):
        counters_of(replay, replay._rows)
    writer.add(70)
    assert contents(replay) == list(range(100, 180))
    writer.replay.close()
    replay.cleanup()

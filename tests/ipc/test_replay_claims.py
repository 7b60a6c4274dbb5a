"""Claims on rows of a ring: what can be sampled is whole, at whatever store a writer stops or dies."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ipc.replay_processes import ACTIONS, OBS, counted, counters_of
from tests.ipc.replay_writers import ACTS, Writers, check
from unilab.ipc import ReplayBuffer
from unilab.ipc.replay.window import ReplayWindow, contiguous, merged, without, wrap

SPANS = st.lists(st.tuples(st.integers(-3, 30), st.integers(-3, 30)), max_size=6)


def numbers_in(spans: object) -> set[int]:
    return {number for start, stop in spans for number in range(start, stop)}  # type: ignore[attr-defined]


@given(SPANS, SPANS, st.integers(0, 20), st.integers(0, 20))
def test_spans_behave_like_sets(some: list[tuple[int, int]], holes: list[tuple[int, int]], low: int, high: int) -> None:
    whole = merged(some, low, high)
    cut = merged(holes, low, high)
    assert numbers_in(whole) == numbers_in(some) & set(range(low, high))
    assert all(first[1] < second[0] for first, second in itertools.pairwise(whole))
    assert numbers_in(without(whole, cut)) == numbers_in(whole) - numbers_in(cut)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 4)))
def test_contiguous_spans_cover_and_never_wrap(start: int, stop: int, capacity: int, limit: int | None) -> None:
    spans = list(contiguous(start, stop, capacity, limit))
    assert [number for span in spans for number in range(*span)] == list(range(start, stop))
    assert all(first // capacity == (last - 1) // capacity for first, last in spans)
    assert limit is None or all(last - first <= limit for first, last in spans)


def test_drawing_steps_over_the_holes() -> None:
    window = ReplayWindow(3, 20, ((3, 5), (9, 10), (14, 20)))
    assert len(window) == 8
    out = torch.empty(8000, dtype=torch.int64)
    window.draw(out, 2, torch.Generator().manual_seed(0))
    counts = torch.bincount(out + 2, minlength=20)
    inside = [5, 6, 7, 8, 10, 11, 12, 13]
    assert counts[inside].sum() == 8000
    assert ((counts[inside] - 1000).abs() < 150).all()
    assert window.starting_at(10) == ReplayWindow(10, 20, ((14, 20),))
    assert len(window.starting_at(25)) == 0


def test_wrapping_is_a_remainder() -> None:
    numbers = np.arange(20)
    out = np.empty_like(numbers)
    wrap(numbers, 10, out)
    assert (out == numbers % 10).all()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 24), st.lists(ACTS, max_size=30))
def test_whatever_can_be_sampled_is_whole(capacity: int, acts: list[tuple[str, int, int]]) -> None:
    writers = Writers(capacity, 3)
    written = 0
    for act, writer, count in acts:
        writers.act(act, writer, count)
        check(writers.replay)
        assert writers.replay.written >= written
        written = writers.replay.written
    for writer in range(3):
        writers.finish(writer)
        check(writers.replay)
    for _ in range(3 * capacity):  # once around, holes of dead writers are written over
        writers.add(1)
    assert len(writers.replay) == capacity
    whole = counters_of(writers.replay, writers.replay.rows(*writers.replay.window)).tolist()
    assert whole == list(range(writers.counter - capacity, writers.counter))
    writers.close()


class KilledError(BaseException):
    pass


class MortalWords:
    """The header's words; the writer is killed before one of its stores."""

    def __init__(self, words: memoryview, stores: int) -> None:
        self._words = words
        self._left = stores

    def __getitem__(self, index: int | slice) -> int | memoryview:
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        if self._left == 0:
            raise KilledError
        self._left -= 1
        self._words[index] = value

    def release(self) -> None:
        pass


def deaths(capacity: int, filled: int, earlier: int) -> Iterator[tuple[Writers, bool]]:
    """For each store of an add() of 5 rows: writers, the first of which died before it; and whether it came through."""
    for stores in range(20):
        writers = Writers(capacity, 2)
        writers.add(filled)
        if earlier:
            writers.begin(1, earlier)
            writers.die(1)
            writers.add(capacity - earlier - 2)
        dying = writers.handles[0]
        words = dying._claims._words
        dying._claims._words = MortalWords(words, stores)  # type: ignore[assignment]
        survived = False
        try:
            writers.begin(0, 5)
            dying._claims.finish()
            survived = True
        except KilledError:
            pass
        dying._claims._words = words
        if not survived:
            yield writers, False
            continue
        writers.finish(0)
        yield writers, True
        return
    raise AssertionError("an add() stores less than this")


@pytest.mark.parametrize(("filled", "earlier"), [(0, 0), (3, 0), (14, 0), (40, 0), (12, 3), (12, 7), (40, 4)])
def test_killed_before_any_store(filled: int, earlier: int) -> None:
    capacity, survived = 16, False
    for writers, survived in deaths(capacity, filled, earlier):
        if not survived:
            writers.die(0)
        check(writers.replay)
        for count in (1, 2, 3, 1, 2, 7, 1, 16, 1):
            writers.add(count)
            check(writers.replay)
        for _ in range(2 * capacity):
            writers.add(1)
            check(writers.replay)
        assert len(writers.replay) == capacity
        writers.close()
    assert survived


def test_a_stopped_writer_keeps_its_rows() -> None:
    writers = Writers(20, 1)
    writers.add(15)
    writers.begin(0, 10)
    for _ in range(30):
        writers.add(3)
        check(writers.replay)
    assert len(writers.replay) == 10
    writers.finish(0)
    check(writers.replay)
    assert len(writers.replay) == 20
    assert writers.replay.lost == 0
    writers.close()


def test_rows_for_which_there_is_no_place_are_counted() -> None:
    writers = Writers(10, 1)
    writers.begin(0, 10)
    writers.add(4)
    assert (writers.replay.lost, writers.replay.written, len(writers.replay)) == (4, 0, 0)
    writers.finish(0)
    writers.add(4)
    assert (writers.replay.lost, len(writers.replay)) == (4, 10)
    writers.close()


def test_an_interrupted_add_leaves_a_hole_until_the_ring_wraps() -> None:
    replay = ReplayBuffer(10, OBS, ACTIONS, "cpu")
    replay.add(**counted(np.arange(4)))
    replay._claims.claim(3)  # KeyboardInterrupt here
    for first in range(4, 10, 2):
        replay.add(**counted(np.arange(first, first + 2)))
        check(replay)
    assert counters_of(replay, replay.rows(0, 20)).tolist() == [3, 4, 5, 6, 7, 8, 9]
    replay.add(**counted(np.arange(10, 20)))
    assert counters_of(replay, replay.rows(0, 40)).tolist() == list(range(10, 20))
    replay.cleanup()

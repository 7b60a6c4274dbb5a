from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.record import Record
from harness.study.confirmation import schedule
from harness.suite.schema import Confirm


def records(*done: tuple[int, int]) -> list[Record]:
    return [Record("s", trial, repeat, "complete", phase="confirm") for trial, repeat in done]


def order(confirm: Confirm, candidates: list[int], done: list[tuple[int, int]] = (), **more) -> list[tuple[int, int]]:  # type: ignore[assignment]
    return list(
        chain.from_iterable(schedule(confirm, candidates, records(*done), **{"first_repeat": 1, "study": "s"} | more))
    )


def halves(block: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The trials of its first and of its second repeats."""
    first, second = ([trial for trial, repeat in block if repeat == number] for number in sorted({r for _, r in block}))
    return first, second


def test_blocks_are_in_random_order_each_followed_by_its_mirror() -> None:
    seen = set()
    for study in map(str, range(60)):
        whole = order(Confirm(2, 4), [4, 7], study=study)
        for block in (whole[:6], whole[6:]):
            first, second = halves(block)
            assert second == first[::-1] and sorted(first) == [0, 4, 7] and [trial for trial, _ in block[:3]] == first
            seen.add(tuple(first))
        assert [repeat for _, repeat in whole] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert len(seen) == 6, "each order comes up"


def test_an_odd_number_ends_with_a_block_that_has_each_candidate_once() -> None:
    last = order(Confirm(2, 3), [4, 7])[6:]
    assert sorted(last[:3]) == [(0, 3), (4, 3), (7, 3)] and last[3:] == [(0, 4)]
    assert sorted(order(Confirm(1, 1), [2], first_repeat=5)) == [(0, 5), (0, 6), (2, 5)]


def test_without_a_baseline_the_candidates_take_turns() -> None:
    first, second = halves(order(Confirm(2, 2), [4, 7], baseline=False))
    assert sorted(first) == [4, 7] and second == first[::-1]


def test_without_candidates_the_baseline_is_measured_against_itself() -> None:
    assert order(Confirm(2, 3), []) == [(0, 1), (0, 2), (0, 3), (0, 4)]


@pytest.mark.parametrize("cut", range(12))
def test_an_interrupted_confirmation_keeps_its_order(cut: int) -> None:
    whole = order(Confirm(2, 4), [4, 7])
    assert order(Confirm(2, 4), [4, 7], whole[:cut]) == whole


def test_candidates_of_an_extended_search_get_blocks_of_their_own() -> None:
    done = order(Confirm(1, 2), [4])
    assert sorted(done) == [(0, 1), (0, 2), (4, 1), (4, 2)]
    both = order(Confirm(2, 2), [9, 4], done)
    assert both[:4] == done and sorted(both[4:]) == [(0, 3), (0, 4), (9, 3), (9, 4)]
    assert sorted(order(Confirm(1, 2), [9], done)) == [(0, 3), (0, 4), (9, 3), (9, 4)]


@given(st.integers(1, 7), st.lists(st.integers(1, 9), unique=True, max_size=4))
def test_each_candidate_is_measured_as_often_as_asked(repeats: int, candidates: list[int]) -> None:
    whole = order(Confirm(4, repeats), candidates)
    assert len(set(whole)) == len(whole)
    for trial in candidates:
        assert [repeat for other, repeat in sorted(whole) if other == trial] == list(range(1, repeats + 1))
    assert sum(trial == 0 for trial, _ in whole) == 2 * Confirm(4, repeats).blocks

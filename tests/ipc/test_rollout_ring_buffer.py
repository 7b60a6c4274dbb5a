"""The rollout ring: whole rollouts, in order, whoever is faster and whoever dies."""

import pickle
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.processes import (
    hold_lock_until_killed,
    read_rollouts,
    stamp,
    stamped,
    write_rollouts,
)
from unilab.ipc import RolloutRingBuffer, SegmentClosedError, SharedFlag, SharedMemoryFullError
from unilab.ipc.rollout_ring_buffer import _DROPPED, _HELD, _SLOTS, _WRITTEN, ring_bytes

SIZES = (3, 2, 5, 4)
KILLS = 12


def attach(ring: RolloutRingBuffer, *sizes: int, **kwargs: Any) -> RolloutRingBuffer:
    return RolloutRingBuffer(*(sizes or SIZES), create=False, shm_name_prefix=ring.name, **kwargs)


def test_fields_shapes_and_size() -> None:
    ring = RolloutRingBuffer(*SIZES, critic_dim=6, num_slots=3)
    assert ring.slot_shapes == {
        "obs": (2, 3, 5),
        "actions": (2, 3, 4),
        "log_probs": (2, 3),
        "rewards": (2, 3),
        "dones": (2, 3),
        "truncated": (2, 3),
        "last_obs": (3, 5),
        "critic": (2, 3, 6),
        "last_critic": (3, 6),
    }
    assert {name: array.shape for name, array in ring.write_buffer.items()} == ring.slot_shapes
    assert {array.dtype for array in ring.write_buffer.values()} == {np.dtype(np.float32)}
    assert ring._segment.size == ring_bytes(*SIZES, critic_dim=6, num_slots=3)
    ring.cleanup()


def test_without_a_critic_there_are_no_critic_fields() -> None:
    ring = RolloutRingBuffer(*SIZES)
    assert not {"critic", "last_critic"} & ring.slot_shapes.keys()
    ring.cleanup()


def test_a_slot_can_have_fields_of_its_own() -> None:
    fields = {"flags": ((3,), np.bool_), "numbers": ((2, 2), np.float64), "count": ((), np.int64)}
    ring = RolloutRingBuffer(*SIZES, fields=fields, num_slots=1)
    assert ring.slot_shapes == {"flags": (3,), "numbers": (2, 2), "count": ()}
    assert ring._segment.size == ring_bytes(*SIZES, fields=fields, num_slots=1)
    writer = attach(ring, fields=fields, num_slots=1)
    writer.attach_sync_primitives(*ring.sync_primitives)
    for array, value in zip(writer.write_buffer.values(), (True, 1 / 3, 2**40), strict=True):
        array[...] = value
    writer.signal_write_done()
    read = ring.read_torch("cpu")
    assert {name: (value.dtype, value.unique().tolist()) for name, value in read.items()} == {
        "flags": (torch.bool, [True]), "numbers": (torch.float64, [1 / 3]), "count": (torch.int64, [2**40]),
    }  # fmt: skip
    other_type = fields | {"flags": ((3,), np.int8)}
    for other, theirs in ((None, r"obs=\[2, 3, 5\] float32"), (other_type, r"flags=\[3\] int8")):
        with pytest.raises(ValueError, match=rf"created with flags=\[3\] bool, attached with {theirs}$"):
            attach(ring, fields=other, num_slots=1)
    ring.cleanup()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.lists(st.sampled_from(["write", "write", "begin", "look", "advance"]), max_size=60))
def test_behaves_like_a_queue_that_gives_up_its_oldest(num_slots: int, actions: list[str]) -> None:
    ring = RolloutRingBuffer(*SIZES, num_slots=num_slots)
    other = attach(ring, num_slots=num_slots)
    other.attach_sync_primitives(*ring.sync_primitives)
    unread: deque[int] = deque()
    held: int | None = None
    written = dropped = 0
    for action in actions:
        if action == "write":
            stamp(ring, written)
            ring.signal_write_done()
            unread.append(written)
            written += 1
            if len(unread) > num_slots:
                unread.popleft()
                dropped += 1
        elif action == "begin":
            stamp(ring, 999)  # half-written, never handed over
        elif held is not None or unread:
            held = unread.popleft() if held is None else held
            assert stamped(other) == held
            if action == "advance":
                other.advance_read()
                held = None
        else:
            assert not other.wait_for_data(timeout=0)
            with pytest.raises(RuntimeError, match="no rollout to read"):
                other.read_torch("cpu")
        assert other.available() == len(unread) + (held is not None)
        assert (other.written, other.dropped) == (written, dropped)
        if held is not None:
            assert ring.write_slot != other.read_slot
    other.close()
    ring.cleanup()


def test_a_full_ring_never_writes_into_its_oldest_readable_slot() -> None:
    ring = RolloutRingBuffer(*SIZES, num_slots=2)
    for number in range(2):
        stamp(ring, number)
        ring.signal_write_done()
    for array in ring.write_buffer.values():
        array.fill(-5)
    assert stamped(ring) == 0
    ring.advance_read()
    assert stamped(ring) == 1
    ring.cleanup()


def test_copies_are_independent_and_carry_the_policy_version() -> None:
    ring = RolloutRingBuffer(*SIZES, critic_dim=2)
    stamp(ring, 41)
    ring.signal_write_done()
    destination = {name: torch.zeros(shape) for name, shape in ring.slot_shapes.items()}
    assert ring.copy_read_slot_to_torch(destination) == 41
    copy = ring.read_torch("cpu")
    ring.advance_read()
    for number in range(10):
        stamp(ring, number)
        ring.signal_write_done()
    assert all((value == 41).all() and value.dtype == torch.float32 for value in copy.values())
    assert all((value == 41).all() for value in destination.values())
    ring.cleanup()


def test_a_wrong_destination_is_named() -> None:
    ring = RolloutRingBuffer(*SIZES)
    stamp(ring, 0)
    ring.signal_write_done()
    destination = {name: torch.zeros(shape) for name, shape in ring.slot_shapes.items()}
    with pytest.raises(ValueError, match=r"rewards is \[2, 3\], not \[1\]"):
        ring.copy_read_slot_to_torch(destination | {"rewards": torch.zeros(1)})
    del destination["dones"]
    with pytest.raises(ValueError, match="fields differ: dones"):
        ring.copy_read_slot_to_torch(destination)
    ring.cleanup()


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((4, 2, 5, 4), {}, "num_envs=3, attached with num_envs=4"),
        ((3, 3, 5, 4), {}, "num_steps=2"),
        ((3, 2, 6, 4), {}, "obs_dim=5"),
        ((3, 2, 5, 1), {}, "action_dim=4"),
        (SIZES, {"critic_dim": 1}, "critic_dim=0, attached with critic_dim=1"),
        (SIZES, {"num_slots": 9}, "num_slots=4"),
    ],
)
def test_attaching_with_other_sizes_raises(sizes: tuple[int, ...], options: dict[str, int], message: str) -> None:
    ring = RolloutRingBuffer(*SIZES)
    with pytest.raises(ValueError, match=message):
        attach(ring, *sizes, **options)
    ring.cleanup()


def test_impossible_arguments_raise() -> None:
    with pytest.raises(ValueError, match="num_slots is 0"):
        RolloutRingBuffer(*SIZES, num_slots=0)
    with pytest.raises(ValueError, match="needs shm_name_prefix"):
        RolloutRingBuffer(*SIZES, create=False)
    with pytest.raises(SharedMemoryFullError):
        RolloutRingBuffer(10**6, 10**3, 10**3, 10)


def test_after_close_every_access_raises() -> None:
    ring = RolloutRingBuffer(*SIZES)
    stamp(ring, 3)
    ring.signal_write_done()
    views = ring.read_numpy_views()
    ring.close()
    ring.close()
    accesses: list[Callable[[], object]] = [
        ring.available,
        ring.signal_write_done,
        ring.advance_read,
        ring.read_numpy_views,
        lambda: ring.wait_for_data(0),
        lambda: ring.wait_for_space(0),
        lambda: ring.read_torch("cpu"),
        lambda: ring.copy_read_slot_to_torch({}),
        lambda: ring.write_buffer,
        lambda: ring.write_slot,
        lambda: ring.read_slot,
        lambda: ring.written,
        lambda: ring.dropped,
    ]
    for access in accesses:
        with pytest.raises(SegmentClosedError):
            access()
    assert all((view == 3).all() for view in views.values())
    ring.cleanup()
    ring.cleanup()


def test_without_the_sync_primitives_it_says_so() -> None:
    ring = RolloutRingBuffer(*SIZES)
    with pytest.raises(RuntimeError, match="attach_sync_primitives"):
        attach(ring).wait_for_data(0)
    with pytest.raises(RuntimeError, match="attach_sync_primitives"):
        pickle.dumps(attach(ring))
    ring.cleanup()


def test_a_writer_that_waits_for_space_loses_nothing() -> None:
    ring = RolloutRingBuffer(*SIZES, num_slots=2)
    for number in range(2):
        assert ring.wait_for_space(0)
        stamp(ring, number)
        ring.signal_write_done()
    assert not ring.wait_for_space(0)
    timer = threading.Timer(0.05, lambda: (stamped(ring), ring.advance_read()))
    timer.start()
    assert ring.wait_for_space(SPAWN_SECONDS)
    timer.join()
    stamp(ring, 2)
    ring.signal_write_done()
    assert (ring.written, ring.dropped, ring.available()) == (3, 0, 2)
    assert stamped(ring) == 1
    ring.cleanup()


def test_a_flag_ends_a_wait() -> None:
    ring = RolloutRingBuffer(*SIZES)
    flag = SharedFlag()
    timer = threading.Timer(0.05, flag.set)
    timer.start()
    assert not ring.wait_for_data(timeout=SPAWN_SECONDS, unless=flag)
    timer.join()
    stamp(ring, 0)
    ring.signal_write_done()
    assert ring.wait_for_data(timeout=0, unless=flag), "data counts although the flag is set"
    ring.cleanup()


def test_no_wake_up_is_lost(spawn: Callable[..., Any]) -> None:
    """The reader waits without a time limit that would hide a lost wake-up, 3,000 times."""
    ring = RolloutRingBuffer(1, 1, 1, 1, num_slots=1)
    stop = SharedFlag()
    writer = spawn(write_rollouts, ring, stop, None, True)
    for number in range(3000):
        assert ring.wait_for_data(SPAWN_SECONDS)
        assert stamped(ring) == number
        ring.advance_read()
    stop.set()
    writer.join(SPAWN_SECONDS)
    assert writer.exitcode == 0
    assert ring.dropped == 0
    ring.cleanup()


def test_a_writer_that_laps_the_reader_tears_nothing(quick: Callable[..., Any]) -> None:
    ring = RolloutRingBuffer(64, 8, 17, 6, critic_dim=9, num_slots=2)
    stop = SharedFlag()
    writer = quick(write_rollouts, ring, stop)
    destination = {name: torch.zeros(shape) for name, shape in ring.slot_shapes.items()}
    assert ring.wait_for_data(SPAWN_SECONDS)
    last, read, end = -1, 0, time.monotonic() + 2
    while time.monotonic() < end or not ring.dropped:
        assert ring.wait_for_data(SPAWN_SECONDS)
        version = ring.copy_read_slot_to_torch(destination)
        assert all((value == version).all() for value in destination.values()), "torn"
        assert version > last, "out of order"
        last, read = version, read + 1
        ring.advance_read()
    stop.set()
    writer.join(SPAWN_SECONDS)
    while ring.available():
        number = stamped(ring)
        assert number > last
        last, read = number, read + 1
        ring.advance_read()
    assert ring.dropped > 0, "the writer was to be faster"
    assert read + ring.dropped == ring.written == last + 1
    ring.cleanup()


@pytest.mark.parametrize("waits", [False, True])
def test_a_writer_killed_at_any_instant_harms_nobody(waits: bool, quick: Callable[..., Any]) -> None:
    ring = RolloutRingBuffer(16, 8, 17, 6, num_slots=2)
    instants = random.Random(1)
    last = -1
    for _ in range(KILLS):
        ready = SharedFlag()
        writer = quick(write_rollouts, ring, SharedFlag(), ready, waits)
        assert ready.wait(SPAWN_SECONDS)
        kill_after = instants.randrange(40)
        reads = 0
        while reads <= kill_after or ring.wait_for_data(0):
            assert ring.wait_for_data(SPAWN_SECONDS)
            number = stamped(ring)
            assert number > last
            last, reads = number, reads + 1
            ring.advance_read()
            if reads == kill_after + 1:
                time.sleep(instants.uniform(0, 0.001))  # anywhere in what the writer does
                writer.kill()
                writer.join()
    stamp(ring, ring.written)  # the ring still works, for a writer here
    ring.signal_write_done()
    assert stamped(ring) > last
    ring.cleanup()


def test_a_reader_killed_at_any_instant_harms_nobody(quick: Callable[..., Any]) -> None:
    ring = RolloutRingBuffer(16, 8, 17, 6, num_slots=2)
    instants = random.Random(2)
    number = 0
    for _ in range(KILLS):
        ready = SharedFlag()
        reader = quick(read_rollouts, ring, ready)
        left = instants.randrange(1, 40)
        while left:
            stamp(ring, number)
            ring.signal_write_done()
            number += 1
            left -= ready.is_set()
        reader.kill()
        for _ in range(6):
            stamp(ring, number)
            ring.signal_write_done()
            number += 1
        reader.join()
    numbers = []
    while ring.available():
        numbers.append(stamped(ring))
        ring.advance_read()
    assert numbers == sorted(set(numbers))
    assert numbers[-2:] == [number - 2, number - 1]
    ring.cleanup()


def test_a_lock_owned_by_a_killed_process_is_free(quick: Callable[..., Any]) -> None:
    ring = RolloutRingBuffer(*SIZES)
    ready = SharedFlag()
    holder = quick(hold_lock_until_killed, ring, ready)
    assert ready.wait(SPAWN_SECONDS)
    holder.kill()
    stamp(ring, 0)
    ring.signal_write_done()
    assert stamped(ring) == 0
    ring.cleanup()


@pytest.mark.parametrize("stores", [1, 2, 3])
def test_the_next_writer_goes_on_where_one_was_killed(stores: int) -> None:
    """After some of the stores of signal_write_done, as a kill leaves them."""
    ring = RolloutRingBuffer(*SIZES, num_slots=1)
    for number in range(2):
        stamp(ring, number)
        ring.signal_write_done()
    slot, oldest = ring.write_slot, ring._words[_SLOTS : _SLOTS + ring._physical].tolist().index(2)
    stamp(ring, 2)
    words = [(_SLOTS + oldest, 0), (_DROPPED, 2), (_WRITTEN, 3), (_SLOTS + slot, 3)]
    for word, value in words[:stores]:
        ring._words[word] = value
    heir = attach(ring, num_slots=1)
    heir.attach_sync_primitives(*ring.sync_primitives)
    stamp(heir, 3)
    heir.signal_write_done()
    assert (ring.written, ring.available()) == (3 + (stores > 2), 1)
    assert stamped(ring) == 3
    heir.close()
    ring.cleanup()


def test_the_next_reader_gets_again_what_one_was_killed_with() -> None:
    ring = RolloutRingBuffer(*SIZES, num_slots=1)
    for number in range(2):
        stamp(ring, number)
        ring.signal_write_done()
        ring.read_slot  # noqa: B018 - held from here on
    ring._words[_HELD] = 0  # killed here: given back, not free
    assert ring.available() == 2
    stamp(ring, 2)
    ring.signal_write_done()
    assert (ring.available(), stamped(ring)) == (1, 2)
    ring.cleanup()

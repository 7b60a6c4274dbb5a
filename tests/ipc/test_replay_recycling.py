"""Memory of batches: used again when nobody holds the batch any more, and never before."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from unilab.ipc import ReplayBuffer
from unilab.ipc.replay.recycling import RecycledBatches


@given(steps=st.lists(st.tuples(st.sampled_from(["take", "view", "drop"]), st.integers(0, 5)), max_size=40))
def test_held_batches_never_share_memory(steps):
    recycled = RecycledBatches()
    held = []
    for number, (step, at) in enumerate(steps):
        if step == "take" or not held:
            batch = recycled.take(3, 2).fill_(number)
            assert batch.shape == (3, 2)
            held.append((number, batch))
        elif step == "view":
            index, batch = held.pop(at % len(held))
            held.append((index, batch[1:, :1]))  # a part keeps the whole memory
            del batch
        else:
            held.pop(at % len(held))
        for index, batch in held:
            assert (batch == index).all()


def test_memory_is_used_again():
    recycled = RecycledBatches()
    first = recycled.take(4, 2)
    field, place = first[:, 1], first.data_ptr()
    del first
    second = recycled.take(4, 2)
    assert second.data_ptr() != place  # the field is still held
    del field
    assert recycled.take(4, 2).data_ptr() == place


def test_no_more_memory_is_kept_than_asked():
    recycled = RecycledBatches(most=1)
    held = recycled.take(4, 2)
    assert len({held.data_ptr(), recycled.take(4, 2).data_ptr()}) == 2
    assert len(recycled._kept) == 1
    recycled.take(5, 2)
    assert [memory.shape for memory, _ in recycled._kept] == [(5, 2)]


def test_samples_of_a_replay_buffer_stay_what_they_are():
    replay = ReplayBuffer(64, 3, 2, "cpu", seed=1)
    try:
        for _ in range(4):
            rows = torch.rand(16, 3)
            replay.add(rows, rows[:, :2], rows[:, 0], rows, torch.zeros(16), torch.zeros(16))
        batches = [replay.sample(8) for _ in range(5)]
        copies = [{name: value.clone() for name, value in batch.items()} for batch in batches]
        for _ in range(20):
            replay.sample(8)
        for batch, copy in zip(batches, copies, strict=True):
            assert all(torch.equal(batch[name], copy[name]) for name in copy)
    finally:
        replay.cleanup()

"""The buffer of whole rollouts: the last sequences, each in one piece, drawn evenly."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unilab.distributed import NotEnoughEntriesError, Rollout, RolloutBuffer, RolloutLayout
from unilab.distributed.rollout import METRICS_BYTES

STEPS = 3


def rollout(numbers: list[int], version: int = 0, obs_dim: int = 2) -> Rollout:
    """A sequence for each number n, whose step t has 10 n + t everywhere."""
    arrays = RolloutLayout(STEPS, len(numbers), obs_dim, 1).allocate()
    for name in ("obs", "next_obs", "actions", "rewards"):
        values = 10 * np.array(numbers) + np.arange(STEPS)[:, None]
        arrays[name][...] = values if name == "rewards" else values[..., None]
    for name in ("dones", "truncated", "faulty"):
        arrays[name][...] = np.array(numbers) % 2 == 1
    arrays["header"][:] = 0
    arrays["metrics"][:] = np.frombuffer(b"{}".ljust(METRICS_BYTES), np.uint8)
    return Rollout.of_arrays(arrays, version)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(1, 9), max_size=6), st.data())
def test_holds_the_last_sequences_each_in_one_piece(capacity: int, sizes: list[int], data: st.DataObject) -> None:
    buffer = RolloutBuffer(capacity)
    added: list[int] = []
    for version, size in enumerate(sizes):
        numbers = list(range(len(added), len(added) + size))
        buffer.add_rollout(rollout(numbers, version))
        added += numbers
    versions = [version for version, size in enumerate(sizes) for _ in range(size)]
    held = added[-capacity:]
    assert len(buffer) == len(held)
    if held:
        size = data.draw(st.integers(1, len(held)))
        batch = buffer.sample(size)
        numbers = (batch["rewards"][0] / 10).int().tolist()
        assert len(set(numbers)) == size
        assert set(numbers) <= set(held)
        for name, value in batch.items():
            assert value.shape[:2] == (STEPS, size)
            assert value.dtype == (torch.int64 if name == "policy_version" else torch.float32)
        for row, number in enumerate(numbers):
            steps = torch.arange(STEPS) + 10.0 * number
            assert torch.equal(batch["rewards"][:, row], steps)
            assert torch.equal(batch["obs"][:, row], steps[:, None].expand(STEPS, 2))
            assert batch["dones"][:, row].tolist() == [number % 2] * STEPS
            assert batch["policy_version"][:, row].tolist() == [versions[number]] * STEPS
    with pytest.raises(NotEnoughEntriesError, match=f"a batch of {len(held) + 1} .* holds {len(held)}"):
        buffer.sample(len(held) + 1)


def test_batches_depend_on_the_seed_alone_and_are_even() -> None:
    drawn = []
    for seed in (1, 1, 2):
        buffer = RolloutBuffer(5, seed=seed)
        buffer.add_rollout(rollout(list(range(5))))
        drawn.append([tuple((buffer.sample(2)["rewards"][0] / 10).int().tolist()) for _ in range(500)])
    assert drawn[0] == drawn[1] != drawn[2]
    counts = Counter(number for pair in drawn[0] for number in pair)
    assert len(counts) == 5
    # in 500 pairs each is there with probability 2/5: 200 times, with a standard deviation of 11
    assert all(abs(count - 200) < 55 for count in counts.values())


def test_a_batch_is_a_copy() -> None:
    buffer = RolloutBuffer(1)
    buffer.add_rollout(rollout([4]))
    batch = buffer.sample(1)
    batch["rewards"].zero_()
    assert buffer.sample(1)["rewards"][0].item() == 40


def test_other_rollouts_are_refused() -> None:
    buffer = RolloutBuffer(4)
    buffer.add_rollout(rollout([1]))
    with pytest.raises(ValueError, match=r"obs of one sequence is \(3, 5\), the buffer holds \(3, 2\)"):
        buffer.add_rollout(rollout([2], obs_dim=5))
    assert len(buffer) == 1


@pytest.mark.parametrize("number", [0, -1])
def test_impossible_numbers(number: int) -> None:
    with pytest.raises(ValueError, match=f"capacity is {number}; it must be positive"):
        RolloutBuffer(number)
    with pytest.raises(ValueError, match=f"batch_size is {number}; it must be positive"):
        RolloutBuffer(1).sample(number)

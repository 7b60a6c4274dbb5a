"""Weight sync: every dtype comes through unchanged, versions, no torn set, no waiting."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.processes import die_while_writing, write_weights_for_ever
from unilab.ipc import SegmentClosedError, SharedFlag, SharedWeightSync
from unilab.ipc.weight_sync import weight_sync_bytes

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
)
SPECS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.tuples(st.lists(st.integers(0, 5), max_size=3).map(tuple), st.sampled_from(DTYPES)),
    min_size=1,
    max_size=6,
)


def random_weights(specs: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Random bits of each dtype; for floats that means NaN and infinity too."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, (shape, dtype) in specs.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        high = 2 if dtype is torch.bool else 256
        bits = torch.randint(0, high, (size,), dtype=torch.uint8, generator=generator)
        weights[key] = bits.view(dtype).view(shape)
    return weights


def bits(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {key: value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for key, value in weights.items()}


@settings(max_examples=60, deadline=None)
@given(SPECS, st.integers(1, 5))
def test_any_state_dict_comes_through_bit_by_bit(specs: dict[str, Any], rounds: int) -> None:
    sync = SharedWeightSync(specs)
    other = SharedWeightSync(pickle.loads(pickle.dumps(sync.param_shapes)), create=False, shm_name=sync.name)
    assert sync._segment.size == weight_sync_bytes(specs)
    received = random_weights(specs, 1)
    before = bits(received)
    assert (other.version, other.read_weights_into(received)) == (0, 0)
    assert bits(received) == before, "nothing was published yet"
    for version in range(1, rounds + 1):
        weights = random_weights(specs, version + 1)
        assert sync.write_weights(weights) == version
        assert other.version == version
        assert other.read_weights_into(received) == version
        assert bits(received) == bits(weights)
        assert {key: (tuple(value.shape), value.dtype) for key, value in received.items()} == specs
    other.close()
    sync.cleanup()


def test_plain_shapes_mean_float32() -> None:
    sync = SharedWeightSync({"weight": (2, 3), "steps": ((), torch.int64), "bias": torch.Size([2])})
    assert sync.param_shapes == {
        "weight": ((2, 3), torch.float32),
        "steps": ((), torch.int64),
        "bias": ((2,), torch.float32),
    }
    sync.cleanup()


def test_parameters_and_transposed_tensors_can_be_written_and_read() -> None:
    source, destination = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    sync = SharedWeightSync.from_state_dict(dict(source.named_parameters()))
    sync.read_weights_into(dict(destination.named_parameters()))
    assert torch.equal(source.weight, destination.weight)
    assert destination.weight.requires_grad
    assert destination.weight.is_leaf
    transposed = {"weight": torch.arange(6.0).view(3, 2).t(), "bias": torch.zeros(2)}
    sync.write_weights(transposed)
    assert not any(view.requires_grad for buffer in sync._buffers for view in buffer)
    sync.read_weights_into(destination.state_dict())
    assert destination.weight.tolist() == [[0, 2, 4], [1, 3, 5]]
    sync.cleanup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "missing or unknown parameters: bias"),
        ({"extra": torch.zeros(1)}, "missing or unknown parameters: extra"),
        ({"bias": torch.zeros(3)}, r"bias is \[3\] torch.float32, announced as \[2\] torch.float32"),
        ({"bias": torch.zeros(2, dtype=torch.float64)}, "bias is .* torch.float64, announced as .* torch.float32"),
    ],
)
def test_other_tensors_than_announced_are_named_and_not_published(change: dict[str, Any], message: str) -> None:
    weights = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    sync = SharedWeightSync.from_state_dict(weights)
    wrong = {key: value for key, value in (weights | change).items() if value is not None}
    for action in (sync.write_weights, sync.read_weights_into):
        with pytest.raises(ValueError, match=message):
            action(wrong)
    assert sync.version == 1
    sync.cleanup()


def test_attaching_with_other_parameters_names_them() -> None:
    sync = SharedWeightSync({"weight": (2, 3), "bias": (2,)})
    with pytest.raises(
        ValueError, match=r"created with bias=\[2\] torch.float32, attached with bias=\[3\] torch.float32"
    ):
        SharedWeightSync({"weight": (2, 3), "bias": (3,)}, create=False, shm_name=sync.name)
    with pytest.raises(ValueError, match="the same in another order"):
        SharedWeightSync({"bias": (2,), "weight": (2, 3)}, create=False, shm_name=sync.name)
    with pytest.raises(ValueError, match="needs shm_name"):
        SharedWeightSync({"weight": (2, 3)}, create=False)
    with pytest.raises(ValueError, match="empty"):
        SharedWeightSync({})
    sync.cleanup()


def test_after_close_every_access_raises() -> None:
    weights = {"weight": torch.ones(2)}
    sync = SharedWeightSync.from_state_dict(weights)
    sync.close()
    sync.close()
    for access in (
        lambda: sync.version,
        lambda: sync.write_weights(weights),
        lambda: sync.read_weights_into(weights),
    ):
        with pytest.raises(SegmentClosedError):
            access()
    sync.cleanup()
    sync.cleanup()


def test_a_lock_of_the_caller_is_entered_around_writes_only() -> None:
    lock = threading.Lock()
    weights = {"weight": torch.ones(2)}
    sync = SharedWeightSync.from_state_dict(weights, lock=lock)
    with lock:
        assert sync.read_weights_into(weights) == 1
        writer = threading.Thread(target=sync.write_weights, args=(weights,))
        writer.start()
        assert sync.version == 1
    writer.join()
    assert sync.version == 2
    sync.cleanup()


def test_no_set_is_torn_while_another_process_writes(spawn: Callable[..., Any]) -> None:
    specs = {f"layer{index}": ((97, 31), dtype) for index, dtype in enumerate(DTYPES[:8])}
    sync = SharedWeightSync(specs)
    stop = SharedFlag()
    writer = spawn(write_weights_for_ever, sync, stop)
    received = {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in specs.items()}
    last, changes = 0, 0
    while changes < 200:
        version = sync.read_weights_into(received)
        assert version >= last
        changes += version > last
        last = version
        assert all((value == version % 100).all() for value in received.values()), f"version {version} is torn"
        assert writer.is_alive()
    stop.set()
    writer.join(SPAWN_SECONDS)
    assert writer.exitcode == 0
    sync.cleanup()


def test_a_writer_killed_while_writing_leaves_the_last_version(quick: Callable[..., Any]) -> None:
    weights = {"weight": torch.full((1000,), 1.0), "bias": torch.full((7,), 1.0)}
    sync = SharedWeightSync.from_state_dict(weights)
    for kills in range(1, 6):
        writer = quick(die_while_writing, sync)
        writer.join(SPAWN_SECONDS)
        assert writer.exitcode == -9
        received = {key: torch.zeros_like(value) for key, value in weights.items()}
        assert sync.read_weights_into(received) == kills
        assert all((value == kills).all() for value in received.values())
        for value in weights.values():
            value.fill_(kills + 1)
        assert sync.write_weights(weights) == kills + 1
    sync.cleanup()


def test_writers_and_readers_killed_at_any_instant_harm_nobody(quick: Callable[..., Any]) -> None:
    specs = {"weight": ((300, 100), torch.float32), "steps": ((), torch.int64)}
    sync = SharedWeightSync(specs)
    received = {key: torch.zeros(shape, dtype=dtype) for key, (shape, dtype) in specs.items()}
    for round_number in range(8):
        writer = quick(write_weights_for_ever, sync, SharedFlag())
        start = sync.version
        while sync.version < start + 10 + round_number:
            assert writer.is_alive()
        writer.kill()
        writer.join()
        version = sync.read_weights_into(received)
        assert version == sync.version
        assert all((value == version % 100).all() for value in received.values())
    sync.cleanup()

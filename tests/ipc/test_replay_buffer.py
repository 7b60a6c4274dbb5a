"""The replay buffer: the rows that were added, whole and in order, whoever adds, is paused or dies."""

import io
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.replay_processes import (
    ACTIONS,
    OBS,
    add_on_request,
    buffer,
    contents,
    counted,
    counters_of,
    sampled,
)
from unilab.ipc import ReplayBuffer, ReplayEmptyError, SegmentClosedError, SharedBufferBase, SharedMemoryFullError
from unilab.ipc.replay_buffer import replay_bytes


def attach(replay: ReplayBuffer, **options: Any) -> ReplayBuffer:
    return buffer(replay.capacity, name=replay.name, **options)


def test_columns_width_and_size() -> None:
    replay = ReplayBuffer(10, 17, 6, "cpu", critic_dim=4, multi_step=True)
    assert isinstance(replay, SharedBufferBase)
    assert replay.width == 17 + 6 + 3 + 17 + 4 + 4 + 1
    assert replay.columns == {
        "obs": slice(0, 17),
        "actions": slice(17, 23),
        "rewards": slice(23, 24),
        "dones": slice(24, 25),
        "truncated": slice(25, 26),
        "next_obs": slice(26, 43),
        "critic": slice(43, 47),
        "next_critic": slice(47, 51),
        "steps": slice(51, 52),
    }
    assert replay._segment.size == replay_bytes(10, 17, 6, critic_dim=4, multi_step=True)
    replay.cleanup()
    plain = ReplayBuffer(10, 17, 6, "cpu")
    assert plain.width == 43
    assert plain.capacity == 10
    assert plain.device == torch.device("cpu")
    assert plain._segment.size == replay_bytes(10, 17, 6)
    plain.cleanup()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 20), st.lists(st.integers(0, 45), max_size=12), st.booleans())
def test_behaves_like_a_list_of_the_last_rows(capacity: int, sizes: list[int], two_handles: bool) -> None:
    replay = buffer(capacity)
    other = attach(replay)
    model: list[int] = []
    for turn, size in enumerate(sizes):
        writer = other if two_handles and turn % 2 else replay
        writer.add(**counted(np.arange(len(model), len(model) + size)))
        model += range(len(model), len(model) + size)
        kept = model[-capacity:]
        assert (replay.written, len(other)) == (len(model), len(kept))
        assert other.window == (len(model) - len(kept), len(model))
        assert contents(replay) == kept
        assert counters_of(other, other.rows(0, 3)).tolist() == [number for number in kept if number < 3]
        assert counters_of(other, other.rows(-5, 10**9)).tolist() == kept
        if kept:
            assert set(sampled(other)) <= set(kept)
            assert sampled(replay, 1)[0] in kept
    if not model:
        with pytest.raises(ReplayEmptyError, match="no complete row"):
            replay.sample(1)
    other.close()
    replay.cleanup()


@pytest.mark.parametrize("added", [7, 10, 23, 27])
def test_batches_are_uniform(added: int) -> None:
    replay = buffer(10, seed=3)
    replay.add(**counted(np.arange(added)))
    kept = min(added, 10)
    counts = np.bincount(sampled(replay, 20_000), minlength=added)[added - kept :]
    expected = 20_000 / kept
    assert counts.sum() == 20_000
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()
    replay.cleanup()


def test_fields_are_views_of_one_packed_tensor() -> None:
    replay = buffer(50)
    replay.add(**counted(np.arange(50)))
    batch = replay.sample(8)
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    assert shapes == {
        "obs": (8, OBS),
        "actions": (8, ACTIONS),
        "rewards": (8,),
        "dones": (8,),
        "truncated": (8,),
        "next_obs": (8, OBS),
    }
    assert len({value.untyped_storage().data_ptr() for value in batch.values()}) == 1
    assert {value.dtype for value in batch.values()} == {torch.float32}
    again = replay.sample(8)
    assert again["obs"].untyped_storage().data_ptr() != batch["obs"].untyped_storage().data_ptr()
    out = torch.empty(8, replay.width)
    assert replay.sample_packed(8, out) is out
    counters_of(replay, out)
    with pytest.raises(ValueError, match=r"out is \[8, 15\]; expected \[9, 15\]"):
        replay.sample_packed(9, out)
    with pytest.raises(ValueError, match="batch_size is 0"):
        replay.sample(0)
    replay.cleanup()


def test_every_real_dtype_is_accepted() -> None:
    replay = buffer(20)
    arguments = counted(np.arange(4))
    for convert in (
        lambda array: array.astype(np.float64),
        lambda array: array.astype(np.float16),
        lambda array: array.astype(np.int32),
        lambda array: array.tolist(),
        lambda array: torch.from_numpy(array).float().requires_grad_(),
        lambda array: torch.from_numpy(array).to(torch.bfloat16),
    ):
        replay.add(**{name: convert(array) for name, array in arguments.items()})
    assert contents(replay) == [0, 1, 2, 3] * 5
    replay.cleanup()


@pytest.mark.parametrize("critics", [False, True])
@pytest.mark.parametrize("some", [False, True], ids=["one for each row", "one for each end"])
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_true_last_observations_replace_those_after_the_reset(some: bool, critics: bool, data: st.DataObject) -> None:
    batch = data.draw(st.integers(0, 9))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=batch, max_size=batch)), dtype=bool)
    replay = ReplayBuffer(9, 2, 1, "cpu", critic_dim=3 if critics else 0)
    column = np.arange(batch, dtype=np.float32)[:, None]
    two, three = np.array([0.25, 0.5]), np.arange(1, 4)
    next_obs, last = column + two, column + 100 + two
    critic = {"critic": column + three, "next_critic": column + 10 * three} if critics else {}
    last_critic = column + 100 * three
    last[~mask] = np.nan  # rows outside the mask do not count
    finals = {"terminal_next_obs": last[mask] if some else last}
    if critics:
        finals["terminal_next_critic"] = last_critic[mask] if some else last_critic
    next_obs[mask] = np.nan  # nor does what they replace
    replay.add(column.repeat(2, 1), column, column[:, 0], next_obs, mask, mask, mask, **finals, **critic)
    fields = {name: value.numpy() for name, value in replay.fields(replay.rows(0, batch)).items()}
    assert (fields["next_obs"] == np.where(mask[:, None], last, next_obs)).all()
    assert (fields["obs"] == column).all()
    assert (fields["truncated"] == mask).all()
    if critics:
        assert (fields["critic"] == critic["critic"]).all()
        assert (fields["next_critic"] == np.where(mask[:, None], last_critic, critic["next_critic"])).all()
    replay.cleanup()


def test_a_mask_without_any_end_needs_no_last_observations() -> None:
    replay = buffer(4)
    replay.add(**counted([1, 3]), terminal_mask=np.zeros(2, bool))
    assert contents(replay) == [1, 3]
    replay.cleanup()


def test_steps_are_kept() -> None:
    replay = buffer(4, multi_step=True)
    replay.add(**counted([1, 2, 3]), steps=torch.tensor([3, 1, 2]))
    assert replay.fields(replay.rows(0, 3))["steps"].tolist() == [3, 1, 2]
    with pytest.raises(ValueError, match=r"steps must be \[1\] numbers; got nothing"):
        replay.add(**counted([1]))
    replay.cleanup()


NAN, INF = np.full((3, OBS), 1.0), np.full(3, 1.0)
NAN[1, 4], INF[2] = np.nan, -np.inf


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"obs": np.zeros(3)}, r"obs is \[3\]; expected \[B, obs_dim\]"),
        ({"obs": np.zeros((3, OBS + 1))}, r"obs must be \[3, 5\] numbers; got \[3, 6\] float64"),
        ({"actions": np.zeros((2, ACTIONS))}, r"actions must be \[3, 2\] numbers; got \[2, 2\] float64"),
        ({"actions": torch.zeros(3)}, r"actions must be \[3, 2\] numbers; got \[3\] float32"),
        ({"rewards": np.zeros((3, 1))}, r"rewards must be \[3\] numbers; got \[3, 1\]"),
        ({"rewards": np.array(["1", "2", "3"])}, r"rewards must be \[3\] numbers; got \[3\] <U1"),
        ({"rewards": np.zeros(3, complex)}, r"rewards must be \[3\] numbers; got \[3\] complex128"),
        ({"rewards": None}, r"rewards must be \[3\] numbers; got nothing"),
        ({"next_obs": None}, r"next_obs must be \[3, 5\] numbers; got nothing"),
        ({"dones": np.array([0, 1, 2])}, r"dones must be true or false \(1 or 0\); got 2"),
        ({"dones": np.array([0, np.nan, 1])}, r"dones must be true or false \(1 or 0\); got nan"),
        ({"truncated": np.array([0.5, 0, 1])}, "truncated must be true or false"),
        ({"truncated": np.ones(3, bool)}, "truncated is true where dones is false"),
        ({"obs": NAN}, r"obs\[1, 4\] is nan as float32; nothing was added"),
        ({"next_obs": torch.from_numpy(NAN)}, r"next_obs\[1, 4\] is nan"),
        ({"rewards": INF}, r"rewards\[2\] is -inf"),
        ({"rewards": [0.0, 1e300, 0.0]}, r"rewards\[1\] is inf as float32"),
        ({"terminal_next_obs": NAN}, "terminal_next_obs was given without terminal_mask"),
        ({"terminal_mask": [True, False]}, r"terminal_mask must be \[3\] numbers; got \[2\] bool"),
        ({"terminal_mask": [3, 0, 0]}, "terminal_mask must be true or false"),
        (
            {"terminal_mask": [True, False, True]},
            r"terminal_next_obs must be \[3, 5\] or \[2, 5\] numbers; got nothing",
        ),
        (
            {"terminal_mask": [True, False, True], "terminal_next_obs": np.zeros((1, OBS))},
            r"terminal_next_obs must be \[3, 5\] or \[2, 5\] numbers; got \[1, 5\] float64",
        ),
        ({"terminal_mask": [False, True, False], "terminal_next_obs": NAN}, r"next_obs\[1, 4\] is nan"),
        ({"critic": np.zeros((3, 1))}, "critic was given; this buffer has no column for it: create it with critic_dim"),
        (
            {"terminal_mask": np.zeros(3, bool), "terminal_next_critic": np.zeros((3, 1))},
            "terminal_next_critic was given; this buffer has no column",
        ),
        ({"steps": np.ones(3)}, "steps was given; this buffer has no column for it: create it with multi_step=True"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_added(wrong: dict[str, Any], message: str) -> None:
    replay = buffer(10)
    with pytest.raises(ValueError, match=rf"ReplayBuffer\.add: {message}"):
        replay.add(**(counted([1, 2, 3]) | wrong))
    assert (replay.written, len(replay)) == (0, 0)
    replay.add(**counted([5]))
    assert contents(replay) == [5]
    replay.cleanup()


def test_a_buffer_with_critics_needs_them() -> None:
    replay = buffer(10, critic_dim=1)
    with pytest.raises(ValueError, match=r"next_critic must be \[1, 1\] numbers; got nothing"):
        replay.add(**counted([1]), critic=[[1.0]])
    replay.cleanup()


def test_impossible_arguments_raise() -> None:
    for sizes, message in (((0, 1, 1), "capacity is 0"), ((1, 0, 1), "obs_dim is 0"), ((1, 1, -1), "action_dim is -1")):
        with pytest.raises(ValueError, match=message):
            ReplayBuffer(*sizes, "cpu")
    with pytest.raises(SharedMemoryFullError):
        buffer(10**11)


def test_attaching_with_other_sizes_raises() -> None:
    replay = buffer(10)
    with pytest.raises(ValueError, match="created with capacity=10, attached with capacity=11"):
        buffer(11, name=replay.name)
    with pytest.raises(ValueError, match="critic_dim=0, attached with critic_dim=1"):
        attach(replay, critic_dim=1)
    with pytest.raises(ValueError, match="multi_step=0"):
        attach(replay, multi_step=True)
    with pytest.raises(FileNotFoundError):
        buffer(10, name="absent")
    replay.cleanup()


def test_after_close_every_access_raises() -> None:
    replay = buffer(10)
    replay.add(**counted(np.arange(10)))
    state, batch = replay.state_dict(include_rows=True), replay.sample(4)
    replay.close()
    replay.close()
    accesses: list[Callable[[], object]] = [
        lambda: replay.add(**counted([1])),
        lambda: replay.sample(1),
        lambda: replay.sample_packed(1),
        lambda: replay.rows(0, 1),
        lambda: replay.hold(1),
        lambda: replay.state_dict(False),
        lambda: replay.load_state_dict(state),
        lambda: replay.written,
        lambda: replay.window,
        lambda: len(replay),
    ]
    for access in accesses:
        with pytest.raises(SegmentClosedError):
            access()
    assert set(batch["rewards"].tolist()) <= set(range(10))
    replay.cleanup()
    replay.cleanup()


def test_batches_depend_on_the_seed_alone() -> None:
    drawn = []
    for seed in (1, 1, 2):
        replay = buffer(30, seed=seed)
        replay.add(**counted(np.arange(47)))
        drawn.append([sampled(replay) for _ in range(5)])
        replay.cleanup()
    assert drawn[0] == drawn[1] != drawn[2]


def test_held_batches_are_repeatable_while_another_process_adds(quick: Callable[..., Any]) -> None:
    """The same iterations twice: batches drawn before, while and after the other process adds 30 rows each time."""
    runs = []
    for waits in (False, True):
        replay = buffer(100, seed=5)
        here, there = multiprocessing.Pipe()
        quick(add_on_request, replay, there)
        replay.add(**counted(np.arange(85)))
        drawn = []
        for first in range(85, 385, 30):
            replay.hold(30)
            assert replay.window == (max(0, first - 70), first)
            here.send((first, first + 30))
            if waits:
                assert here.poll(SPAWN_SECONDS)
            drawn += [sampled(replay) for _ in range(5)]
            assert here.recv() == first + 30
            drawn.append(sampled(replay))
            replay.release()
            assert replay.window == (max(0, first - 70), first + 30)
        here.send(None)
        runs.append(drawn)
        replay.cleanup()
    assert runs[0] == runs[1]


def test_hold_says_when_nothing_would_be_left() -> None:
    replay = buffer(10)
    for lead in (-1, 10):
        with pytest.raises(ValueError, match=f"lead_rows is {lead}; with a capacity of 10 it must be from 0 to 9"):
            replay.hold(lead)
    replay.hold(3)
    with pytest.raises(ReplayEmptyError):
        replay.sample(1)
    replay.release()
    replay.add(**counted(np.arange(25)))
    replay.hold(9)
    assert set(sampled(replay)) == {24}
    replay.add(**counted(np.arange(25, 37)))  # more than was announced: whole all the same
    assert set(sampled(replay)) <= set(range(27, 37))
    replay.cleanup()


@pytest.mark.parametrize("include_rows", [True, False])
def test_state_goes_through_a_checkpoint(include_rows: bool) -> None:
    first = buffer(20, seed=9)
    first.add(**counted(np.arange(53)))
    sampled(first)
    file = io.BytesIO()
    torch.save(first.state_dict(include_rows), file)
    file.seek(0)
    second = buffer(20, seed=1)
    reader = attach(second)
    second.add(**counted([7] * 31))
    second.hold(3)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert (second.written, len(second)) == (53, 20 if include_rows else 0)
    assert contents(reader) == (list(range(33, 53)) if include_rows else [])
    for replay in (first, second):
        replay.add(**counted(np.arange(53, 60 if include_rows else 80)))
    assert contents(second) == contents(first)
    assert [sampled(second) for _ in range(3)] == [sampled(first) for _ in range(3)]
    reader.close()
    first.cleanup()
    second.cleanup()


def test_state_of_another_buffer() -> None:
    large, small = buffer(20), buffer(8)
    large.add(**counted(np.arange(30)))
    small.load_state_dict(large.state_dict(include_rows=True))
    assert contents(small) == list(range(22, 30))
    wide = buffer(8, critic_dim=2)
    with pytest.raises(ValueError, match=r"saved rows are \[20, 15\]; expected \[n, 19\]"):
        wide.load_state_dict(large.state_dict(include_rows=True))
    for replay in (large, small, wide):
        replay.cleanup()


def test_pickled_it_is_the_same_buffer_for_the_same_device() -> None:
    replay = ReplayBuffer(10, OBS, ACTIONS, "meta", seed=4, multi_step=True)
    copy = pickle.loads(pickle.dumps(replay))
    assert (copy.name, copy.capacity, copy.columns, copy.device) == (
        replay.name,
        replay.capacity,
        replay.columns,
        replay.device,
    )
    copy.close()
    replay.cleanup()


def test_batches_for_a_device() -> None:
    """A device without memory of its own shows what shapes come out."""
    replay = ReplayBuffer(10, OBS, ACTIONS, "meta")
    with pytest.raises(ReplayEmptyError):
        replay.sample(3)
    replay.add(**counted(np.arange(4)))
    batch = replay.sample(3)
    assert {value.device.type for value in batch.values()} == {"meta"}
    assert batch["next_obs"].shape == (3, OBS)
    replay.cleanup()

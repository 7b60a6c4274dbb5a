"""The mailbox and the observation statistics built on it: the latest value wins and nothing ever blocks."""

import pickle
from collections.abc import Callable
from multiprocessing.context import SpawnContext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ipc.conftest import SPAWN_SECONDS
from tests.ipc.processes import get_once, put_for_ever
from unilab.ipc import LatestValue, SegmentClosedError, SharedFlag, SharedObsNormStats


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(), st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False)))))
def test_the_latest_wins_and_comes_once(values: list[Any]) -> None:
    """None stands for a look into the mailbox."""
    mailbox = LatestValue()
    latest: list[Any] = []
    for value in values:
        if value is not None:
            mailbox.put(value)
            latest = [value]
            continue
        assert mailbox.get() == (latest.pop() if latest else None)
        assert mailbox.get() is None
    mailbox.cleanup()


def test_each_reader_gets_it() -> None:
    mailbox = LatestValue()
    mailbox.put("first")
    readers = [pickle.loads(pickle.dumps(mailbox)) for _ in range(2)]
    assert [reader.get() for reader in readers] == ["first", "first"]
    assert [reader.get() for reader in readers] == [None, None]
    mailbox.put_nowait("second")
    assert [reader.get() for reader in readers] == ["second", "second"]
    for reader in readers:
        reader.close()
    mailbox.cleanup()


def test_too_large_a_value_says_so_and_changes_nothing() -> None:
    mailbox = LatestValue(capacity=100)
    mailbox.put("fits")
    with pytest.raises(ValueError, match=r"the pickled value has \d+ bytes, the mailbox holds 100"):
        mailbox.put(b"x" * 100)
    assert mailbox.get() == "fits"
    mailbox.cleanup()


def test_after_close_every_access_raises() -> None:
    mailbox = LatestValue()
    mailbox.put(1)
    mailbox.close()
    mailbox.close()
    for access in (lambda: mailbox.put(2), mailbox.get):
        with pytest.raises(SegmentClosedError):
            access()
    mailbox.cleanup()
    mailbox.cleanup()


def test_a_writer_killed_at_any_instant_never_blocks_the_reader(quick: Callable[..., Any]) -> None:
    mailbox = LatestValue()
    for _ in range(10):
        ready = SharedFlag()
        writer = quick(put_for_ever, mailbox, ready)
        assert ready.wait(SPAWN_SECONDS)
        mailbox.get()
        writer.kill()
        value = mailbox.get()
        assert value is None or (value["array"] == value["number"]).all()
        writer.join()
        mailbox.put({"number": -1})
        assert mailbox.get() == {"number": -1}
    mailbox.cleanup()


def test_statistics_of_any_shape_and_kind(spawn: Callable[..., Any], context: SpawnContext) -> None:
    stats = SharedObsNormStats(context)
    assert stats.get() is None
    for count in range(10_000):  # nobody reads, nothing blocks
        stats.put({"count": count})
    sent = {
        "mean": np.arange(6, dtype=np.float64).reshape(2, 3),
        "variance": torch.ones(4, dtype=torch.float32, requires_grad=True),
        "count": 17,
        "epsilon": torch.tensor(1e-5),
        "empty": np.zeros((0, 3)),
    }
    stats.put(sent)
    receive, send = context.Pipe(duplex=False)
    reader = spawn(get_once, stats, send)
    assert receive.poll(SPAWN_SECONDS)
    received = pickle.loads(receive.recv_bytes())
    reader.join()
    assert received.keys() == sent.keys()
    assert received["mean"].dtype == np.float64
    np.testing.assert_array_equal(received["mean"], sent["mean"])
    assert torch.equal(received["variance"], torch.ones(4))
    assert received["count"] == 17
    assert received["epsilon"] == torch.tensor(1e-5)
    assert received["empty"].shape == (0, 3)
    receive.close()
    send.close()
    stats.cleanup()

"""Recording, parts, and the timeline made of them."""

import json
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracing.traces import inside, process_names, read_trace, spans, thread_names, tracks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.settings import SettingsError
from unilab.tracing import spans as tracing
from unilab.tracing.spans import recording, span, timeline, with_folder
from unilab.tracing.timeline_file import PART_SUFFIX, discard_parts

CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    tracing.stop()


def config(folder: Path, **changes) -> APPOConfig:
    return APPOConfig(trace_enabled=True, trace_output_dir=str(folder), trace_cuda_events=False, **changes)


def test_nothing_is_recorded_unless_started(tmp_path) -> None:
    assert span("a") is span("b")
    with recording("idle", APPOConfig()), timeline("idle", APPOConfig()), span("a"):
        pass
    tracing.start("busy", tmp_path)
    assert span("a") is not span("a")
    tracing.stop()
    tracing.stop()
    assert span("a") is span("b")


Tree = st.recursive(st.just([]), lambda inner: st.lists(st.tuples(st.sampled_from("abc"), inner), max_size=4))


@settings(max_examples=40, deadline=None)
@given(tree=st.lists(st.tuples(st.sampled_from("abc"), Tree), max_size=5), thread_time=st.booleans())
def test_the_timeline_has_the_blocks_as_they_ran(tmp_path_factory, tree, thread_time: bool) -> None:
    def execute(branches, above: tuple[str, ...]) -> None:
        for name, inner in branches:
            ran.append((*above, name))
            with span(name):
                execute(inner, (*above, name))

    ran: list[tuple[str, ...]] = []
    folder = tmp_path_factory.mktemp("tree")
    tracing.start("tree", folder, thread_time=thread_time)
    execute(tree, ())
    tracing.stop()
    events = read_trace(tracing.merge(folder))
    assert process_names(events) == ["tree"]
    assert not list(folder.glob(f"*{PART_SUFFIX}"))
    found, above = [], []
    for event in sorted(spans(events), key=lambda e: e["ts"]):
        while above and not inside(event, above[-1]):
            above.pop()
        above.append(event)
        found.append(tuple(e["name"] for e in above))
        assert ("tdur" in event) == thread_time
    assert found == ran


def test_batches_are_written_while_recording_and_show_what_that_took(tmp_path) -> None:
    tracing.start("p", tmp_path)
    with span("all"):
        for _ in range(3 * tracing.BATCH_SPANS):
            with span("one"):
                pass
        part = next(tmp_path.glob(f"*{PART_SUFFIX}"))
        written = sum(len(json.loads(line).get("spans", ())) for line in part.read_bytes().splitlines())
        assert written >= 2 * tracing.BATCH_SPANS
    tracing.stop()
    events = read_trace(tracing.merge(tmp_path))
    (everything,) = spans(events, "all")
    assert len(spans(events, "one")) == 3 * tracing.BATCH_SPANS
    assert all(inside(event, everything) for event in spans(events))
    assert 2 <= sum(e["name"] == "trace_write" for e in events) <= 4


def test_each_thread_has_a_track_and_ended_threads_are_written(tmp_path) -> None:
    tracing.start("p", tmp_path)
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with span("inner"):
            entered.set()
            leave.wait()

    first = threading.Thread(target=work, name="first")
    with span("outer"):
        first.start()
        entered.wait()
        leave.set()
        first.join()
    second = threading.Thread(target=work, name="second")
    second.start()
    second.join()
    late = threading.Thread(target=work, name="late")
    entered.clear()
    leave.clear()
    late.start()
    entered.wait()
    tracing.stop()  # while a span is open: that one is not in the timeline
    leave.set()
    late.join()
    events = read_trace(tracing.merge(tmp_path))
    assert thread_names(events) == {"MainThread", "first", "second", "late"}
    assert len(tracks(events)) == 3
    assert len(spans(events, "inner")) == 2 and len(spans(events, "outer")) == 1


def record_in_turns(folder: Path, turns: Connection) -> None:
    """In a spawned process: two spans, each between two messages."""
    tracing.start("child", folder)
    for name in ("first", "second"):
        turns.recv()
        with span(name):
            pass
        turns.send(name)
    tracing.stop()


def test_processes_share_one_clock(tmp_path) -> None:
    ours, theirs = CONTEXT.Pipe()
    with timeline("parent", config(tmp_path)):
        child = CONTEXT.Process(target=record_in_turns, args=(tmp_path, theirs))
        child.start()
        for name in ("first", "second"):
            with span(f"around {name}"):
                ours.send(None)
                assert ours.recv() == name
        child.join()
    events = read_trace(tmp_path / "trace.json")
    assert sorted(process_names(events)) == ["child", "parent"]
    for name in ("first", "second"):
        (inner,), (outer,) = spans(events, name), spans(events, f"around {name}")
        assert inner["pid"] != outer["pid"] and inside(inner, outer)


def record_until_killed(folder: Path) -> None:
    tracing.start("doomed", folder)
    for _ in range(2 * tracing.BATCH_SPANS):
        with span("step"):
            pass
    with span("never ends"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_part_of_a_killed_process_is_used(tmp_path) -> None:
    with timeline("parent", config(tmp_path)):
        child = CONTEXT.Process(target=record_until_killed, args=(tmp_path,))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    events = read_trace(tmp_path / "trace.json")
    assert sorted(process_names(events)) == ["doomed", "parent"]
    assert len(spans(events, "step")) >= tracing.BATCH_SPANS
    assert spans(events, "never ends") == []


def test_a_part_is_used_up_to_its_last_whole_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tracing, "BATCH_SPANS", 3)
    tracing.start("p", tmp_path)
    for number in range(9):
        with span(str(number)):
            pass
    tracing.stop()
    part = next(tmp_path.glob(f"*{PART_SUFFIX}"))
    whole = part.read_bytes()
    seen = set()
    for length in range(len(whole) + 1):
        part.write_bytes(whole[:length])
        events = read_trace(tracing.merge(tmp_path))
        names = [event["name"] for event in spans(events)]
        assert names == [str(number) for number in range(len(names))]
        seen.add(len(names))
    assert min(seen) == 0 and max(seen) == 9 and len(seen) > 3


def test_recording_ends_at_its_limit_and_the_timeline_says_so(tmp_path) -> None:
    tracing.start("p", tmp_path, max_spans=2500)
    for _ in range(10_000):
        with span("step"):
            pass
    size = next(tmp_path.glob(f"*{PART_SUFFIX}")).stat().st_size
    assert span("a") is span("b")
    tracing.stop()
    events = read_trace(tracing.merge(tmp_path))
    assert sum(e["ph"] == "X" for e in events) == 2500
    (note,) = [e for e in events if e["ph"] == "i"]
    assert "limit" in note["name"] and note["ts"] >= max(e["ts"] for e in spans(events))
    assert size < 2500 * 60


def test_a_full_disk_ends_the_recording_and_not_the_training(tmp_path) -> None:
    tracing.start("p", tmp_path)
    size = next(tmp_path.glob(f"*{PART_SUFFIX}")).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, hard))  # as good as a full disk
    try:
        with pytest.warns(UserWarning, match=rf"{PART_SUFFIX}: the timeline ends here \(File too large\)"):
            for _ in range(2 * tracing.BATCH_SPANS):
                with span("step"):
                    pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert span("a") is span("b")
    tracing.stop()
    assert process_names(read_trace(tracing.merge(tmp_path))) == ["p"]


def test_thread_time_is_less_than_wall_time_where_a_thread_waits(tmp_path) -> None:
    tracing.start("p", tmp_path, thread_time=True)
    with span("wait"):
        threading.Event().wait(0.05)
    with span("compute"):
        sum(range(100_000))
    tracing.stop()
    events = read_trace(tracing.merge(tmp_path))
    (wait,), (compute,) = spans(events, "wait"), spans(events, "compute")
    assert wait["tdur"] < wait["dur"] and wait["dur"] >= 50_000
    assert compute["tdur"] > 0
    assert compute["tts"] >= wait["tts"] + wait["tdur"]


def test_an_error_passes_through_and_leaves_the_timeline(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), timeline("p", config(tmp_path)), span("divide"):
        _ = 1 / 0
    assert len(spans(read_trace(tmp_path / "trace.json"), "divide")) == 1
    with span("a"):
        assert span("a") is span("b")


def test_an_error_is_not_hidden_by_a_timeline_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "trace.json").mkdir()
    with pytest.raises(ZeroDivisionError) as caught, timeline("p", config(tmp_path)):
        _ = 1 / 0
    assert "cannot be written" in caught.value.__notes__[0]
    with (
        pytest.raises(OSError, match=r"its parts stay.*python -m unilab.tracing.spans"),
        timeline("p", config(tmp_path)),
    ):
        pass
    assert [path.suffix for path in tmp_path.iterdir() if path.is_file()] == [PART_SUFFIX]


def test_a_new_timeline_does_not_take_what_a_killed_run_left(tmp_path) -> None:
    tracing.start("p", tmp_path)
    with span("old"):
        pass
    tracing.stop()
    stale = next(tmp_path.glob(f"*{PART_SUFFIX}"))
    stale.rename(stale.with_name(f"1{PART_SUFFIX}"))
    with timeline("p", config(tmp_path)), span("new"):
        pass
    assert [e["name"] for e in spans(read_trace(tmp_path / "trace.json"))] == ["new"]
    discard_parts(tmp_path)
    with pytest.raises(FileNotFoundError, match="no part of a timeline"):
        tracing.merge(tmp_path)


def test_started_twice_is_an_error(tmp_path) -> None:
    tracing.start("p", tmp_path)
    with pytest.raises(RuntimeError, match="recorded already, as 'p'"):
        tracing.start("q", tmp_path)


def test_the_folder_is_the_log_folder_unless_it_is_set(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    enabled = APPOConfig(trace_enabled=True)
    assert with_folder(enabled, "logs").trace_output_dir == str(tmp_path / "logs")
    assert with_folder(config(tmp_path / "own"), "logs").trace_output_dir == str(tmp_path / "own")
    assert with_folder(APPOConfig(), None) == APPOConfig()
    with pytest.raises(SettingsError, match="trace_output_dir: a run without a log folder"):
        with_folder(enabled, None)
    with pytest.raises(SettingsError, match="trace_output_dir"), recording("p", enabled):
        pass

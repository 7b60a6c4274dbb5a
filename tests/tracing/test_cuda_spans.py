"""Times on a device, with a simulated one whose clock is known; and with a real one where there is one."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.tracing.traces import inside, read_trace, spans, thread_names
from unilab.tracing import cuda_spans
from unilab.tracing import spans as tracing
from unilab.tracing.cuda_spans import MOST_WAITING, CudaSpans
from unilab.tracing.spans import span

US, MS = 1_000, 1_000_000


class Stream:
    def __init__(self, device: "Device", stream_id: int) -> None:
        self.device, self.stream_id, self.device_index = device, stream_id, 0
        self.busy_until = 0

    def launch(self, duration: int) -> None:
        """A kernel of so many ns behind what is queued."""
        self.busy_until = max(self.busy_until, self.device.now) + duration


class Event:
    def __init__(self, device: "Device") -> None:
        self.device = device
        self.at: int | None = None

    def record(self, stream: Stream) -> None:
        self.at = max(stream.busy_until, self.device.now)

    def query(self) -> bool:
        assert self.at is not None
        return self.at <= self.device.now

    def synchronize(self) -> None:
        assert self.at is not None
        self.device.now = max(self.device.now, self.at)

    def elapsed_time(self, end: "Event") -> float:
        """In ms and single precision, on a clock that is 20 ppm fast."""
        assert self.query() and end.query() and self.at is not None and end.at is not None
        return float(np.float32((end.at - self.at) * (1 + 20e-6) / MS))


class Device:
    """Stands for ``torch.cuda``."""

    def __init__(self) -> None:
        self.now = 10**15
        self.stream = Stream(self, 0)
        self.capturing, self.initialized = False, True

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return self.initialized

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def current_stream(self) -> Stream:
        return self.stream

    def Stream(self, index: int) -> Stream:
        assert index == 0
        return Stream(self, 99)

    def Event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)

    def clock(self) -> int:
        self.now += US  # so that no two looks at it are the same
        return self.now


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(cuda_spans, "monotonic_ns", device.clock)
    return device


def test_spans_are_placed_on_the_clock_of_the_host_once_the_device_has_passed_them(device) -> None:
    recorded = CudaSpans(device)
    expected = []
    for _ in range(5):
        begun = recorded.begin("update")
        began = max(device.now, device.stream.busy_until)
        device.stream.launch(3 * MS)
        recorded.end("update", begun)
        expected.append(("update", began, 3 * MS))
        device.now += MS  # the host is ahead of the device
    assert [name for track in recorded.read().values() for name, _, _ in track] == ["update"]
    assert recorded.read() == {}
    device.now += 20 * MS
    found = recorded.read()[0, 0]
    assert len(found) == 4
    for (name, begin, duration), (wanted, at, takes) in zip(found, expected[1:], strict=True):
        assert name == wanted
        assert begin == pytest.approx(at, abs=5 * US)
        assert duration == pytest.approx(takes, abs=US)


def test_waiting_at_the_end_reads_everything_and_events_are_used_again(device) -> None:
    recorded = CudaSpans(device)
    for _ in range(10):
        begun = recorded.begin("update")
        device.stream.launch(3 * MS)
        recorded.end("update", begun)
        assert len(recorded.read(wait=True)[0, 0]) == 1
    assert len(recorded._free[0]) == 2


def test_spans_stay_nested_and_in_order_whatever_the_readings_of_the_clock(device) -> None:
    recorded = CudaSpans(device)
    ends = 0
    for _ in range(20):
        outer = recorded.begin("outer")
        for _ in range(3):
            inner = recorded.begin("inner")
            device.stream.launch(5 * MS + 700)
            recorded.end("inner", inner)
            device.now += 4 * MS
            assert recorded.read() == {}  # a span is open: its begin would be placed by another reading
        recorded.end("outer", outer)
        device.now = device.stream.busy_until + 3
        track = recorded.read()[0, 0]
        (_, begin, duration) = track[-1]
        assert [name for name, _, _ in track] == ["inner"] * 3 + ["outer"] and begin >= ends
        for _, at, takes in track[:-1]:
            assert begin <= at and at + takes <= begin + duration
        ends = begin + duration


def test_nothing_is_marked_in_a_graph_or_when_too_much_waits(device) -> None:
    recorded = CudaSpans(device)
    device.capturing = True
    assert recorded.begin("update") is None and recorded.read() == {}
    device.capturing = False
    device.stream.launch(10**12)
    for _ in range(MOST_WAITING):
        recorded.end("update", recorded.begin("update"))
    assert recorded.begin("update") is None and recorded.left_out == 1
    assert recorded.read() == {}


def test_a_stream_has_a_track_of_its_own_once_the_process_uses_the_device(tmp_path, device, monkeypatch) -> None:
    monkeypatch.setattr(tracing, "monotonic_ns", device.clock)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=device))
    device.initialized = False
    tracing.start("learner", tmp_path, cuda_events=True)
    with span("update"):
        pass
    device.initialized = True
    with span("update"):
        for name in ("gradient", "wait"):
            with span(name):
                device.stream.launch(50 * US)
    tracing.stop()
    events = read_trace(tracing.merge(tmp_path))
    assert thread_names(events) == {"MainThread", "MainThread on cuda:0, stream 0"}
    on_device = [e for e in spans(events) if e["tid"] > 1 << 22]
    assert sorted(e["name"] for e in on_device) == ["gradient", "update"]
    outer, inner = sorted(on_device, key=lambda e: -e["dur"])
    assert inside(inner, outer)
    assert (outer["dur"], inner["dur"]) == (pytest.approx(100, abs=5), pytest.approx(50, abs=5))
    assert len(spans(events)) == 2 + 4


def test_a_broken_device_ends_its_times_and_not_the_timeline(tmp_path, device, monkeypatch) -> None:
    def broken(self: Event) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=device))
    tracing.start("learner", tmp_path, cuda_events=True)
    with span("update"):
        pass
    monkeypatch.setattr(Event, "synchronize", broken)
    tracing.stop()
    events = read_trace(tracing.merge(tmp_path))
    assert len(spans(events, "update")) == 1
    assert "illegal memory access" in next(e["name"] for e in events if e["ph"] == "i")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_device(tmp_path) -> None:
    matrix = torch.rand(4096, 4096, device="cuda")
    torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    tracing.start("learner", tmp_path, cuda_events=True)
    with span("all"):
        for _ in range(20):
            with span("launch"):
                torch.mm(matrix, matrix)
        torch.cuda.synchronize()
    tracing.stop()
    events = read_trace(tracing.merge(tmp_path))
    (everything,) = [e for e in spans(events, "all") if e["tid"] < 1 << 22]
    launched = [e for e in spans(events, "launch") if e["tid"] > 1 << 22]
    assert len(launched) == 20
    assert everything["ts"] - 50 <= min(e["ts"] for e in launched)
    assert max(e["ts"] + e["dur"] for e in launched) <= everything["ts"] + everything["dur"] + 50

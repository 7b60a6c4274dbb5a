"""When the work of a span ran on a CUDA device, measured with events and without waiting for that work."""

from collections import deque
from time import monotonic_ns
from typing import Any

HOST_ONLY = frozenset({"wait", "env_step", "rollout_write", "replay_add"})
"""spans that start no work on a device"""
MOST_WAITING = 4096
"""spans of a thread that wait to be read; more are left out"""

Span = tuple[str, int, int]
"""name, begin and duration in ns"""
Track = tuple[int, int]
"""device and stream"""


class CudaSpans:
    """The device's side of one thread's spans.

    Events are read when the device has passed them and no span is open, so that one reading of the clock places a
    span and all that is in it. For that reading an event goes to a stream that has nothing else in it, and the host
    waits for that one: some 10 us, whatever the other streams still have to do. Doing so each time follows the drift
    between the clocks of host and device.

    Args:
        cuda: the module ``torch.cuda``.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._open = 0
        self._waiting: deque[tuple[str, Any, Any, Any]] = deque()  # name, stream, events of begin and end
        self._free: dict[int, list[Any]] = {}
        self._clock_streams: dict[int, Any] = {}
        self._ends: dict[Track, int] = {}
        self.left_out = 0

    def begin(self, name: str) -> tuple[Any, Any] | None:
        """Mark the begin of a span on the current stream: that stream and an event, which go to ``end``.

        None: this process does not use CUDA (asking does not make it do so), the span starts no work on a device, or
        that stream's work is just captured as a graph.
        """
        if name in HOST_ONLY or not self._cuda.is_initialized() or self._cuda.is_current_stream_capturing():
            return None
        if len(self._waiting) >= MOST_WAITING:
            self.left_out += 1
            return None
        stream = self._cuda.current_stream()
        self._open += 1
        return stream, self._mark(stream)

    def end(self, name: str, begun: tuple[Any, Any]) -> None:
        """Mark the end of a span."""
        self._open -= 1
        self._waiting.append((name, *begun, self._mark(begun[0])))

    def read(self, *, wait: bool = False) -> dict[Track, list[Span]]:
        """The spans that the device has passed since the last call; ``wait``: wait for it to pass all of them.

        Raises:
            RuntimeError: a kernel has failed, and the device with it.
        """
        if not self._waiting or (self._open and not wait) or self._cuda.is_current_stream_capturing():
            return {}
        passed = []
        while self._waiting:
            end = self._waiting[0][-1]
            if wait:
                end.synchronize()
            elif not end.query():
                break
            passed.append(self._waiting.popleft())
        clocks: dict[int, tuple[int, Any]] = {}
        tracks: dict[Track, list[Span]] = {}
        for name, stream, begin, end in passed:
            device, track = stream.device_index, (stream.device_index, stream.stream_id)
            if device not in clocks:
                clocks[device] = self._read_clock(device)
            earliest = self._ends.get(track, 0)  # two readings differ by microseconds, spans must not overlap
            begin_ns = max(earliest, _nanoseconds(begin, *clocks[device]))
            duration = max(0, _nanoseconds(end, *clocks[device]) - begin_ns)
            tracks.setdefault(track, []).append((name, begin_ns, duration))
            self._free[device] += (begin, end)
        for track, spans in tracks.items():
            self._ends[track] = max(begin_ns + duration for _, begin_ns, duration in spans)
        return tracks

    def _mark(self, stream: Any) -> Any:
        free = self._free.setdefault(stream.device_index, [])
        event = free.pop() if free else self._cuda.Event(enable_timing=True)
        event.record(stream)
        return event

    def _read_clock(self, device: int) -> tuple[int, Any]:
        """The host's time in ns of an event that comes after all that are to be read, and the event."""
        if device not in self._clock_streams:
            self._clock_streams[device] = self._cuda.Stream(device)
        event = self._cuda.Event(enable_timing=True)
        before = monotonic_ns()
        event.record(self._clock_streams[device])
        event.synchronize()
        return (before + monotonic_ns()) // 2, event


def _nanoseconds(event: Any, clock_ns: int, clock: Any) -> int:
    return clock_ns - round(event.elapsed_time(clock) * 1e6)

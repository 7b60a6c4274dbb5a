"""A timeline of all processes of a run: which thread did what when, and what it waited for.

    with span("env_step"):
        result = env.step(actions)

is recorded per process and thread between ``start`` and ``stop``; elsewhere it costs some 0.1 us. Each process writes
a part of its own (see ``timeline_file``), and ``merge`` makes of the parts a ``trace.json`` that https://ui.perfetto.dev
and chrome://tracing open. A trainer needs two lines: ``with timeline(...)`` around the whole run in the process that
started it, ``with recording(...)`` in its collectors.

    python -m unilab.tracing.spans FOLDER

merges the parts that a killed run left.
"""

import dataclasses
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns, thread_time_ns
from typing import Any, Protocol, TypeVar

from unilab.settings import SettingsError
from unilab.tracing.cuda_spans import CudaSpans, Track
from unilab.tracing.timeline_file import PART_SUFFIX, TRACE_FILE, discard_parts, merge

__all__ = ["TRACE_FILE", "merge", "recording", "span", "start", "stop", "timeline", "with_folder"]

BATCH_SPANS = 1024
"""spans that a thread keeps, some 150 bytes each, before it writes them"""
BATCH_NANOSECONDS = 1_000_000_000
"""... and the time after which it writes fewer: a killed process loses what it has not written"""
MAX_SPANS = 500_000
"""spans of one process, some 50 MB of trace.json; recording ends there, and the trace says so"""
CUDA_TRACKS = 1 << 22
"""the first number of a track that stands for a CUDA stream: above all process and thread ids of Linux"""


class TraceSettings(Protocol):
    """The settings that all trainers have for this."""

    @property
    def trace_enabled(self) -> bool: ...
    @property
    def trace_output_dir(self) -> str | None: ...
    @property
    def trace_thread_time(self) -> bool: ...
    @property
    def trace_cuda_events(self) -> bool: ...


Settings = TypeVar("Settings", bound=TraceSettings)


class Span:
    """A block of code; this one is not recorded."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:  # *_ would make a tuple each time
        return None


_OFF = Span()
_recorder: "Recorder | None" = None
"""None as well once the recorder has reached its limit"""
_started: "Recorder | None" = None


def span(name: str) -> Span:
    """Record the block under this name, if this process records. Spans of one thread nest."""
    recorder = _recorder
    return _OFF if recorder is None else recorder.span(name)


def start(
    process_name: str,
    folder: Path,
    *,
    thread_time: bool = False,
    cuda_events: bool = False,
    max_spans: int = MAX_SPANS,
) -> None:
    """Record this process from now on, in a part in ``folder``.

    Args:
        process_name: as the timeline shows it.
        folder: made when it is not there.
        thread_time: also the processor time of each span, which costs two more readings of a clock.
        cuda_events: also the time on the device, once this process uses CUDA.
        max_spans: recording ends when so many were written.

    Raises:
        RuntimeError: it has been started already.
        OSError: the folder refuses.
    """
    global _recorder, _started
    if _started is not None:
        raise RuntimeError(f"this process is recorded already, as '{_started.process_name}'; call stop() first")
    _recorder = _started = Recorder(process_name, folder, thread_time, cuda_events, max_spans)


def stop() -> None:
    """End the recording and write what is not yet written; does nothing where nothing is recorded."""
    global _recorder, _started
    recorder, _recorder, _started = _started, None, None
    if recorder is not None:
        recorder.close()


def with_folder(settings: Settings, log_dir: str | Path | None) -> Settings:
    """The settings with the folder of the timeline in them: an absolute ``trace_output_dir``, if it is enabled.

    Raises:
        SettingsError: there is neither a folder nor a log folder.
    """
    if not settings.trace_enabled:
        return settings
    folder = settings.trace_output_dir or log_dir
    if folder is None:
        raise SettingsError("trace_output_dir", "a run without a log folder is traced only with this setting; set it")
    traced: Any = settings
    return dataclasses.replace(traced, trace_output_dir=str(Path(folder).absolute()))


@contextmanager
def recording(process_name: str, settings: TraceSettings) -> Iterator[None]:
    """Record this process while the block runs, if ``settings`` (see ``with_folder``) say so."""
    if not settings.trace_enabled:
        yield
        return
    start(
        process_name,
        _folder(settings),
        thread_time=settings.trace_thread_time,
        cuda_events=settings.trace_cuda_events,
    )
    try:
        yield
    finally:
        stop()


@contextmanager
def timeline(process_name: str, settings: TraceSettings) -> Iterator[None]:
    """``recording`` for the process that starts the others, and ends them within the block: merges all their parts.

    Whatever ends the block, what was recorded until then becomes the timeline.

    Raises:
        OSError: the timeline cannot be written; when the block has failed, its error is raised with a note instead.
    """
    if not settings.trace_enabled:
        yield
        return
    folder = _folder(settings)
    discard_parts(folder)
    try:
        with recording(process_name, settings):
            yield
    except BaseException as error:
        try:
            merge(folder)
        except OSError as problem:
            error.add_note(str(problem))
        raise
    merge(folder)


def _folder(settings: TraceSettings) -> Path:
    if settings.trace_output_dir is None:
        raise SettingsError("trace_output_dir", "is needed here; with_folder() fills it in")
    return Path(settings.trace_output_dir)


class Recorder:
    """Collects the spans of one process and writes them to its part, in batches, on the threads that they are of.

    A part that cannot be written ends the recording with a warning, not the training.
    """

    def __init__(self, process_name: str, folder: Path, thread_time: bool, cuda_events: bool, max_spans: int) -> None:
        self.process_name = process_name
        self.thread_time = thread_time
        torch = sys.modules.get("torch") if cuda_events else None
        self._cuda = torch.cuda if torch is not None and torch.cuda.is_available() else None
        self._left = max_spans
        self._lock = threading.Lock()
        self._local = threading.local()
        self._threads: list[_Thread] = []
        self._tracks: dict[tuple[_Thread, Track], int] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{os.getpid()}{PART_SUFFIX}"
        self._file: int | None = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        self._put({"process": process_name, "pid": os.getpid(), "began": monotonic_ns()})

    def span(self, name: str) -> Span:
        try:
            thread: _Thread = self._local.thread
        except AttributeError:
            thread = self._local.thread = self._register()
        return _RecordedSpan(thread, name)

    def write(self, thread: "_Thread", *, wait: bool = False) -> None:
        """Write what the thread has; ``wait``: also what its devices have still to do."""
        with self._lock:
            count = len(thread.spans)  # its owner may add some meanwhile
            self._write_spans(thread.tid, thread.spans[:count])
            del thread.spans[:count]
            if thread.cuda is None:
                return
            try:
                tracks = thread.cuda.read(wait=wait)
            except RuntimeError as error:  # the device's; what it broke tells its own story
                self._note(f"the times on the device end here: {error}")
                thread.cuda = None
                return
            if thread.cuda.left_out:
                self._note(f"{thread.cuda.left_out} spans without times on the device, which is too far behind")
                thread.cuda.left_out = 0
            for track, spans in tracks.items():
                number = self._tracks.get((thread, track))
                if number is None:
                    number = self._tracks[thread, track] = CUDA_TRACKS * (len(self._tracks) + 1) + os.getpid()
                    name = f"{thread.thread.name} on cuda:{track[0]}, stream {track[1]}"
                    self._put({"thread": name, "tid": number})
                self._write_spans(number, spans)

    def close(self) -> None:
        """Write everything."""
        for thread in self._threads:
            self.write(thread, wait=True)
        with self._lock:
            self._close()

    def _register(self) -> "_Thread":
        """Register the calling thread, and forget threads that have ended."""
        thread = _Thread(self, None if self._cuda is None else CudaSpans(self._cuda))
        with self._lock:
            ended = [known for known in self._threads if not known.thread.is_alive()]
            self._threads = [known for known in self._threads if known not in ended] + [thread]
            self._put({"thread": thread.thread.name, "tid": thread.tid})
        for gone in ended:
            self.write(gone, wait=True)
        return thread

    def _write_spans(self, tid: int, spans: Sequence[tuple[Any, ...]]) -> None:
        if not spans:
            return
        self._put({"tid": tid, "spans": spans[: self._left]})
        self._left -= len(spans)
        if self._left <= 0:
            self._note("the limit of spans is reached: nothing is recorded from here")
            self._close()

    def _note(self, text: str) -> None:
        self._put({"note": text, "at": monotonic_ns()})

    def _put(self, content: dict[str, Any]) -> None:
        """Write a line, which is on its way to the disk when this returns; nothing once the recording has ended."""
        data = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        try:
            while self._file is not None and data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            warnings.warn(f"{self._path}: the timeline ends here ({error.strerror or error})", stacklevel=2)
            self._close()

    def _close(self) -> None:
        global _recorder
        if self._file is not None:
            os.close(self._file)
            self._file = None
            if _recorder is self:
                _recorder = None


class _Thread:
    """What one thread has recorded and not yet written. Only that thread adds, ``Recorder.write`` takes."""

    __slots__ = ("cuda", "recorder", "spans", "thread", "tid", "write_at")

    def __init__(self, recorder: Recorder, cuda: CudaSpans | None) -> None:
        self.recorder = recorder
        self.cuda = cuda
        self.spans: list[tuple[Any, ...]] = []
        self.thread = threading.current_thread()
        self.tid = threading.get_native_id()
        self.write_at = monotonic_ns() + BATCH_NANOSECONDS


class _RecordedSpan(Span):
    """On the host, and on a track of its own on the device."""

    __slots__ = ("_begin", "_begun", "_name", "_thread", "_thread_begin")

    def __init__(self, thread: _Thread, name: str) -> None:
        self._thread = thread
        self._name = name

    def __enter__(self) -> None:
        thread = self._thread
        self._begin = monotonic_ns()
        if thread.recorder.thread_time:
            self._thread_begin = thread_time_ns()  # this clock stands still while the thread does
        self._begun = None if thread.cuda is None else thread.cuda.begin(self._name)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        thread, recorder = self._thread, self._thread.recorder
        if self._begun is not None and thread.cuda is not None:
            thread.cuda.end(self._name, self._begun)
        if recorder.thread_time:
            thread_time = thread_time_ns() - self._thread_begin
            end = monotonic_ns()
            thread.spans.append((self._name, self._begin, end - self._begin, self._thread_begin, thread_time))
        else:
            end = monotonic_ns()
            thread.spans.append((self._name, self._begin, end - self._begin))
        if end >= thread.write_at or len(thread.spans) >= BATCH_SPANS:
            recorder.write(thread)
            written = monotonic_ns()  # the timeline shows that this took time
            thread.spans.append(("trace_write", end, written - end))
            thread.write_at = written + BATCH_NANOSECONDS


if __name__ == "__main__":
    print(merge(Path(sys.argv[1])))

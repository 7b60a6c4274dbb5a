"""The files of a timeline: one part a process while it records, one ``trace.json`` of all of them afterwards.

A part is lines of JSON: first the process, then each thread at its first span, batches of spans, and notes. Whatever
ends a process, its part is readable up to its last whole line. ``trace.json`` is in the Chrome trace event format.
"""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PART_SUFFIX = ".trace-part"
TRACE_FILE = "trace.json"


class PartWriter:
    """Appends lines to the part of this process; each line is on its way to the disk when ``write`` returns.

    Raises:
        OSError: the folder or the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{os.getpid()}{PART_SUFFIX}"
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)

    def write(self, content: dict[str, Any]) -> None:
        data = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        while data:
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        os.close(self._file)


def parts(folder: Path) -> list[Path]:
    """The parts that wait to be merged."""
    return sorted(folder.glob(f"*{PART_SUFFIX}"))


def discard_parts(folder: Path) -> None:
    """Remove what a run that was killed left in ``folder``, so that it is not taken for the next one's."""
    for part in parts(folder):
        part.unlink()


def merge(folder: Path) -> Path:
    """Make ``trace.json`` out of the parts in ``folder`` and remove them; for when their processes have ended.

    Times are microseconds since the first process began to record. An earlier ``trace.json`` is replaced as a whole.

    Raises:
        FileNotFoundError: there is no part.
        OSError: the trace cannot be written; the parts stay, and so does an earlier trace.
    """
    found = parts(folder)
    if not found:
        raise FileNotFoundError(f"{folder}: no part of a timeline is here; was tracing started with this folder?")
    headers = [next(_lines(part), None) for part in found]
    origin = min((header["began"] for header in headers if header), default=0)
    target = folder / TRACE_FILE
    beside = folder / f".{TRACE_FILE}.{os.getpid()}.tmp"
    try:
        with beside.open("w", encoding="utf-8") as file:
            _write_events(file, (event for part in found for event in _events(part, origin)))
        beside.replace(target)
    except OSError as error:
        reason = f"the timeline cannot be written ({error.strerror or error}); its parts stay: free some space, then "
        again = f"python -m unilab.tracing.spans {shlex.quote(str(folder))}"
        raise OSError(error.errno, reason + again, str(target)) from error
    finally:
        beside.unlink(missing_ok=True)
    for part in found:
        part.unlink()
    return target


def _write_events(file: IO[str], events: Iterator[dict[str, Any]]) -> None:
    file.write('{"displayTimeUnit":"ms","traceEvents":[')
    separator = "\n"
    for event in events:
        file.write(separator + json.dumps(event, separators=(",", ":")))
        separator = ",\n"
    file.write("\n]}\n")


def _lines(part: Path) -> Iterator[dict[str, Any]]:
    """The lines of a part, up to the first one that is not whole."""
    with part.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                content = json.loads(line)
            except ValueError:
                return
            yield content


def _events(part: Path, origin: int) -> Iterator[dict[str, Any]]:
    """The events of one part; times in ns on the clock that all processes share become us since ``origin``."""
    pid = 0
    for line in _lines(part):
        if "process" in line:
            pid = line["pid"]
            yield _named("process_name", pid, pid, name=line["process"])
            yield _named("process_sort_index", pid, pid, sort_index=(line["began"] - origin) // 1_000_000)
        elif "thread" in line:
            yield _named("thread_name", pid, line["tid"], name=line["thread"])
        elif "note" in line:
            at = (line["at"] - origin) / 1000
            yield {"name": line["note"], "ph": "i", "s": "p", "pid": pid, "tid": pid, "ts": at}
        else:
            for span in line["spans"]:
                yield _complete(pid, line["tid"], span, origin)


def _named(what: str, pid: int, tid: int, **arguments: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": arguments}


def _complete(pid: int, tid: int, span: list[Any], origin: int) -> dict[str, Any]:
    name, begin, duration, *thread_time = span
    event = {
        "name": name,
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "ts": (begin - origin) / 1000,
        "dur": duration / 1000,
    }
    if thread_time:
        event["tts"], event["tdur"] = (value / 1000 for value in thread_time)
    return event

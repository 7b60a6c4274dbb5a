"""The files of a timeline: one part a process while it records, one ``trace.json`` of all of them afterwards.

A part is lines of JSON: first the process, then each thread at its first span, batches of spans, and notes. Whatever
ends a process, its part is readable up to its last whole line. ``trace.json`` is in the Chrome trace event format.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unilab.machine.replacing import replacing

PART_SUFFIX = ".trace-part"
"""of the file that a process writes, whose name is the process id"""
TRACE_FILE = "trace.json"


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
    try:
        with replacing(target) as beside, beside.open("w", encoding="utf-8") as file:
            separator = '{"displayTimeUnit":"ms","traceEvents":[\n'
            for event in (event for part in found for event in _events(part, origin)):
                file.write(separator + json.dumps(event, separators=(",", ":")))
                separator = ",\n"
            file.write("\n]}\n" if separator == ",\n" else separator + "]}\n")
    except OSError as error:
        reason = f"the timeline cannot be written ({error.strerror or error}); its parts stay: free some space, then "
        again = f"python -m unilab.tracing.spans {shlex.quote(str(folder))}"
        raise OSError(error.errno, reason + again, str(target)) from error
    for part in found:
        part.unlink()
    return target


def _lines(part: Path) -> Iterator[dict[str, Any]]:
    """The lines of a part, up to the first one that is not whole."""
    with part.open("rb") as file:
        for line in file:
            try:
                content = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if content is None:
                return
            yield content


def _events(part: Path, origin: int) -> Iterator[dict[str, Any]]:
    """The events of one part; times in ns on the clock that all processes share become us since ``origin``."""
    pid = 0
    for line in _lines(part):
        if "process" in line:
            pid = line["pid"]
            process = {"ph": "M", "pid": pid, "tid": pid}
            yield process | {"name": "process_name", "args": {"name": line["process"]}}
            order = (line["began"] - origin) // 1_000_000
            yield process | {"name": "process_sort_index", "args": {"sort_index": order}}
        elif "thread" in line:
            thread = {"ph": "M", "pid": pid, "tid": line["tid"]}
            yield thread | {"name": "thread_name", "args": {"name": line["thread"]}}
        elif "note" in line:
            at = (line["at"] - origin) / 1000
            yield {"name": line["note"], "ph": "i", "s": "p", "pid": pid, "tid": pid, "ts": at}
        else:
            for name, begin, duration, *thread_time in line["spans"]:
                event = {"name": name, "ph": "X", "pid": pid, "tid": line["tid"]}
                event |= {"ts": (begin - origin) / 1000, "dur": duration / 1000}
                if thread_time:
                    event |= {"tts": thread_time[0] / 1000, "tdur": thread_time[1] / 1000}
                yield event

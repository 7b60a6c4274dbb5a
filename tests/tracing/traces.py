"""What is true of every timeline, checked as strictly as the trace event format can be."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

KEYS = {
    "M": ({"name", "ph", "pid", "tid", "args"}, set()),
    "X": ({"name", "ph", "pid", "tid", "ts", "dur"}, {"tts", "tdur"}),
    "i": ({"name", "ph", "pid", "tid", "ts", "s"}, set()),
}
"""required and possible keys of each kind of event"""
METADATA = {"process_name": ("name", str), "process_sort_index": ("sort_index", int), "thread_name": ("name", str)}


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events of a trace, after checking all of it."""
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    assert content.keys() == {"traceEvents", "displayTimeUnit"}
    assert content["displayTimeUnit"] in ("ms", "ns")
    events = content["traceEvents"]
    for event in events:
        check_event(event)
    metadata = Counter((e["pid"], e["tid"], e["name"]) for e in events if e["ph"] == "M")
    assert set(metadata.values()) <= {1}, "named twice"
    for event in events:
        assert (event["pid"], event["pid"], "process_name") in metadata, f"process of {event} has no name"
        if event["ph"] == "X":
            assert (event["pid"], event["tid"], "thread_name") in metadata, f"thread of {event} has no name"
    assert len({e["tid"] for e in events if e["name"] == "thread_name"}) == metadata_count(events, "thread_name")
    for track in tracks(events).values():
        check_nesting(track)
    return events


def metadata_count(events: list[dict[str, Any]], name: str) -> int:
    return sum(e["name"] == name for e in events if e["ph"] == "M")


def check_event(event: dict[str, Any]) -> None:
    assert event["ph"] in KEYS, event
    required, possible = KEYS[event["ph"]]
    assert required <= event.keys() <= required | possible, event
    assert isinstance(event["name"], str) and event["name"]
    for key in ("pid", "tid"):
        assert type(event[key]) is int and 0 < event[key] < 2**32, event
    for key in ("ts", "dur", "tts", "tdur"):
        if key in event:
            assert type(event[key]) in (int, float) and event[key] >= 0, event
    assert ("tts" in event) == ("tdur" in event)
    if event["ph"] == "M":
        key, kind = METADATA[event["name"]]
        assert event["args"].keys() == {key} and type(event["args"][key]) is kind, event
    if event["ph"] == "i":
        assert event["s"] in ("g", "p", "t")


def nanoseconds(microseconds: float) -> int:
    return round(microseconds * 1000)


def tracks(events: list[dict[str, Any]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """Spans of each thread, outer ones before those in them."""
    result = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            result[event["pid"], event["tid"]].append(event)
    for track in result.values():
        track.sort(key=lambda e: (nanoseconds(e["ts"]), -nanoseconds(e["dur"])))
    return dict(result)


def check_nesting(track: list[dict[str, Any]]) -> None:
    """Each span ends before the next begins, or lies within the one that is open."""
    ends: list[int] = []
    for event in track:
        begin = nanoseconds(event["ts"])
        end = begin + nanoseconds(event["dur"])
        while ends and ends[-1] <= begin:
            ends.pop()
        assert not ends or end <= ends[-1], f"{event} reaches over the span that it is in"
        ends.append(end)


def spans(events: list[dict[str, Any]], name: str | None = None) -> list[dict[str, Any]]:
    """Recorded blocks, those of the recorder itself left out."""
    found = [e for e in events if e["ph"] == "X" and e["name"] != "trace_write"]
    return [e for e in found if name in (None, e["name"])]


def thread_names(events: list[dict[str, Any]]) -> set[str]:
    return {e["args"]["name"] for e in events if e["name"] == "thread_name"}


def process_names(events: list[dict[str, Any]]) -> list[str]:
    return [e["args"]["name"] for e in events if e["name"] == "process_name"]


def inside(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    return outer["ts"] <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]

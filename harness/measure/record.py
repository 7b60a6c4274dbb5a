"""What a repeat leaves: one JSON line, appended and flushed when it ends. Everything else is made from these lines."""

import dataclasses
import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from harness.files.writing import writing
from harness.suite.metrics import RETURNS, TIMES
from unilab.machine.replacing import replacing

State = Literal["complete", "pruned", "infeasible", "failed", "timeout"]
Phase = Literal["search", "confirm", "learning"]
Key = tuple[int, str, int, int]
"""trial, phase, repeat and attempt"""

KINDS: dict[Any, tuple[type, ...]] = {
    str: (str,), int: (int,), float: (int, float, type(None)), bool: (bool,), str | None: (str, type(None)),
    State: (str,), Phase: (str,),
}  # fmt: skip
"""what JSON may have for a field, by the type that it is declared with; None for a float stands for NaN"""
SECOND_LOOK = 1000
"""number of the first repeat of the search's second look: those of the confirmation follow those of the search"""
FIRST_SEED = 2000
"""number of the first seed that shows whether a trial learns as well as the baseline"""
GROUPS = ("params", "budget_items", "judged")
"""fields that are dictionaries, flattened to dotted names"""


@dataclass(frozen=True)
class Record:
    """One repeat of one trial. Rates and fractions are over the steady window; NaN is what was not measured."""

    study: str
    """id of the study that the repeat belongs to"""
    trial: int
    """number of the configuration, from 0"""
    repeat: int
    """number of the repeat of its trial. From 1000 on it is one of the second look, from 2000 on a seed that is trained
    to see whether the trial learns as well"""
    state: State
    """how the repeat ended"""
    phase: Phase = "search"
    """what it was measured for"""
    baseline: bool = False
    """its configuration is the baseline"""
    pinned: str = ""
    """name that the suite gives this configuration; empty if the suite does not pin it"""
    error: str | None = None
    """why the repeat did not complete"""
    params: dict[str, Any] = field(default_factory=dict)
    """settings that the search or the baseline chose, by dotted names"""
    seed: int = 0
    """seed that the trainer was given"""
    env_steps_per_second: float = math.nan
    """env steps a second that were trained on, each counted once"""
    updates_per_second: float = math.nan
    """optimizer steps a second"""
    samples_per_second: float = math.nan
    """transitions that went through updates a second, counted once for each update"""
    episode_return: float = math.nan
    """mean return of the last 100 finished episodes, at the end"""
    episodes: int = 0
    """episodes that finished in training"""
    policy_lag_mean: float = math.nan
    """iterations of the learner between the weights that acted and those that learned"""
    dropped_rollouts: int = 0
    """rollouts that a full ring gave up"""
    collector_busy_fraction: float = math.nan
    """share of its time in which the collector worked"""
    learner_busy_fraction: float = math.nan
    """share of its time in which the learner worked"""
    learner_wait_fraction: float = math.nan
    """share of its time in which the learner waited for the collector"""
    collector_wait_fraction: float = math.nan
    """share of its time in which the collector waited for the learner"""
    device_busy_fraction: float = math.nan
    """part of the steady window in which the GPU of the machine ran a kernel, by its driver; NaN: not known"""
    budget_host_bytes: int = 0
    """predicted memory of this machine, shared memory included"""
    budget_shm_bytes: int = 0
    """predicted shared memory"""
    budget_device_bytes: int = 0
    """predicted memory of a device"""
    peak_host_bytes: int = 0
    """largest measured memory of all processes together, shared memory included"""
    peak_shm_bytes: int = 0
    """largest measured shared memory"""
    peak_device_bytes: int = 0
    """largest measured memory of a device"""
    memory_accounting: str = "pss"
    """how the peak was counted: pss, or rss (too high), or in records of an earlier version uss (too low)"""
    env_steps: int = 0
    """env steps of the whole repeat"""
    wall_seconds: float = 0.0
    """lifetime of the process, its start included"""
    steady_seconds: float = 0.0
    """length of the steady window"""
    started_at: str = ""
    """when the repeat began, in UTC, by ISO 8601"""
    commit: str = ""
    """commit of the code that was measured"""
    machine: str = ""
    """name of the machine, with digits that stand for its hardware"""
    node: str = ""
    """node of a cluster that measured the repeat; empty if the study's own machine did"""
    shared: bool = False
    """other trials of the study may have run on the node at the same time"""
    log: str = ""
    """folder of the repeat's output, relative to the study"""
    in_turns: bool = False
    """it took turns with the others of its block, a fraction of a second each; its busy fractions are not known"""
    traced: bool = False
    """measured with --trace, which takes some of the speed; the timeline is trace.json in ``log``"""
    unsteady: bool = False
    """the throughputs of the two halves of the steady window differ by more than 5 %, or it was too short to tell"""
    half_ratio: float = math.nan
    """throughput of the second half of the steady window over that of the first"""
    disturbed: str = ""
    """what disturbed the measurement; empty when nothing did"""
    disturbance: float = math.nan
    """processor time that was taken from the repeat, divided by the limit that counts as a disturbance. A repeat above
    1 is disturbed. Repeats that took turns have the largest value of their block. NaN: not measured"""
    attempt: int = 0
    """number of the attempt. A disturbed attempt stays, and the repeat is tried again under the next number. The least
    disturbed attempt counts"""
    anew: bool = False
    """earlier attempts do not count, because their block was cut short or the node that measured them was lost"""
    other_cpu_fraction: float = math.nan
    """part of the usable cores that processes outside of the trial took during the steady window"""
    load_average: float = math.nan
    """load average of one minute, when the repeat began"""
    throttled_seconds: float = math.nan
    """time that the container's quota held the trial back during the steady window, of all cores together"""
    queue_wait_fraction: float = math.nan
    """part of the time in which the trial's threads were ready to run that they waited for a core, in the steady
    window"""
    evaluated_return: float = math.nan
    """mean return of whole episodes that the trained policy played without noise after the training"""
    return_at_budget: float = math.nan
    """mean episode return when the budget of env steps or seconds was used up"""
    seconds_to_return: float = math.nan
    """wall time until the target return was reached"""
    seconds_to_success: float = math.nan
    """wall time of the first kept policy with which the environment is solved, judged after the training"""
    judged: dict[str, float] = field(default_factory=dict)
    """what the environment says of the last policy, by name"""
    predicted_env_steps_per_second: float = math.nan
    """predicted before anything was run, from what the parts of a round cost"""
    async_efficiency: float = math.nan
    """throughput, divided by what the ceilings of this machine allow for these settings"""
    expected_gain: float = math.nan
    """gain over the best trial so far that the search expected when it chose this one, as a part of the best"""
    verdict: str = ""
    """what limited the throughput, and which settings would raise it, in words"""
    budget_items: dict[str, int] = field(default_factory=dict)
    """the predicted memory item by item, bytes"""
    calibrated_host_bytes: int = 0
    """``budget_host_bytes`` times this machine's calibration factor"""
    confirm_repeats: int = 0
    """value of ``confirm.repeats`` when the repeat was measured; for a seed that is trained, of
    ``confirm.learning.seeds``; 0 in the search. Each different value in a confirmation counts as one more look at the
    result, and the level of the test is divided by the number of looks"""
    suite_hash: str = ""
    """hash of the suite that was run"""
    dirty: bool = False
    """the code had changes that were not committed"""
    versions: str = ""
    """versions of the packages that matter, as "torch 2.13.0, mujoco 4.0.0" """
    threads: str = ""
    """threads of the trial, as "env 2, inference 1, learner 2" """

    def flat(self) -> dict[str, Any]:
        """One level, dictionaries as ``params.<dotted name>``; numbers that JSON does not have become None."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in GROUPS}
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        for group in GROUPS:
            values |= {f"{group}.{name}": value for name, value in getattr(self, group).items()}
        return values

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> "Record":
        """Back from ``flat``; fields of a newer version are left out.

        The content is not trusted: names of commits and of folders are checked here.

        Raises:
            ValueError, TypeError: not a record.
        """
        if not isinstance(flat, Mapping):
            raise TypeError(f"expected a record, got {type(flat).__name__}")
        groups = {
            group: {k.removeprefix(f"{group}."): v for k, v in flat.items() if k.startswith(f"{group}.")}
            for group in GROUPS
        }
        known = {f.name: f for f in dataclasses.fields(cls) if f.name not in GROUPS}
        values = {key: value for key, value in flat.items() if key in known}
        for name, value in values.items():
            kind: Any = known[name].type
            if type(value) not in KINDS[kind] or (kind in (State, Phase) and value not in get_args(kind)):
                raise ValueError(f"{name} is {value!r}")
            if value is None and kind is float:
                values[name] = math.nan
        if not re.fullmatch(r"[0-9a-f]*", values.get("commit", "")):
            raise ValueError(f"a commit has hexadecimal digits, not {values['commit']!r}")
        if not inside(values.get("log", "")):
            raise ValueError(f"the folder of a repeat is inside its study, not {values['log']!r}")
        return cls(**(values | groups))

    @property
    def kind(self) -> str:
        """The kind of its numbers. Different kinds are never compared, ranked, drawn or kept in history together."""
        how = "in turns" if self.in_turns else "on a shared node" if self.shared else "alone"
        return f"{how}, traced" if self.traced else how

    @property
    def second_look(self) -> bool:
        """Whether it is a second look of the search at one of its best."""
        return self.phase == "search" and self.repeat >= SECOND_LOOK

    def metric(self, name: str) -> float:
        """The value of a metric of ``METRICS``."""
        return float(getattr(self, name))


def key_of(record: Record) -> Key:
    """What names an attempt within a study: trial, phase, repeat and attempt."""
    return record.trial, record.phase, record.repeat, record.attempt


def now() -> str:
    """This moment as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def inside(name: str) -> bool:
    """Whether a relative path, as records and other machines name them, stays below the folder that it is joined to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def attempts_that_count(records: Iterable[Record]) -> list[Record]:
    """The record that counts for each repeat: where it was measured again, the least disturbed of its attempts.

    An attempt that failed does not count where another one was complete: a disturbed number says more than none. A
    pruned attempt counts: it was measured, and its curve was hopeless.
    """
    attempts: dict[tuple[int, int, Phase], list[Record]] = {}
    for record in records:
        own = attempts.setdefault((record.trial, record.repeat, record.phase), [])
        if record.anew:
            own.clear()
        own.append(record)

    def doubt(record: Record) -> tuple[bool, float]:
        return record.state not in ("complete", "pruned"), disturbance(record)

    # of attempts that are alike the last
    return [min(reversed(own), key=doubt) for own in attempts.values()]


def disturbance(record: Record) -> float:
    """How much a repeat was disturbed, to be compared with that of its other attempts."""
    if math.isfinite(record.disturbance):
        return record.disturbance
    return math.inf if record.disturbed else 0.0


def median(records: Iterable[Record], metric: str) -> float:
    """Median over the complete repeats that have the metric; NaN when none has."""
    values = [r.metric(metric) for r in records if r.state == "complete"]
    return statistics.median([v for v in values if not math.isnan(v)] or [math.nan])


def typical(records: Iterable[Record], metric: str) -> float:
    """The value that stands for a configuration, in rankings and in tables.

    It is the interquartile mean over seeds for a return (Agarwal et al. 2021, arXiv:2108.13264), and the median for
    everything else. For a time of ``TIMES`` a repeat that never got there counts as later than any other; the value is
    NaN when half of the repeats or more did not. Leaving those out would favour a configuration that seldom gets there.
    """
    complete = [record for record in records if record.state == "complete"]
    if metric in RETURNS:
        from harness.stats.inference import interquartile_mean  # loads SciPy, which takes long

        values = [value for r in complete if math.isfinite(value := r.metric(metric))]
        return interquartile_mean(values) if values else math.nan
    if metric in TIMES:
        times = [math.inf if math.isnan(value := r.metric(metric)) else value for r in complete]
        middle = statistics.median(times or [math.inf])
        return middle if math.isfinite(middle) else math.nan
    return median(complete, metric)


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` as a whole: readers and a crash see the old version or the new one.

    Raises:
        RecordError: the disk is full or refuses; the old version stays.
    """
    with writing(path), replacing(path) as beside:
        beside.write_bytes(text.encode())


def set_bad_lines_aside(path: Path, *, cut: bool = False) -> Path | None:
    """Move lines of a JSON-lines file that are no JSON objects into a new file beside it, and return its path.

    A crash in the middle of an append leaves such a last line. ``cut`` moves everything after the first bad line too:
    for logs whose lines build on each other.
    """
    if not path.exists():
        return None
    lines = path.read_bytes().splitlines(keepends=True)
    readable = [_is_object(line) for line in lines]
    if all(readable):
        return None
    if cut:
        first = readable.index(False)
        readable = [index < first for index in range(len(lines))]
    number = 1
    while (aside := path.with_name(f"{path.name}.bad-{number}")).exists():
        number += 1
    with writing(path):
        aside.write_bytes(b"".join(line for line, good in zip(lines, readable, strict=True) if not good))
        with replacing(path) as repaired:
            repaired.write_bytes(b"".join(line for line, good in zip(lines, readable, strict=True) if good))
    return aside


def _is_object(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


class RecordFile:
    """``trials.jsonl`` of a study. ``set_aside`` names the file that unreadable lines were moved to, if any were."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside = set_bad_lines_aside(path)
        self.records = read_records(path)

    def append(self, record: Record) -> None:
        """On disk when this returns.

        Raises:
            RecordError: it could not be written; the file ends with the last whole record.
        """
        self._write(record)
        self.records.append(record)

    def explain(self, record: Record) -> None:
        """Replace an appended attempt by ``record``, which says more of it. The file gets a further line, which holds.

        Raises:
            RecordError: it could not be written; the attempt stays as it was appended.
        """
        self._write(record)
        alike = [index for index, one in enumerate(self.records) if key_of(one) == key_of(record)]
        self.records[alike[-1]] = record

    def _write(self, record: Record) -> None:
        line = json.dumps(record.flat(), allow_nan=False) + "\n"
        end = self.path.stat().st_size if self.path.exists() else 0
        with writing(self.path):
            try:
                with self.path.open("ab") as file:
                    file.write(line.encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                if self.path.exists():
                    os.truncate(self.path, end)
                raise


def read_records(path: Path) -> list[Record]:
    """The readable records of a ``trials.jsonl``, in order, each as its last line has it; changes nothing."""
    records: dict[Key, Record] = {}
    if not path.exists():
        return []
    for line in path.read_bytes().splitlines():
        try:
            record = Record.from_flat(json.loads(line))
        except (ValueError, TypeError, RecursionError):  # cut by a crash or a bad disk; RecordFile sets it aside
            continue
        records[key_of(record)] = record
    return list(records.values())


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The readings of a repeat's curve, in order of time; none without the file. A line that was cut is left out."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _is_object(line + b"\n")]


def write_tables(folder: Path, records: list[Record]) -> None:
    """``trials.csv`` and ``curves.csv`` from the records and from the curves that their repeats left."""
    import pandas as pd

    trials = pd.DataFrame([record.flat() for record in records])
    if records:
        counted = {id(record) for record in attempts_that_count(records)}
        trials.insert(list(trials).index("attempt") + 1, "counts", [id(record) in counted for record in records])
    write_atomic(folder / "trials.csv", trials.to_csv(index=False))
    curves = []
    for record in attempts_that_count(records):
        if record.log and (readings := read_curve(folder / record.log / "curve.jsonl")):
            curve = pd.DataFrame(readings)
            curve.insert(0, "trial", record.trial)
            curve.insert(1, "repeat", record.repeat)
            curves.append(curve)
    if curves:
        write_atomic(folder / "curves.csv", pd.concat(curves, ignore_index=True).to_csv(index=False))

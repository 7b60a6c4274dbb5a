"""One repeat in a fresh process group, watched from outside: progress, deadlines, memory, and an end that is sure.

Beside the trial runs a guard, a shell that waits on a pipe of ours: when we die, however we die, the pipe closes and
the guard ends the whole group, even if the trial holds the GIL, ignores signals or stands still. Of a trial that takes
turns the pipe tells it all processes, those in sessions of their own as well: they are continued and ended too, each as
long as it is the one that started when we say.
"""

import dataclasses
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from harness.measure.interleaving import Processes, Seat
from harness.measure.peak_memory import MemorySample, PeakMemory, trial_processes
from harness.measure.record import Record, State
from harness.measure.repeat import TrialSpec, write_spec
from harness.measure.stop import StopSignal
from harness.trainers.trainer import calm_thread_pools
from unilab.ipc.shared_memory import segments

GRACE_SECONDS = 2.0
"""between SIGTERM and SIGKILL"""
PRUNED_RESULT = {"env_steps": int, "episodes": int, "episode_return": float, "policy_lag_mean": float}
"""what is recorded of a pruned repeat: counters and means that need no steady window, by the type in a record"""
TRACKER = "multiprocessing.resource_tracker"
"""in the command line of such a process"""
DUMP_SECONDS = 2.0
"""for a hanging process to write its stack dump"""
GUARD = """
trap "" TERM INT HUP
while read -r pid start; do told="$told $pid:$start"; done
all() {
  for one in $told; do
    read -r stat < "/proc/${one%:*}/stat" && set -- "$1" ${stat##*) } && [ "${21}" = "${one#*:}" ] &&
      kill "-$1" "${one%:*}"
  done
  kill "-$1" 0
}
all TERM; all CONT; sleep 2; all KILL
"""


@dataclass(frozen=True)
class RepeatLimits:
    """What one repeat may take; seconds of monotonic time, bytes."""

    timeout_seconds: float
    progress_timeout_seconds: float
    host_bytes: int | None = None


@dataclass
class Outcome:
    """How a repeat ended."""

    state: State
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    peak: MemorySample = field(default_factory=MemorySample)
    memory_accounting: str = "pss"
    wall_seconds: float = 0.0
    node: str = ""
    """of a cluster, where it ran"""

    def added_to(self, record: Record) -> Record:
        """The record of this repeat; what the code of another commit reports and records here do not know is left."""
        known = {field.name for field in dataclasses.fields(Record)}
        return dataclasses.replace(
            record, state=self.state, error=self.error,
            **{name: value for name, value in self.result.items() if name in known}, peak_host_bytes=self.peak.host,
            peak_shm_bytes=self.peak.shm, peak_device_bytes=self.peak.device, memory_accounting=self.memory_accounting,
            wall_seconds=self.wall_seconds, node=self.node,
        )  # fmt: skip


def execute(
    spec: TrialSpec,
    limits: RepeatLimits,
    stop: StopSignal,
    on_progress: Callable[[dict[str, Any]], str | None] = lambda progress: None,
    *,
    code: Path | None = None,
    seat: Seat | None = None,
) -> Outcome:
    """Run ``spec`` (its ``report_fd`` is set here) and wait for its end.

    Args:
        on_progress: sees each report of the trial; a reason that it returns ends the trial as pruned.
        code: folder whose ``harness`` and ``unilab`` run the trial, such as a worktree of another commit; None: those
            that this process runs. The trial works in that folder, so paths in ``spec`` have to be absolute.
        seat: that it takes turns from; the time in which it stands still counts for no limit.

    Raises:
        Stopped: a signal came; the trial is gone, nothing is known of it.
    """
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _Group(spec, folder, stop, code) as group:
        stands = (lambda: False) if seat is None else (lambda: seat.stands)
        with PeakMemory(group.id, limit=limits.host_bytes, on_exceed=group.out_of_memory, stands=stands) as memory:
            if seat is not None:
                seat.joined(group.id, Processes(group.running, group.tell_guard))
                stop.at_once.add(seat.run_at_once)
            try:
                outcome = _watched(group, limits, stop, on_progress, seat)
            finally:
                if seat is not None:
                    stop.at_once.discard(seat.run_at_once)
                    seat.leave()
            group.end()
        outcome.peak, outcome.memory_accounting = memory.peak, memory.accounting
    if outcome.state != "complete":
        segments.remove_leftovers()
    outcome.wall_seconds = time.monotonic() - started
    return outcome


class _Group:
    """The trial and its guard in a process group of their own."""

    def __init__(self, spec: TrialSpec, folder: Path, stop: StopSignal, code: Path | None) -> None:
        self.folder, self.log = folder, folder / "stderr.log"
        self.exceeded: int | None = None
        """host bytes seen over the limit"""
        self._stop = stop
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            process_group=0,
        )  # fmt: skip
        self.id = self._guard.pid
        stop.groups.add(self.id)
        self.reports, report_fd = os.pipe()
        write_spec(dataclasses.replace(spec, report_fd=report_fd), folder / "spec.json")
        entry, environment = "harness.measure.repeat", dict(os.environ)
        calm_thread_pools(environment)
        if code is not None:
            if not (code / "harness" / "measure").is_dir():  # of an earlier day
                entry = "harness.trial"
            # the caller's folder comes last: environments of its own are still found there
            path = [str(code), environment.get("PYTHONPATH"), str(Path.cwd())]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        with (folder / "stdout.log").open("wb") as stdout, self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", entry, str(folder / "spec.json")], stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=stderr, pass_fds=[report_fd], process_group=self.id, env=environment, cwd=code,
            )  # fmt: skip
        os.close(report_fd)

    def __enter__(self) -> "_Group":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        os.close(self.reports)

    def out_of_memory(self, seen: int) -> None:
        """Called on the sampling thread: end the trial at once, before the machine runs out."""
        self.exceeded = seen
        with suppress(ProcessLookupError):
            self.process.kill()

    def dump_stacks(self) -> list[Path]:
        """Ask every process of the group that has a handler for it to write its stacks; the logs that grew.

        They are ``stderr.log`` and, of a trainer in a process of its own, a log of that process.
        """

        def sizes() -> dict[Path, int]:
            return {log: log.stat().st_size for log in sorted(self.folder.glob("*.log"))}

        before = last = sizes()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile
                if os.getpgid(pid := int(folder.name)) == self.id:
                    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
                    if int(status["SigCgt"], 16) >> (signal.SIGUSR1 - 1) & 1:  # without a handler it would be killed
                        os.kill(pid, signal.SIGUSR1)
        deadline = time.monotonic() + DUMP_SECONDS
        # the handlers write on their own; there is nothing to wait on but the files
        while time.monotonic() < deadline and (last == before or last != sizes()):
            last = sizes()
            time.sleep(0.1)
        return [log for log, size in sizes().items() if size > before.get(log, 0)]

    def running(self) -> list[int]:
        """Its processes, those that left the group too; not the guard, which has to see our end at any time."""
        return sorted(trial_processes(self.id) - {self.id})

    def tell_guard(self, pid: int) -> None:
        """Of a process that may be stopped."""
        assert self._guard.stdin is not None
        with suppress(BrokenPipeError):  # somebody killed the guard
            os.write(self._guard.stdin.fileno(), f"{pid} {segments.start_time(pid)}\n".encode())

    def end(self) -> None:
        """Nothing of the group is left afterwards."""
        if self._guard.returncode is not None:
            return
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.id, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)
        # The resource trackers of multiprocessing outlive what they watch, to remove the shared memory that it left.
        # Segments of this project can be told from those of living processes afterwards; those of other packages not.
        trackers = []
        for pid in self.running():
            with suppress(psutil.Error, ProcessLookupError):  # ended meanwhile
                process = psutil.Process(pid)
                if any(TRACKER in word for word in process.cmdline()):
                    trackers.append(process)
                else:
                    process.kill()
        deadline = time.monotonic() + GRACE_SECONDS
        while any(map(_lives, trackers)) and time.monotonic() < deadline:
            time.sleep(0.01)
        # the guard is not reaped yet, so the group's number cannot have been given to anybody else
        os.killpg(self.id, signal.SIGKILL)
        self.process.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        self._stop.groups.discard(self.id)


def _lives(process: psutil.Process) -> bool:
    try:  # nobody's child any more: one that has ended may stay a zombie until something reaps it
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:  # gone
        return False


def _watched(
    group: _Group,
    limits: RepeatLimits,
    stop: StopSignal,
    on_progress: Callable[[dict[str, Any]], str | None],
    seat: Seat | None,
) -> Outcome:
    """Wait for reports, signals and deadlines until the group has ended or is to be ended.

    Raises:
        Stopped: a signal came.
    """
    clock = time.monotonic if seat is None else seat.clock
    deadline = clock() + limits.timeout_seconds
    progress_deadline = clock() + limits.progress_timeout_seconds
    unread, final = b"", None
    with selectors.DefaultSelector() as selector:
        selector.register(group.reports, selectors.EVENT_READ)
        selector.register(stop.fd, selectors.EVENT_READ)
        while final is None or final.state != "pruned":
            stop.check()
            remaining = min(deadline, progress_deadline) - clock()
            if remaining <= 0:
                logs = group.dump_stacks()
                reason = f"no progress for progress_timeout_seconds = {limits.progress_timeout_seconds:g}"
                if clock() >= deadline:
                    reason = f"took longer than trial_timeout_seconds = {limits.timeout_seconds:g}"
                where = f"stack dump: {', '.join(map(str, logs))}" if logs else f"no stack dump came; log: {group.log}"
                return Outcome("timeout", error=f"{reason}; {where}")
            if group.reports not in {key.fd for key, _ in selector.select(min(remaining, 3600.0))}:
                continue
            chunk = os.read(group.reports, 65536)
            if not chunk:
                return _ended(group, limits, final)
            *lines, unread = (unread + chunk).split(b"\n")
            for message in map(json.loads, lines):
                progress_deadline = clock() + limits.progress_timeout_seconds
                final = final or _outcome(group, message, on_progress)  # what comes after the end changes nothing
                if seat is not None:
                    warm = message["event"] == "progress" and bool(message["progress"]["measuring"])
                    seat.note(steady=warm, measured=message["event"] == "result")
    return final


def _outcome(
    group: _Group, message: dict[str, Any], on_progress: Callable[[dict[str, Any]], str | None]
) -> Outcome | None:
    """How the trial ends by what it said; None: it goes on."""
    if message["event"] == "progress":
        progress = message["progress"]
        reason = on_progress(progress)
        if reason is None:
            return None
        known = {name: kind for name, kind in PRUNED_RESULT.items() if progress[name] is not None}
        return Outcome("pruned", error=reason, result={name: kind(progress[name]) for name, kind in known.items()})
    if message["event"] == "result":
        return Outcome("complete", result={k: math.nan if v is None else v for k, v in message["result"].items()})
    if message["event"] == "error":
        traceback = group.folder / "traceback.txt"
        traceback.write_text(message["traceback"], encoding="utf-8")
        return Outcome("failed", error=f"{message['error']}; traceback: {traceback}")
    return None


def _ended(group: _Group, limits: RepeatLimits, final: Outcome | None) -> Outcome:
    """The trial has closed its pipe."""
    with suppress(subprocess.TimeoutExpired):  # the pipe closes a moment before the process is gone
        group.process.wait(GRACE_SECONDS)
    code = group.process.poll()
    if group.exceeded is not None:
        limit, seen = (limits.host_bytes or 0) / 2**20, group.exceeded / 2**20
        return Outcome("failed", error=f"out of memory: {seen:,.0f} MiB used, the limit is {limit:,.0f} MiB")
    if final is not None:
        return final
    if code is None:
        return Outcome("failed", error="closed its report pipe without a result and went on running")
    if code < 0:
        hint = " (the system may be out of memory)" if code == -signal.SIGKILL else ""
        return Outcome("failed", error=f"killed by {signal.Signals(-code).name}{hint}; log: {group.log}")
    return Outcome("failed", error=f"exit code {code} without a result; log: {group.log}")

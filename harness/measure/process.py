"""Repeats in fresh process groups, watched from outside: progress, deadlines, memory and a sure end.

Beside each repeat runs a guard, a shell that waits on a pipe of ours: when we die, however we die, the pipe closes and
the guard ends the whole group, even if the repeat holds the GIL, ignores signals or stands still. The pipe also names
all processes of a repeat that takes turns, those in sessions of their own as well: they are continued and ended too,
each only while its start time is the one that we named.
"""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from harness.files.writing import writing
from harness.measure.interleaving import Seat
from harness.measure.peak_memory import PeakMemory, trial_processes
from harness.measure.record import Record, State
from harness.measure.repeat import TrialSpec, write_spec
from harness.measure.stop import StopSignal
from harness.trainers.trainer import calm_thread_pools
from unilab.ipc import remove_leftovers, start_time

OnProgress = Callable[[dict[str, Any]], str | None]
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
    """fields of its record, by name"""

    def added_to(self, record: Record) -> Record:
        """The record of this repeat, without fields that the code of another commit reports and records here do not
        have."""
        known = {field.name for field in dataclasses.fields(Record)}
        result = {name: value for name, value in self.result.items() if name in known}
        return dataclasses.replace(record, state=self.state, error=self.error, **result)


@dataclass(frozen=True)
class Job:
    """One repeat that is to be run."""

    spec: TrialSpec
    limits: RepeatLimits
    on_progress: OnProgress
    """sees each report, in the process that asked; a reason that it returns ends the repeat as pruned"""
    host_bytes: int = 0
    """RAM that it is expected to take; 0: not known"""
    code: Path | None = None
    """folder of the code that runs it, such as the files of another commit, in which it works; None: the code of this
    process"""


class Repeat:
    """A repeat and its guard, in a process group of their own; the ``others`` that it takes turns with began before."""

    def __init__(self, job: Job, stop: StopSignal, others: Sequence["Repeat"]) -> None:
        self.folder = Path(job.spec.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.outcome: Outcome | None = None
        self.steady = False
        """it is warm, and its window has begun"""
        self.measured = False
        """it needs no more turns"""
        self._window_ended = False
        """policies may be played afterwards, which uses no GPU"""
        self._job, self._stop, self._log = job, stop, self.folder / "stderr.log"
        self._said: Outcome | None = None
        self._exceeded: int | None = None
        """host bytes seen over the limit"""
        self._unread = b""
        self._started = time.monotonic()
        self._terminated = False
        self.reports, report_fd = os.pipe()
        with writing(self.folder):
            write_spec(dataclasses.replace(job.spec, report_fd=report_fd), self.folder / "spec.json")
            logs = [path.open("wb") for path in (self.folder / "stdout.log", self._log)]
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            process_group=0,
        )  # fmt: skip
        self.id = self._guard.pid
        """of the process group"""
        stop.groups.add(self.id)
        pauses = None if job.spec.pauses is None else Path(job.spec.pauses)
        self.seat = Seat(self._running, self._tell_guard, pauses)
        stop.at_once.add(self.seat.run_at_once)
        for one in (*others, self):
            self.seat.tell("group", one.id)
            if one is not self:
                one.seat.tell("group", self.id)
        entry, environment = "harness.measure.repeat", dict(os.environ)
        calm_thread_pools(environment)
        if job.code is not None:
            if not (job.code / "harness" / "measure").is_dir():  # of an earlier day
                entry = "harness.trial"
            # the caller's folder comes last: environments of its own are still found there
            path = [str(job.code), environment.get("PYTHONPATH"), str(Path.cwd())]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        with logs[0] as stdout, logs[1] as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", entry, str(self.folder / "spec.json")], stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=stderr, pass_fds=[report_fd], process_group=self.id, env=environment, cwd=job.code,
            )  # fmt: skip
        os.close(report_fd)
        self._memory = PeakMemory(
            self.id, limit=job.limits.host_bytes, on_exceed=self._out_of_memory,
            stands=lambda: self.seat.paused_at is not None,
            measuring=lambda: self.steady and not self._window_ended and not self.measured,
        )  # fmt: skip
        self._deadline = self.seat.clock() + job.limits.timeout_seconds
        self._progress_deadline = self.seat.clock() + job.limits.progress_timeout_seconds

    @property
    def over(self) -> bool:
        """``end`` was called."""
        return self._guard.returncode is not None

    @property
    def remaining(self) -> float:
        """Seconds to the next deadline."""
        return min(self._deadline, self._progress_deadline) - self.seat.clock()

    def read(self) -> None:
        """Take in what it reports."""
        chunk = os.read(self.reports, 65536)
        if not chunk:
            self._closed()
            return
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for message in map(json.loads, lines):
            self._progress_deadline = self.seat.clock() + self._job.limits.progress_timeout_seconds
            if self._said is not None:  # what comes after the end changes nothing
                return
            if message["event"] == "progress":
                progress = message["progress"]
                reason = self._job.on_progress(progress)
                if reason is not None:
                    kinds = PRUNED_RESULT.items()
                    result = {name: kind(progress[name]) for name, kind in kinds if progress[name] is not None}
                    self._said = self.outcome = Outcome("pruned", error=reason, result=result)
                self.steady |= bool(progress["measuring"])
            elif message["event"] == "window_ended":
                self._window_ended = True
            elif message["event"] == "evaluating":  # of which nothing is heard before its end
                self._progress_deadline = math.inf
            elif message["event"] == "result":
                result = {name: math.nan if value is None else value for name, value in message["result"].items()}
                self._said = Outcome("complete", result=result)
                self.steady = self.measured = True
            elif message["event"] == "error":
                if message.get("disk_full"):  # code of an older commit does not say it
                    with writing(self.folder):  # no failure of these settings
                        raise OSError(message["error"])
                traceback = self.folder / "traceback.txt"
                with writing(traceback):
                    traceback.write_text(message["traceback"], encoding="utf-8")
                self._said = Outcome("failed", error=f"{message['error']}; traceback: {traceback}")

    def _closed(self) -> None:
        """It has closed its pipe."""
        with suppress(subprocess.TimeoutExpired):  # the pipe closes a moment before the process is gone
            self._process.wait(GRACE_SECONDS)
        code, log, error = self._process.poll(), self._log, None
        if self._exceeded is not None:
            limit, seen = (self._job.limits.host_bytes or 0) / 2**20, self._exceeded / 2**20
            error = f"out of memory: {seen:,.0f} MiB used, the limit is {limit:,.0f} MiB"
        elif self._said is not None:
            self.outcome = self._said
            return
        elif code is None:
            error = "closed its report pipe without a result and went on running"
        elif code < 0:
            hint = " (the system may be out of memory)" if code == -signal.SIGKILL else ""
            error = f"killed by {signal.Signals(-code).name}{hint}; log: {log}"
        else:
            error = f"exit code {code} without a result; log: {log}"
        self.outcome = Outcome("failed", error=error)

    def time_out(self) -> None:
        """A deadline has passed: ask its processes for their stacks, which go to its log."""
        limits = self._job.limits
        reason = f"no progress for progress_timeout_seconds = {limits.progress_timeout_seconds:g}"
        if self.seat.clock() >= self._deadline:
            reason = f"took longer than the {limits.timeout_seconds:g} s that it had; see limits.trial_timeout_seconds"
        before = last = self._log.stat().st_size
        for pid in self._running():
            with suppress(OSError):  # ended meanwhile
                status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                if int(status["SigCgt"], 16) >> (signal.SIGUSR1 - 1) & 1:  # without a handler it would be killed
                    os.kill(pid, signal.SIGUSR1)
        deadline = time.monotonic() + DUMP_SECONDS
        # the handlers write on their own; there is nothing to wait on but the file
        while time.monotonic() < deadline and (last == before or last != self._log.stat().st_size):
            last = self._log.stat().st_size
            time.sleep(0.1)
        where = "stack dump" if last > before else "no stack dump came; log"
        self.outcome = Outcome("timeout", error=f"{reason}; {where}: {self._log}")

    def _out_of_memory(self, seen: int) -> None:
        """Called on the sampling thread: end it at once, before the machine runs out."""
        self._exceeded = seen
        with suppress(ProcessLookupError):
            self._process.kill()

    def _running(self) -> list[int]:
        """Its processes, those that left the group too; not the guard, which has to see our end at any time."""
        return sorted(trial_processes(self.id) - {self.id})

    def _tell_guard(self, pid: int) -> None:
        """Name a process that may be stopped to the guard."""
        assert self._guard.stdin is not None
        with suppress(BrokenPipeError):  # somebody killed the guard
            os.write(self._guard.stdin.fileno(), f"{pid} {start_time(pid)}\n".encode())

    def terminate(self) -> None:
        """Ask it to end, for which it has to run."""
        if not self._terminated:
            self._terminated = True
            self.seat.go_on()
            if self._process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(self.id, signal.SIGTERM)

    def end(self) -> None:
        """Nothing of it is left afterwards, and its outcome is complete."""
        if self.over:
            return
        self.steady = self.measured = True  # nothing is to be waited for
        self.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        # The resource trackers of multiprocessing outlive what they watch, to remove the shared memory that it left.
        # Segments of this project can be told from those of living processes afterwards; those of other packages not.
        trackers = []
        for pid in self._running():
            with suppress(psutil.Error, ProcessLookupError):  # ended meanwhile
                process = psutil.Process(pid)
                if any(TRACKER in word for word in process.cmdline()):
                    trackers.append(pid)
                else:
                    process.kill()
        deadline = time.monotonic() + GRACE_SECONDS
        while any(start_time(pid) is not None for pid in trackers) and time.monotonic() < deadline:
            time.sleep(0.01)
        # the guard is not reaped yet, so the group's number cannot have been given to anybody else
        os.killpg(self.id, signal.SIGKILL)
        self._process.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        os.close(self.reports)
        self._stop.groups.discard(self.id)
        self._stop.at_once.discard(self.seat.run_at_once)
        self.seat.close()
        self._memory.close()
        if self.outcome is None or self.outcome.state != "complete":
            remove_leftovers()
        if self.outcome is not None:
            peak = self._memory.peak
            self.outcome.result |= {
                "peak_host_bytes": peak.host, "peak_shm_bytes": peak.shm, "peak_device_bytes": peak.device,
                "memory_accounting": self._memory.accounting,
                "device_busy_fraction": self._memory.device_busy_fraction,
                "wall_seconds": time.monotonic() - self._started,
            }  # fmt: skip

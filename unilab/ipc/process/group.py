"""The parent's end of supervision: starting collectors, noticing at once when one fails, ending all of them."""

import atexit
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from unilab.ipc.collector_error import CollectorError
from unilab.ipc.process.child import STOP_SIGNALS, Call, Failure, run_collector, wait_for_end
from unilab.ipc.shared_memory import segments
from unilab.ipc.shared_memory.wakeup import Deadline, SharedFlag

logger = logging.getLogger(__name__)

END_SECONDS = 4.0
"""in which collectors must answer and end once a signal has asked for the end; the learner has the rest of 5 s"""

_NO_STEP = -1
_DUMP_SECONDS = 0.2
"""how long a collector that does not stop gets to write its stacks before it is killed"""

_EXIT_SECONDS = 0.5
"""how long a collector may take to exit after it has reported its failure; its own threads may keep it"""


@dataclass
class _Collector:
    process: BaseProcess
    steps: segments.Segment
    log: Path | None
    killed: bool = False
    why: str | None = None
    """it was killed before it was asked to stop"""
    monitor: threading.Thread = field(init=False)

    def last_step(self) -> int | None:
        step = self.steps.words(0, 1)[0]
        return None if step == _NO_STEP else step


class CollectorGroup:
    """Spawned collector processes, each watched by a thread that waits for its end.

    Attributes:
        ctx: the multiprocessing context (spawn) for what collectors share.
        stop_event: asks the collectors to stop; pass it to them. Has is_set, set and wait, and no lock inside.
        interrupt: set when a collector has failed; ends waits (``ring.wait_for_data(unless=group.interrupt)``).
    """

    def __init__(self) -> None:
        self.ctx = multiprocessing.get_context("spawn")
        self._collectors: list[_Collector] = []
        self._failures: list[CollectorError] = []
        self._raised = False
        """the caller knows of the failure"""
        self._begin()
        segments.remove_leftovers()

    def _begin(self) -> None:
        self.stop_event, self.interrupt = SharedFlag(), SharedFlag()
        self._end: Deadline | None = None

    def start_collector(
        self,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        log: Path | None = None,
    ) -> BaseProcess:
        """Start ``target(*args, **kwargs)`` in a spawned process; it must run until ``stop_event`` is set.

        Ending earlier is a failure, whatever the exit code. SIGINT and SIGTERM do not reach it: this process acts on
        them. It ends when this process does. Its output goes to the file ``log`` (None: to this process' output).
        SIGUSR1 makes it write its stacks there.
        """
        name = name or f"collector-{len(self._collectors)}"
        steps = segments.create(8, "steps")
        steps.words(0, 1)[0] = _NO_STEP
        line, theirs = self.ctx.Pipe()
        parent = (os.getpid(), segments.start_time(os.getpid()) or 0)
        call = Call(target, args, kwargs or {})
        process = self.ctx.Process(target=run_collector, args=(call, theirs, steps.name, parent, log), name=name)
        # SIGINT and SIGTERM are blocked, so that one meant for the group cannot hit it half started. The resource
        # tracker must be up before: starting it would unblock them.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        except BaseException:
            line.close()
            steps.unlink()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()  # so that the end of the process ends the line
        collector = _Collector(process, steps, log)
        collector.monitor = threading.Thread(
            target=self._watch, args=(collector, call, line), name=f"monitor of {name}", daemon=True
        )
        self._collectors.append(collector)
        atexit.register(self.stop_collectors)
        collector.monitor.start()
        return process

    def check_collectors(self) -> None:
        """Raise the first failure, if there is one; cheap enough for every minibatch.

        Raises:
            CollectorError: with the original traceback, process id, signal, last env step and log.
        """
        if self._failures:
            self._raised = True
            raise self._failures[0]

    def last_step(self) -> int | None:
        """Env steps that all collectors together have reported; None: none has reported any yet."""
        reported = [step for collector in self._collectors if (step := collector.last_step()) is not None]
        return sum(reported) if reported else None

    def seconds_to_end(self, seconds: float) -> float:
        """How long to wait for a collector: ``seconds``, or what is left of END_SECONDS since this was first called
        after a signal (or a failure) had set ``interrupt``."""
        if self._end is None and self.interrupt.is_set():
            self._end = Deadline(END_SECONDS)
        return seconds if self._end is None else min(seconds, self._end.left())

    def kill_collectors(self, why: str) -> None:
        """End all collectors, which fail for this reason ("made no step for a minute and was killed"), with their
        stacks on their error output."""
        for collector in self._collectors:
            collector.why = why
        _kill(self._collectors)

    def stop_collectors(self, deadline_seconds: float = 5.0) -> None:
        """Ask the collectors to stop and wait; what has not ended by the deadline is killed (idempotent).

        After a signal the deadline is that of ``seconds_to_end``. Unless a collector has failed, collectors can be
        started again.
        """
        deadline = Deadline(self.seconds_to_end(deadline_seconds))
        self.stop_event.set()
        for collector in self._collectors:
            collector.monitor.join(deadline.left())
        late = [collector for collector in self._collectors if collector.monitor.is_alive()]
        for collector in late:
            where = collector.log or "the error output"
            logger.warning("%s did not stop in time and is killed; its stacks are in %s", collector.process.name, where)
        _kill(late)
        for collector in self._collectors:
            collector.monitor.join()
            collector.steps.close()
            collector.steps.unlink()
            collector.process.close()
        self._collectors.clear()
        atexit.unregister(self.stop_collectors)
        self._end = None
        if not self._failures:
            self._begin()

    def _watch(self, collector: _Collector, call: Call, line: Connection) -> None:
        """Monitor thread: send the call, wait for a report or the end, remember a failure and wake whoever waits."""
        process = collector.process
        report: Failure | None = None
        with line:
            with contextlib.suppress(ConnectionError):  # it has ended
                line.send_bytes(call.pickled)
            call.pickled = b""  # it may be large
            wait_for_end(process.pid or 0, process.sentinel, line)
            with contextlib.suppress(EOFError, OSError):  # it ended without a report, or in the middle of one
                report = line.recv() if line.poll() else None
        if report is not None:
            process.join(_EXIT_SECONDS)
            process.kill()
        process.join()
        while (exit_code := process.exitcode) is None:  # another thread of this process is just fetching it
            time.sleep(0.001)
        asked = self.stop_event.is_set()
        if report is None and asked and (exit_code == 0 or collector.killed):
            return
        error = CollectorError(
            process.name,
            process.pid or 0,
            exit_code,
            traceback_text=report.traceback_text if report else None,
            last_step=collector.last_step(),
            log=collector.log,
            why=collector.why,
        )
        if report is None and asked:
            logger.warning("while it was stopping: %s", error)
            return
        error.__cause__ = report.cause() if report else None
        self._failures.append(error)
        self.interrupt.set()


def _kill(late: list[_Collector]) -> None:
    """End collectors, with their stacks on their error output."""
    for collector in late:
        collector.killed = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(collector.process.pid or 0, signal.SIGUSR1)
    deadline = Deadline(_DUMP_SECONDS)
    for collector in late:
        collector.monitor.join(deadline.left())
        collector.process.kill()

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
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from unilab.ipc.collector_error import CollectorError
from unilab.ipc.process.child import STOP_SIGNALS, Call, Failure, Supervision, exit_descriptor, run_collector
from unilab.ipc.shared_memory import segments
from unilab.ipc.shared_memory.wakeup import Deadline, SharedFlag

logger = logging.getLogger(__name__)

_NO_STEP = -1
_DUMP_SECONDS = 0.2
"""how long a collector that does not stop gets to write its stacks before it is killed"""

_EXIT_SECONDS = 0.5
"""how long a collector that has reported its failure may take to exit, with threads of its own still running, say"""


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
        context: the multiprocessing context (spawn).
        stop_event: set to ask all collectors to stop.
        interrupt: set when a collector has failed; end waits with it (``ring.wait_for_data(unless=group.interrupt)``).
    """

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.stop_event = SharedFlag(self.context)
        self.interrupt = SharedFlag(self.context)
        self._collectors: list[_Collector] = []
        self._failures: list[CollectorError] = []
        segments.remove_leftovers()

    def start(
        self,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        log: Path | None = None,
    ) -> BaseProcess:
        """Start ``target(*args, **kwargs)`` in a process of its own; ``log``: the file that its output goes to.

        The function must run until ``stop_event`` is set; ending earlier is a failure, whatever the exit code.
        """
        name = name or f"collector-{len(self._collectors)}"
        steps = segments.create(8, "steps")
        steps.words(0, 1)[0] = _NO_STEP
        receive, send = self.context.Pipe(duplex=False)
        pid = os.getpid()
        supervision = Supervision(send, steps.name, pid, segments.start_time(pid) or 0, log)
        process = self.context.Process(
            target=run_collector, args=(Call(target, args, kwargs or {}), supervision), name=name
        )
        try:
            _start_shielded(process)
        except BaseException:
            receive.close()
            steps.unlink()
            raise
        finally:
            send.close()
        collector = _Collector(process, steps, log)
        collector.monitor = threading.Thread(
            target=self._watch, args=(collector, receive), name=f"monitor of {name}", daemon=True
        )
        self._collectors.append(collector)
        atexit.register(self.stop)
        collector.monitor.start()
        return process

    @property
    def failed(self) -> bool:
        """Whether a collector has failed or ended without being asked."""
        return bool(self._failures)

    def check(self) -> None:
        """Raise the first failure, if there is one; cheap enough for every minibatch.

        Raises:
            CollectorError: a collector failed or ended without being asked.
        """
        if self._failures:
            raise self._failures[0]

    def last_step(self) -> int | None:
        """Env steps that all collectors together have reported; None: none has reported any yet."""
        reported = [step for collector in self._collectors if (step := collector.last_step()) is not None]
        return sum(reported) if reported else None

    def kill(self, why: str) -> None:
        """End all collectors, which fail for this reason ("made no step for a minute and was killed"), with their
        stacks on their error output."""
        for collector in self._collectors:
            collector.why = why
        _kill(self._collectors)

    def stop(self, deadline_seconds: float = 5.0) -> None:
        """Ask all collectors to stop, wait, and kill those that have not ended by the deadline (idempotent)."""
        self.stop_event.set()
        deadline = Deadline(deadline_seconds)
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
        atexit.unregister(self.stop)

    def _watch(self, collector: _Collector, receive: Connection) -> None:
        """Monitor thread: wait for a report or the end; remember a failure and wake whoever waits."""
        process = collector.process
        with receive:
            _wait_for_report_or_end(process, receive)
            report = _receive(receive)
        if report is not None:
            process.join(_EXIT_SECONDS)
            process.kill()
        exit_code = _exit_code(process)
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


def _start_shielded(process: BaseProcess) -> None:
    """Start it with SIGINT and SIGTERM blocked, so that one meant for the group cannot hit it half started.

    The resource tracker must be up before: starting it would unblock them.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def _wait_for_report_or_end(process: BaseProcess, receive: Connection) -> None:
    try:
        descriptor = exit_descriptor(process.pid or 0)
    except ProcessLookupError:  # another thread of this process has already fetched its end
        return
    try:
        connection.wait([receive, process.sentinel if descriptor is None else descriptor])
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _receive(receive: Connection) -> Failure | None:
    try:
        return receive.recv() if receive.poll() else None
    except EOFError:  # it ended without a report
        return None


def _exit_code(process: BaseProcess) -> int:
    process.join()
    while (code := process.exitcode) is None:  # another thread of this process is just fetching it
        time.sleep(0.001)
    return code

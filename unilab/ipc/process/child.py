"""The collector's end of supervision: what runs in the spawned process around the collector function."""

import faulthandler
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from unilab.ipc.collector_error import BEGIN
from unilab.ipc.shared_memory import segments
from unilab.machine.loading import loading

logger = logging.getLogger(__name__)

PARENT_DIED = 3
"""exit code of a collector whose parent is gone"""

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}
"""go to the whole process group; the parent alone acts on them and asks its collectors to stop"""

_steps: memoryview | None = None


@dataclass(frozen=True)
class Failure:
    """What a failing collector tells its parent: the traceback, and the exception if it can be pickled."""

    traceback_text: str
    exception: bytes | None

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """The report of an exception."""
        data = None
        try:
            data = pickle.dumps(error)
            pickle.loads(data)
        except Exception:  # noqa: BLE001 - a foreign class may raise anything here; the traceback text goes in any case
            data = None  # it would not survive the way there and back
        return cls("".join(traceback.format_exception(error)), data)

    def cause(self) -> BaseException | None:
        """The exception itself, where it could be pickled and can be unpickled here."""
        if self.exception is None:
            return None
        try:
            return pickle.loads(self.exception)
        except Exception as error:  # noqa: BLE001 - a foreign class may raise anything; the traceback text is there
            logger.debug("the exception cannot be unpickled here: %r", error)
            return None


class Call:
    """A function and its arguments, which the collector unpickles when it is being watched.

    So an argument or a module that cannot be loaded there is reported like every other error. They are pickled while
    the process is started, since files are handed over then, but do not go the way of its arguments: multiprocessing
    would wait for ever for a process that died before it has read as much as a policy.
    """

    def __init__(self, target: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._content = (target, args, dict(kwargs))
        self.pickled = b""
        """once the process has been started"""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        self.pickled = bytes(ForkingPickler.dumps(self._content))
        return type(None), ()


def report_step(step: int) -> None:
    """Report to the parent how many env steps this collector has made; one store. In other processes it does
    nothing."""
    if _steps is not None:
        _steps[0] = step


def run_collector(call: None, line: Connection, steps_name: str, parent: tuple[int, int], log: Path | None) -> None:
    """Entry of a collector process: run the function, send the traceback of what it raises, exit non-zero then.

    Args:
        call: what is left of a ``Call``.
        line: brings what the call has ``pickled``, and gets the Failure.
        steps_name: shared memory for ``report_step``.
        parent: its process id and start time.
        log: where everything goes that Python or native code prints; None: to the parent's output.
    """
    global _steps
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    watch_parent(*parent)
    if log is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)
        print(BEGIN.format(os.getpid()), flush=True)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        _steps = segments.attach(steps_name).words(0, 1)
        with loading():
            target, args, kwargs = pickle.loads(line.recv_bytes())
        target(*args, **kwargs)
    except BaseException as error:
        line.send(Failure.of(error))
        raise


def watch_parent(pid: int, started: int) -> None:
    """End this process within moments of its parent's end, and free the parent's shared memory.

    The thread waits on what the kernel signals; it takes no lock that another process could keep.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("watch_parent() belongs into a process started by multiprocessing")
    sentinel = parent.sentinel

    def watch() -> None:
        if segments.start_time(pid) == started:  # and it is not another process that got its number
            wait_for_end(pid, sentinel)
        try:
            segments.remove_owned_by(pid, started)
        finally:
            os._exit(PARENT_DIED)

    threading.Thread(target=watch, name="parent watchdog", daemon=True).start()


def wait_for_end(pid: int, sentinel: int, *others: Connection) -> None:
    """Wait until a process has ended, or one of the others can be read.

    What it forked keeps its pipe open, the ``sentinel``, which is therefore looked at only on a system that has nothing
    else: an old kernel or one that Python was not built for, a sandbox.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        connection.wait([sentinel, *others])
        return
    try:
        connection.wait([descriptor, *others])
    finally:
        os.close(descriptor)

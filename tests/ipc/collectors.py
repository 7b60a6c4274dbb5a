"""Collectors that fail or end in every way, and a trainer around them; nothing here loads torch."""

import contextlib
import faulthandler
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from unilab.ipc import AsyncRunner, SharedFlag
from unilab.ipc.process.child import report_step

SECONDS = 60.0


class Runner(AsyncRunner):
    """A trainer that only waits for a failure."""

    def learn(self, max_iterations: int, save_interval: int = 50, log_dir: str = "logs") -> None:
        assert self.interrupt.wait(SECONDS), "nothing happened"
        self.check_collectors()


def step_then_raise(stop: SharedFlag, error: Callable[[], Exception]) -> None:
    report_step(1234)
    raise error()


def step_until_stopped(stop: SharedFlag, step: int, pids: Connection | None = None) -> None:
    report_step(step)
    if pids is not None:
        pids.send(os.getpid())
    stop.wait()


def raise_beside_a_thread() -> None:
    """The thread keeps the process from exiting."""
    threading.Thread(target=time.sleep, args=(SECONDS,)).start()
    raise plain_error()


def die_in_the_report() -> None:
    """Killed when a part of the report has been sent."""

    def send_a_part(self: Connection, report: object) -> None:
        os.write(self.fileno(), struct.pack("!i", 10**6) + b"a part")
        os.kill(os.getpid(), signal.SIGKILL)

    Connection.send = send_a_part  # type: ignore[method-assign]
    raise plain_error()


def return_at_once() -> None:
    """Ends by itself, which no collector may."""


def exit_with(code: int) -> None:
    sys.exit(code)


def print_then_crash() -> None:
    print("loading the terrain", flush=True)
    faulthandler._sigsegv()


def ignore_the_stop(ready: SharedFlag) -> None:
    ready.set()
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(600)


def fork_then_be_killed(pids: Connection) -> None:
    """The forked process inherits every pipe and so outlives the collector with them."""
    forked = os.fork()
    if forked == 0:
        time.sleep(SECONDS)
        os._exit(0)
    pids.send(forked)
    os.kill(os.getpid(), signal.SIGKILL)


def compute_for_ever(pids: Connection) -> None:
    """A collector that never looks at anything."""
    pids.send(os.getpid())
    while True:
        sum(range(10_000))


class UnpicklableError(Exception):
    """Cannot be made from its args, so unpickling it fails."""

    def __init__(self, first: int, *, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.hook = lambda: None


def unpicklable() -> Exception:
    return UnpicklableError(1, second=2)


def plain_error() -> Exception:
    return ValueError("joint 3 has no limits")


def noted_error() -> Exception:
    error = plain_error()
    error.add_note("environment 5")
    return error


class BrokenArgument:
    """Fails where it is unpickled, in the collector."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return _fail_to_load, ("the argument is broken",)


def _fail_to_load(text: str) -> object:
    raise RuntimeError(text)

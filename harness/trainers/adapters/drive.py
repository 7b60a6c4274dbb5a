"""Entry of a foreign trainer's process, run as a script by the interpreter that has the trainer's package.

It uses the standard library alone, and has what drivers of several packages count alike. Standard input has one line,
the job as JSON, and is then held open by the parent: its end asks for a stop, whether the parent closed it or died.
Reports go to the file descriptor given as the argument, one JSON object a line: ``{"progress": {...}}``, at the end
``{"ended": true}``, or ``{"error": ..., "traceback": ...}``.
"""

import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

REPORT_SECONDS = 0.02
"""at most one report in this time"""
STOP_SECONDS = 5.0
"""after which a trainer that does not stop is ended"""


class StopTraining(Exception):
    """Ends a training loop that has no other way out than its number of iterations."""


class UpdateCounter:
    """Steps of a PyTorch optimizer since this was made, where a package does not count them."""

    def __init__(self, optimizer: Any) -> None:
        self.count = 0
        optimizer.register_step_post_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def in_turns(env_steps: int, collecting: float, learning: float) -> dict[str, Any]:
    """Counters of a trainer that collects and learns in turns: while one is busy, for so many seconds, the other waits.

    It learns with the weights that acted, and from every env step.
    """
    return {
        "env_steps": env_steps,
        "collected_env_steps": env_steps,
        "collector_busy_seconds": collecting,
        "collector_wait_seconds": learning,
        "learner_busy_seconds": learning,
        "learner_wait_seconds": collecting,
        "policy_lag": 0.0,
        "policy_lag_mean": 0.0,
    }


class Reporter:
    """What a driver calls with its counters after each iteration; False once it should stop."""

    def __init__(self, report_fd: int) -> None:
        self._pipe = report_fd
        self._began = time.monotonic()
        self._next = 0.0
        self._stop = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> None:
        """The wall time of training begins here."""
        self._began = time.monotonic()

    def __call__(self, **counters: Any) -> bool:
        """Report fields of ``unilab.run.progress.Progress``, all cumulative; the wall time is added here."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REPORT_SECONDS
            self.send({"progress": {"wall_seconds": now - self._began, **counters}})
        return not self.stopping

    @property
    def stopping(self) -> bool:
        """A stop was asked for: for drivers that can end between two reports."""
        return self._stop.is_set()

    def send(self, message: dict[str, Any]) -> None:
        try:
            os.write(self._pipe, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # the parent is gone
            self._stop.set()

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        """Wait for the end of standard input; then the driver has a few seconds to come to its own end."""
        while os.read(0, 4096):
            pass
        self._stop.set()
        if not self._ended.wait(STOP_SECONDS):
            os._exit(1)


def main(report_fd: int) -> int:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the harness asks for it when nothing moves
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it as well, and decides
    os.set_inheritable(report_fd, False)  # the parent must see this process end, not its last child
    line = bytearray()  # and not a byte more, unbuffered: the rest belongs to the watching thread
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    job = json.loads(line)
    # This folder must not hide packages of the same names. What this interpreter lacks comes from the parent's.
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    sys.path += [path for path in job["path"] if path not in sys.path]
    report = Reporter(report_fd)
    try:
        module, _, function = job["driver"].partition(":")
        getattr(importlib.import_module(module), function)(job["settings"], report, Path(job["log_dir"]))
    except BaseException as error:  # noqa: BLE001 whatever it is, the parent must know
        traceback.print_exc()  # after a stop nobody reads the report
        report.send({"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
        return 1
    finally:
        report.end()
    report.send({"ended": True})
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

"""What runs on a node of a Ray cluster: what the node says of itself, and the place in which it runs repeats.

A repeat is watched by a process of its own, ``harness.measure.engines.watcher``, a child of the place's: however the
place ends (the search gave it back, the driver or the node is gone), the pipe between the two closes and the watcher
ends the repeat with all of its processes.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.measure import host as machine
from harness.measure.process import Outcome, RepeatLimits
from harness.measure.repeat import TrialSpec
from harness.suite import sources
from unilab.ipc.memory_budget import MemoryAvailable

WATCHER_SECONDS = 4.0
"""for the watcher to end a repeat"""
WATCHER = "harness.measure.engines.watcher"
RAY_SETS = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT")
"""variables that Ray gives its workers, and that a trial on a machine without Ray does not have"""


@dataclass(frozen=True)
class NodeFacts:
    """A node in its own words."""

    machine: dict[str, Any]
    """``harness.measure.host.describe``"""
    code: str
    """digest of the code that runs trials there"""
    available: MemoryAvailable
    has_folder: bool


def facts(working_folder: str) -> NodeFacts:
    """Of the node that this runs on."""
    return NodeFacts(machine.describe(), sources.digest(WATCHER), MemoryAvailable.here(), Path(working_folder).is_dir())


@dataclass(frozen=True)
class Assignment:
    """A repeat for a node. Paths in ``spec`` are the driver's."""

    spec: TrialSpec
    limits: RepeatLimits
    working_folder: str
    environment: dict[str, str]
    """what the driver's environment has of thread counts and of Python's path"""


@dataclass(frozen=True)
class Ended:
    """The end of a repeat."""

    outcome: Outcome
    files: dict[str, bytes]
    """what it left in its folder, by path relative to that"""


Reports = tuple[list[dict[str, Any]], Ended | None]
"""what has been heard of a repeat since the last time: lines of progress, and the end"""


class Place:
    """A Ray actor that holds a part of a node, or all of it, and runs one repeat after another there.

    ``begin``, then ``reports`` until it has the end. ``end`` may be called meanwhile from another thread.
    """

    def __init__(self) -> None:
        self._watcher: subprocess.Popen[bytes] | None = None
        self._pipe: Connection

    def begin(self, assignment: Assignment) -> str:
        """Start a repeat; the id of the node."""
        import ray

        self.end()  # of the repeat before, whose watcher is about to exit
        self._pipe, theirs = Pipe()
        environment = {name: value for name, value in os.environ.items() if name not in RAY_SETS}
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", WATCHER, str(theirs.fileno())], stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()], cwd=assignment.working_folder, env=environment | assignment.environment,
        )  # fmt: skip
        theirs.close()
        self._pipe.send(assignment)
        return ray.get_runtime_context().get_node_id()

    def reports(self, reason: str | None) -> Reports:
        """Wait for news; a ``reason`` ends the repeat as pruned."""
        progress: list[dict[str, Any]] = []
        try:
            if reason is not None:
                self._pipe.send(reason)
            while True:
                message = self._pipe.recv()
                if isinstance(message, Ended):
                    return progress, message
                progress.append(message)
                if not self._pipe.poll():
                    return progress, None
        except (EOFError, OSError):
            assert self._watcher is not None
            error = f"the process that watched it ended with code {self._watcher.wait()}"
            return progress, Ended(Outcome("failed", error=error), {})

    def end(self) -> None:
        """Nothing of a repeat is left afterwards."""
        if self._watcher is None:
            return
        self._watcher.terminate()
        try:
            self._watcher.wait(WATCHER_SECONDS)
        except subprocess.TimeoutExpired:  # its guard ends the repeat
            self._watcher.kill()
            self._watcher.wait()
        self._pipe.close()
        self._watcher = None

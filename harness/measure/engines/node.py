"""What runs on a node of a Ray cluster: the node's description of itself, and the actor that runs a repeat.

A repeat works in a folder of its own, whose files go back with its end: nodes need no common disk for what is written.
However the actor ends (the repeat is over, the driver or the node is gone), the repeat's guard ends the repeat
with all of its processes (``harness.measure.process``).
"""

import os
import queue
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.files.temporary import temporary_folder
from harness.measure import host as machine
from harness.measure.engines.local import execute
from harness.measure.process import Outcome, RepeatLimits
from harness.measure.repeat import TrialSpec, describe
from harness.measure.stop import Stopped, StopSignal
from harness.suite import sources
from unilab.ipc.memory_budget import MemoryAvailable

RAY_SETS = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT")
"""variables that Ray gives its workers, and that a trial on a machine without Ray does not have"""
PREFIX = "unilab-repeat-"
"""of temporary folders"""
MOST_BYTES = 32 * 2**20
"""size up to which a file goes back; of a longer log only the end goes back, of another longer file only the name"""
LEFT_OUT = "left_on_the_node.txt"


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself."""

    machine: dict[str, Any]
    """``harness.measure.host.describe``"""
    code: str
    """digest of the code that runs trials there"""
    available: MemoryAvailable
    has_folder: bool


def facts(working_folder: str) -> NodeFacts:
    """The description of the node that this runs on."""
    code = sources.digest("harness.measure.engines.node")
    return NodeFacts(machine.describe(), code, MemoryAvailable.here(), Path(working_folder).is_dir())


@dataclass(frozen=True)
class Ended:
    """The end of a repeat."""

    outcome: Outcome
    files: dict[str, bytes]
    """what it left in its folder, by path relative to that"""


class RepeatActor:
    """A Ray actor that holds a part of a node, or all of it, and runs one repeat there.

    ``prune`` and ``end`` may be called from another thread while it runs.
    """

    def __init__(self) -> None:
        self._stop = StopSignal()
        self._reason: str | None = None
        self._news: queue.SimpleQueue[dict[str, Any] | Ended] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(
        self, spec: TrialSpec, limits: RepeatLimits, working_folder: str, environment: dict[str, str]
    ) -> Iterator[str | dict[str, Any] | Ended]:
        """Run the repeat: yields the id of the node, then its lines of progress, at last its end.

        Paths are the driver's, and so is the ``environment``: thread counts and Python's path.
        """
        import ray

        for name in RAY_SETS:
            os.environ.pop(name, None)
        os.environ.update(environment)
        os.chdir(working_folder)
        self._thread = threading.Thread(target=self._run, args=(spec, limits), name="repeat")
        self._thread.start()
        yield ray.get_runtime_context().get_node_id()
        news: dict[str, Any] | Ended = {}
        while not isinstance(news, Ended):
            news = self._news.get()
            yield news

    def prune(self, reason: str) -> None:
        """End the repeat as pruned."""
        self._reason = reason

    def end(self) -> None:
        """End the repeat; nothing of it is left afterwards."""
        if self._thread is not None:
            self._stop.ask(signal.SIGTERM)
            self._thread.join()

    def _run(self, spec: TrialSpec, limits: RepeatLimits) -> None:
        """One repeat on this node, reported as if it ran in the folder that the driver named."""

        def pass_on(progress: dict[str, Any]) -> str | None:
            self._news.put(progress)
            return self._reason

        with temporary_folder(PREFIX) as folder:
            try:
                outcome = execute(moved(spec, folder), limits, self._stop, pass_on)
                if outcome.error is not None:
                    outcome.error = outcome.error.replace(str(folder), spec.folder)
                ended = Ended(outcome, files(folder))
            except Stopped:
                ended = Ended(Outcome("failed", error="it was ended"), {})
            except Exception as error:  # noqa: BLE001 whoever asked gets it, with its traceback
                left = {"traceback.txt": traceback.format_exc().encode()}
                ended = Ended(Outcome("failed", error=describe(error)), left)
        self._news.put(ended)


def moved(spec: TrialSpec, folder: Path) -> TrialSpec:
    """The same repeat in another folder; settings that name the folder, as tracing does, follow."""
    old = [spec.folder, str(Path(spec.folder).absolute())]  # no set: values may be lists
    settings = {name: str(folder) if value in old else value for name, value in spec.settings.items()}
    return replace(spec, folder=str(folder), settings=settings)


def files(folder: Path) -> dict[str, bytes]:
    """Contents by relative path."""
    contents: dict[str, bytes] = {}
    left_out = ""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        size = path.stat().st_size
        if size > MOST_BYTES and path.suffix != ".log":
            left_out += f"{path.relative_to(folder)}: {size:,} bytes\n"
            continue
        with path.open("rb") as file:
            file.seek(max(0, size - MOST_BYTES))
            contents[str(path.relative_to(folder))] = file.read(MOST_BYTES)
    return contents | ({LEFT_OUT: left_out.encode()} if left_out else {})

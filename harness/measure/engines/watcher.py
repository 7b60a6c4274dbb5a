"""``python -m harness.measure.engines.watcher FD``: runs one repeat on a node, and ends it when whoever asked is gone.

It is sent an assignment through the pipe FD and sends each line of progress and then the end. A text that it is sent
meanwhile ends the repeat as pruned, the pipe's end ends it at once. The repeat works in a folder of its own, whose
files go back with the end: nodes need no common disk for what is written.
"""

import os
import signal
import sys
import tempfile
import threading
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.measure.engines.node import Assignment, Ended
from harness.measure.process import Outcome, execute
from harness.measure.repeat import TrialSpec, describe
from harness.measure.stop import Stopped, StopSignal

MOST_BYTES = 32 * 2**20
"""of one file that goes back; of a longer log the end does, of another file its name"""
LEFT_OUT = "left_on_the_node.txt"


class Orders:
    """What comes through the pipe while a repeat runs."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._reason: str | None = None
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def pass_on(self, progress: dict[str, Any]) -> str | None:
        """Send a line of progress; why the repeat is to end, or None."""
        try:
            self._pipe.send(progress)
        except OSError:  # nobody is there any more; the reading thread knows as well
            os.kill(os.getpid(), signal.SIGTERM)
        return self._reason

    def _read(self) -> None:
        try:
            while True:
                self._reason = self._pipe.recv()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)


def run(pipe: Connection) -> int:
    """One repeat, from its assignment to its end."""
    with StopSignal() as stop, tempfile.TemporaryDirectory(prefix="unilab-repeat-") as folder:
        assignment = pipe.recv()
        try:
            ended = carry_out(assignment, Path(folder), stop, Orders(pipe))
        except Stopped as stopped:
            return stopped.exit_code
        except Exception as error:  # noqa: BLE001 whoever asked gets it, with its traceback
            ended = Ended(Outcome("failed", error=describe(error)), {"traceback.txt": traceback.format_exc().encode()})
        pipe.send(ended)
    return 0


def carry_out(assignment: Assignment, folder: Path, stop: StopSignal, orders: Orders) -> Ended:
    """Run it in ``folder``, and tell it as if that were the folder that the driver named."""
    spec = moved(assignment.spec, folder)
    outcome = execute(spec, assignment.limits, stop, orders.pass_on)
    if outcome.error is not None:
        outcome.error = outcome.error.replace(str(folder), assignment.spec.folder)
    return Ended(outcome, files(folder))


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


if __name__ == "__main__":
    sys.exit(run(Connection(int(sys.argv[1]))))

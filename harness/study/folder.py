"""The folder of a study: held by one process at a time, described by a manifest, opened again after any end."""

import fcntl
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from harness.files.writing import RecordError
from harness.files.yaml_file import to_yaml
from harness.measure import host as machine
from harness.measure.provenance import commit
from harness.measure.record import (
    Phase,
    Record,
    RecordFile,
    attempts_that_count,
    now,
    set_bad_lines_aside,
    write_atomic,
)
from harness.measure.stop import StopSignal
from harness.predict.plan import Plan
from harness.study.best_trials import ranking
from harness.study.results import RecordedStudy
from harness.suite.schema import Suite
from unilab.errors import UserError

JOURNAL = "optuna.journal"


class TakenOver(RuntimeError):
    """Another driver of a shared study took over what this one was working on."""


def lock(folder: Path, kind: int = fcntl.LOCK_EX) -> IO[str]:
    """Hold a study's folder until the file that is returned is closed, or this process ends.

    Raises:
        UserError: another process works on it; the error says which.
    """
    file = (folder / "lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UserError(f"{folder}: {holder} works on this study; wait for its end or stop it") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}, since {now()}")
    file.flush()
    return file


def delete(folder: Path) -> tuple[int, int]:
    """Delete a study with all that is in its folder, and the folder of its suite if nothing else is in it.

    Returns:
        How many files there were, and how many bytes.

    Raises:
        UserError: another process works on it.
        RecordError: this is no folder that a run made, or it cannot be deleted.
    """
    if not any((folder / name).is_file() for name in ("trials.jsonl", "manifest.json")):
        raise RecordError(f"{folder}: has neither trials.jsonl nor manifest.json, so that no run made it; not deleted")
    try:
        with lock(folder):
            sizes = [path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()]
            shutil.rmtree(folder)
    except OSError as error:
        raise RecordError(f"{error.filename or folder}: cannot be deleted: {error.strerror or error}") from error
    with suppress(OSError):  # other studies are there
        folder.parent.rmdir()
    return len(sizes), sum(sizes)


class Study:
    """A study's folder, opened by one process; a second one gets a ``UserError``. The lock ends with its process.

    The methods from ``locked`` on let a search agree with other drivers; here there are none. The ``folder``,
    ``results/<suite>/<study id>``, is made when it is not there.
    """

    storage: str | None = None
    """the database that keeps it; None: files"""
    lock_kind = fcntl.LOCK_EX

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(folder, self.lock_kind)
            self.records = self._open_records()
            (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)  # its holder is dead: the study's lock is ours
            bad_lines = self.records.set_aside, set_bad_lines_aside(folder / JOURNAL, cut=True)
        except RecordError:
            raise
        except OSError as error:
            raise RecordError(f"{folder}: cannot be used: {error.strerror or error}") from error
        self.set_aside = [path for path in bad_lines if path is not None]
        """files that unreadable lines were moved to"""
        self._machine = machine.describe()
        self.machine = machine.fingerprint(self._machine)
        self.versions = machine.versions_text(self._machine)
        """packages that matter, as records have them"""
        code = commit()
        self.commit, self.dirty = code.commit, code.dirty

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.close()

    def _open_records(self) -> RecordFile:
        return RecordFile(self.folder / "trials.jsonl")

    def open_optuna(self, directions: Sequence[Any]) -> optuna.Study:
        """The sampler's memory, kept in a journal that nobody else writes to."""
        path = str(self.folder / JOURNAL)
        storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
        return optuna.create_study(
            storage=storage, study_name=self.folder.name, directions=list(directions), load_if_exists=True
        )

    def describe(self, plan: Plan, command: Sequence[str], name: str | None = None) -> None:
        """Write ``suite.yaml`` as it runs and add this run to ``manifest.json``; a ``name`` replaces an earlier one."""
        write_atomic(self.folder / "suite.yaml", to_yaml(plan.suite.to_dict()))
        path = self.folder / "manifest.json"
        recorded = RecordedStudy(self.folder)
        runs, name = recorded.manifest.get("runs", []), name or recorded.given_name
        run = {"command": shlex.join(command), "started_at": now(), "commit": self.commit, "dirty": self.dirty}
        manifest = {
            "study": self.folder.name, "suite": plan.suite.name, "commit": self.commit, "dirty": self.dirty,
            "machine": self._machine, "machine_name": self.machine, "python": sys.version.split()[0],
            "versions": self._machine["versions"], "dropped": list(plan.dropped), "command": run["command"],
            "runs": [*runs, run],
        } | ({"storage": self.storage} if self.storage else {}) | ({"name": name} if name else {})  # fmt: skip
        write_atomic(path, json.dumps(manifest, indent=2) + "\n")

    @property
    def trials(self) -> int:
        """Trials with at least one record of the search."""
        return 1 + max((record.trial for record in self.records.records), default=-1)

    def of_trial(self, trial: int, phase: Phase | None = None) -> list[Record]:
        """The records of a trial: the attempt that counts of each repeat."""
        own = [r for r in self.records.records if r.trial == trial and phase in (None, r.phase)]
        return attempts_that_count(own)

    def params(self, trial: int) -> dict[str, Any]:
        """What the search or the baseline set in a trial, by dotted names."""
        return self.of_trial(trial)[0].params

    def measured(self, trial: int) -> bool:
        """Whether the search measured a trial to its end."""
        return any(record.state == "complete" for record in self.of_trial(trial, "search"))

    def ranking(self, suite: Suite) -> list[int]:
        """Numbers of the trials that met all constraints, best first, as the search measured them."""
        return ranking(self.records.records, suite, "search")

    def strangers(self) -> list[str]:
        """Machines that have records here and do not compare with this one."""
        return sorted({record.machine for record in self.records.records} - {self.machine})

    # -- with other drivers

    def locked(self, stop: StopSignal) -> AbstractContextManager[None]:
        """While entered, no other driver chooses a trial, and all records are known here."""
        return nullcontext()

    def take(self, trial: int) -> bool:
        """Whether this driver may work on a trial that is not finished, and nobody else does."""
        return True

    def release(self, trial: int) -> None:
        """The work on a trial is over, finished or not."""

    def searches(self, sampler: optuna.Study, stop: StopSignal, deadline: float) -> Iterator[None]:
        """Yield when this driver may search: once, and again whenever another driver left a trial unfinished."""
        yield

    def confirmations(self, stop: StopSignal) -> Iterator[None]:
        """Yield when this driver has to confirm, with all records known here."""
        yield

"""The folder of a ``train`` run: what is in it, and what may not be replaced.

Beside what the trainer writes it holds ``config.yaml``, with which the run can be repeated, and ``curve.csv``. Nothing
that an earlier run left is touched before the first iteration is done.
"""

import errno
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.files.writing import is_full
from harness.files.yaml_file import InputError

CONFIG_FILE = "config.yaml"
MODELS = (".pt", ".zip")
"""suffixes of what trainers, ours and others, save"""
FAILED = "failed_update.pt"


def configuration_of(folder: Path) -> Path | None:
    """The configuration that a run left in its folder."""
    path = folder / CONFIG_FILE
    return path if path.is_file() else None


def models_of(folder: Path) -> list[Path]:
    """What a run saved in its folder, or another one before it."""
    return sorted(path for path in folder.glob("*") if path.suffix in MODELS and path.name != FAILED)


def goes_on(folder: Path, resume: Path) -> bool:
    """Whether a run in ``folder`` that resumes the checkpoint ``resume``, or the folder with one, goes on there."""
    return folder.resolve() in (resume.resolve(), resume.resolve().parent)


def check(folder: Path, resume: Path | None, overwrite: bool, *, resumes: bool = True) -> None:
    """Refuse a folder that cannot be written, or that holds what another run learned.

    What the run goes on from, the checkpoint ``resume`` or the folder with one, may be replaced; with ``overwrite``
    anything may. ``resumes``: whether the trainer can go on with what it saved.

    Raises:
        InputError: saying what else to do.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):  # nothing is made: another reason may refuse it
        reason = os.strerror(errno.EACCES if there.is_dir() else errno.ENOTDIR)
        raise unwritable(folder, f"{there}: {reason}")
    models = [] if overwrite else models_of(folder)
    if not models or (resume is not None and goes_on(folder, resume)):
        return
    problem = f"holds {models[0].name} of another run; "
    problem += "--resume goes on with it, " if resume is None and resumes else ""
    problem += "--overwrite replaces it, --out names another folder"
    raise InputError(str(folder), None, "", problem)


def unwritable(folder: Path, reason: str) -> InputError:
    """The error of a folder that refuses."""
    return InputError(str(folder), None, "", f"cannot be written ({reason}); name a folder with --out")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Entered while a run writes there.

    Raises:
        InputError: the disk is full or refuses; what was written before is whole.
    """
    try:
        yield
    except OSError as error:
        inside = error.filename is not None and Path(error.filename).resolve().is_relative_to(folder.resolve())
        if not inside and not is_full(error):
            raise
        name = error.filename if error.filename is not None else folder
        problem = f"{error.strerror}; training has stopped. "
        if any(path.suffix in MODELS for path in folder.iterdir()):
            problem += "What was saved before is whole. Free some space or fix the permissions, then go on with it: "
            problem += go_on_command(folder)
        else:
            problem += "Nothing was saved before. Free some space or fix the permissions, and train again"
        raise InputError(str(name), None, "", problem) from error


def go_on_command(folder: Path) -> str:
    """The command that goes on with the run, to be copied into a shell."""
    return f"python -m harness train {shlex.quote(str(folder))} --resume"

"""Checkpoints: written beside and renamed, loaded without executing anything."""

import logging
import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from unilab.errors import UserError
from unilab.run.config import RunConfig
from unilab.settings import SettingsError

FORMAT = 1
NEWEST, BEST = "checkpoint.pt", "best.pt"
PARTS = ("trainer", "config", "progress", "learner", "collection")
"""that the checkpoint of a run has"""
ZIP = b"PK\x03\x04"
FOREIGN = f"not a checkpoint of this program; `train` and `learn` write them, as {NEWEST} and {BEST}"
OTHER_LAYOUT = "the layout is that of an older version of this program; use that version, or train anew"
DEFAULT_INTERVAL = 50
SAVING_SHARE = 0.05
"""of the time at most for checkpoints that are due by time: a replay buffer of gigabytes takes seconds to write"""

logger = logging.getLogger(__name__)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be read or does not belong to this program."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, arrays, numbers, text, nested).

    At every instant ``path`` is either the old file or the complete new one.

    Raises:
        OSError: the disk is full or not writable; an older checkpoint at ``path`` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    beside = _beside(path)
    try:
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, **_loadable(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        # PyTorch hides what the disk said behind a failed assertion of its own
        raise OSError(cause.errno, f"the checkpoint cannot be written: {cause.strerror}", str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def copy_checkpoint(path: Path, to: Path) -> None:
    """Have the file under a second name as well, which costs no space where the file system knows hard links.

    Raises:
        OSError: as ``save_checkpoint``.
    """
    _remove_leftovers(to)
    beside = _beside(to)
    try:
        try:
            os.link(path, beside)
        except OSError:
            shutil.copyfile(path, beside)
        beside.replace(to)
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove_leftovers(path: Path) -> None:
    """What processes left that were killed while they wrote ``path``."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        pid = left.name.split(".")[-2]
        if not (pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()):
            left.unlink(missing_ok=True)


def in_folder(path: str | Path, folder: Path) -> bool:
    """Whether the path is the folder or a file in it."""
    return folder.resolve() in (Path(path).resolve(), Path(path).resolve().parent)


def _loadable(value: Any) -> Any:
    """Arrays as tensors, because a load without execution of code does not know NumPy's types."""
    if isinstance(value, dict):
        return {key: _loadable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_loadable(inner) for inner in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def load_checkpoint(path: Path, parts: Sequence[str] = ()) -> dict[str, Any]:
    """Read a checkpoint, or the newest one of a folder, onto the CPU.

    Args:
        parts: what it has to have; ``PARTS`` for one that a run goes on from.

    Raises:
        CheckpointError: no such file, truncated, corrupted, of another program or of an older layout.
    """
    path = path / NEWEST if path.is_dir() else path
    try:
        with path.open("rb") as file:
            begin = file.read(len(ZIP))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not ZIP.startswith(begin):  # a truncated one begins with less of it
        raise CheckpointError(f"{path}: {FOREIGN}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        if _is_whole(path):
            raise CheckpointError(f"{path}: {FOREIGN}") from error
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: truncated or corrupted ({reason}); use an earlier checkpoint") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: {FOREIGN}")
    for part in parts:
        if part not in content:
            raise CheckpointError(f"{path}: it has no '{part}': {OTHER_LAYOUT}")
    return content


def _is_whole(path: Path) -> bool:
    """Whether nothing is missing from a file that cannot be read: then it holds what another program put there."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


@contextmanager
def restoring() -> Iterator[None]:
    """While the inside of a checkpoint is read.

    Raises:
        CheckpointError: instead of what Python or PyTorch say of a part that is missing or of another shape.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"the checkpoint does not fit this run ({what}): {OTHER_LAYOUT}") from error


class Score(NamedTuple):
    """What the best checkpoint is chosen by."""

    by: str
    """training or evaluation: the two do not compare"""
    value: float


class Checkpoints:
    """Which checkpoints of a run there are, and when the next one is due.

    ``checkpoint.pt`` is the newest, ``best.pt`` the one with the best score. With ``keep`` above 1 the newest ``keep``
    are there as ``checkpoint-ITERATION.pt`` as well. What an earlier run left in the folder stays until this one has
    something to put in its place.

    Args:
        folder: None: nothing is written.
        interval: iterations between two; 0: none is ever due. The default is thinned to one every ``seconds``, because
            iterations may take milliseconds.
        seconds: one is due after so long, however few iterations there were.
        resumed: the checkpoint that the run goes on from.

    Raises:
        SettingsError: a negative interval.
    """

    def __init__(
        self, folder: str | Path | None, interval: int, *, seconds: float, keep: int, resumed: str | Path | None
    ) -> None:
        if interval < 0:
            raise SettingsError("save_interval", f"expected iterations between checkpoints, or 0: none, got {interval}")
        self._folder = None if folder is None else Path(folder)
        self._interval, self._seconds, self._keep = interval, seconds, keep
        self._saved_at, self._saving_took = time.monotonic(), 0.0
        self.newest: Path | None = None
        """that this run has written"""
        self._goes_on = self._folder is not None and resumed is not None and in_folder(resumed, self._folder)
        self._best = self._kept_score() if self._goes_on else None

    @classmethod
    def of(
        cls, config: RunConfig, folder: str | Path | None, interval: int, resumed: str | Path | None
    ) -> "Checkpoints":
        """Those that a run's settings ask for."""
        return cls(folder, interval, seconds=config.save_seconds, keep=config.keep_checkpoints, resumed=resumed)

    @property
    def exist(self) -> bool:
        """Whether the folder has one, whoever wrote it."""
        return self._folder is not None and (self._folder / NEWEST).exists()

    @property
    def best(self) -> Path | None:
        """The best one of this run, those before a resume included."""
        return None if self._folder is None or self._best is None else self._folder / BEST

    def due(self, iteration: int, score: Score | None) -> bool:
        """Whether one is to be written after this iteration; the best by an evaluation, which are rare, always is."""
        if self._folder is None or self._interval == 0:
            return False
        if score is not None and score.by == "evaluation" and self.is_best(score):
            return True
        if iteration % self._interval == 0 and (self._interval != DEFAULT_INTERVAL or self.newest is None):
            return True
        pause = max(self._seconds, self._saving_took / SAVING_SHARE)
        return time.monotonic() - self._saved_at >= pause

    def is_best(self, score: Score | None) -> bool:
        """Whether no checkpoint so far has such a score."""
        if score is None or self._folder is None:
            return False
        return self._best is None or self._best.by != score.by or score.value > self._best.value

    def save(self, content: Mapping[str, Any], iteration: int, score: Score | None) -> None:
        """Write one; without a folder nothing.

        Raises:
            OSError: as ``save_checkpoint``.
        """
        if self._folder is None:
            return
        began = time.monotonic()
        path = self._folder / NEWEST
        save_checkpoint(path, {**content, "score": None if score is None else list(score)})
        if self.newest is None and not self._goes_on:
            for stale in (self._folder / BEST, *self._numbered()):
                stale.unlink(missing_ok=True)
        self.newest = path
        if self.is_best(score):
            copy_checkpoint(path, self._folder / BEST)
            self._best = score
        if self._keep > 1:
            copy_checkpoint(path, self._folder / f"checkpoint-{iteration}.pt")
            for old in self._numbered()[: -self._keep]:
                old.unlink()
        self._saved_at = time.monotonic()
        self._saving_took = self._saved_at - began

    def _numbered(self) -> list[Path]:
        """Oldest first."""
        assert self._folder is not None
        return sorted(self._folder.glob("checkpoint-*.pt"), key=lambda path: path.stat().st_mtime_ns)

    def _kept_score(self) -> Score | None:
        assert self._folder is not None
        path = self._folder / BEST
        if not path.exists():
            return None
        try:
            score = load_checkpoint(path).get("score")
        except CheckpointError as error:
            logger.warning("%s; the next checkpoint takes its place", error)
            return None
        return None if score is None else Score(*score)


class Resumable(Protocol):
    """A learner, as far as a checkpoint is concerned."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def continue_learner(learner: Resumable, state: Mapping[str, Any], path: Path) -> None:
    """Give the learner what the checkpoint at ``path`` holds of it.

    Raises:
        CheckpointError: its networks are of other sizes, as settings of the environment may make them, or parts of it
            are missing.
    """
    with restoring():
        try:
            learner.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path}: its networks do not fit this run's; with env_cfg the sizes of observations or actions have "
                f"changed: use the saved values or start anew ({error})"
            ) from error


def continue_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Go on with the moments of ``saved``, an optimizer's ``state_dict``, and with the optimizer's own options.

    The options (learning rates, weight decay, whether the step counters are on the device) are those of the settings
    and the device of now. A parameter that ``saved`` does not know begins without moments.
    """
    groups = optimizer.state_dict()["param_groups"]
    known = {index for group in groups for index in group["params"]}
    moments = {index: state for index, state in saved["state"].items() if index in known}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def continue_generator(generator: torch.Generator, state: Any, seed: int) -> None:
    """Go on from ``state``, of a generator on any device; one of another kind of device cannot go on there: then the
    stream begins anew with ``seed``."""
    state = torch.as_tensor(state).cpu()
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        generator.manual_seed(seed)

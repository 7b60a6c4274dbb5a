"""Checkpoints: written beside and renamed, loaded without executing anything."""

import logging
import os
import pickle
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from unilab.errors import UserError
from unilab.machine.replacing import replacing
from unilab.run.config import RunConfig
from unilab.settings import SettingsError

FORMAT = 1
NEWEST, BEST = "checkpoint.pt", "best.pt"
PARTS = ("trainer", "config", "progress", "learner", "collection")
"""what the checkpoint of a run holds"""
ZIP = b"PK\x03\x04"
FOREIGN = f"not a checkpoint of this program; `train` and `learn` write them, as {NEWEST} and {BEST}"
OTHER_LAYOUT = "the layout is that of an older version of this program; use that version, or train anew"
DEFAULT_INTERVAL = 50
SAVING_SHARE = 0.05
"""greatest share of the time for checkpoints that are due by time: gigabytes of replay take seconds to write"""

logger = logging.getLogger(__name__)


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be read or does not belong to this program."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, arrays, numbers, text, nested).

    At every instant ``path`` is either the old file or the complete new one.

    Raises:
        OSError: the disk is full or not writable; an older checkpoint at ``path`` is untouched.
    """
    try:
        with replacing(path) as beside, beside.open("wb") as file:
            torch.save({"format": FORMAT, **_loadable(content)}, file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        # PyTorch hides what the disk said behind a failed assertion of its own
        raise OSError(cause.errno, f"the checkpoint cannot be written: {cause.strerror}", str(path)) from error


def _loadable(value: Any) -> Any:
    """Arrays as tensors, numbers as Python's: a load without execution of code does not know NumPy's types."""
    if isinstance(value, dict):
        return {key: _loadable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_loadable(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
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
        with zipfile.ZipFile(path) as archive:  # PyTorch does not look at the checksums
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
        broken = str(error)
    if broken is not None:
        raise CheckpointError(f"{path}: truncated or corrupted ({broken}); use an earlier checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {FOREIGN}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: {FOREIGN}")
    for part in parts:
        if part not in content:
            raise CheckpointError(f"{path}: it has no '{part}': {OTHER_LAYOUT}")
    return content


@contextmanager
def restoring(what: str | Path = "the checkpoint") -> Iterator[None]:
    """A context in which parts of a checkpoint are taken over; errors name it as ``what``.

    Raises:
        CheckpointError: parts of it are missing; or its networks are of other sizes, as settings of the environment
            may make them.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{what} does not fit this run ({problem}): {OTHER_LAYOUT}") from error
    except RuntimeError as error:  # PyTorch's
        raise CheckpointError(
            f"{what}: its networks do not fit this run's; with env_cfg the sizes of observations or actions have "
            f"changed: use the saved values or start anew ({error})"
        ) from error


class Score(NamedTuple):
    """What the best checkpoint is chosen by."""

    by: str
    """training or evaluation: the two do not compare"""
    value: float


class Checkpoints:
    """Which checkpoints of a run there are, and when the next one is due.

    ``checkpoint.pt`` is the newest, ``best.pt`` the one with the best score. With ``keep_checkpoints`` above 1 so many
    of the newest are there as ``checkpoint-ITERATION.pt`` as well. What an earlier run left in the folder stays until
    this one has something to put in its place.

    Args:
        config: says how many are kept, and after how many seconds one is due, however few iterations there were.
        folder: None: nothing is written.
        interval: iterations between two; 0: none is ever due. The default is thinned to one every ``save_seconds``,
            because iterations may take milliseconds.
        resumed: the checkpoint that the run goes on from.

    Attributes:
        newest: that this run has written.
        best: of this run, those before a resume included.

    Raises:
        SettingsError: a negative interval.
    """

    def __init__(self, config: RunConfig, folder: str | Path | None, interval: int, resumed: str | Path | None) -> None:
        if interval < 0:
            raise SettingsError("save_interval", f"expected iterations between checkpoints, or 0: none, got {interval}")
        self._config, self._interval = config, interval
        self._folder = None if folder is None else Path(folder)
        self._saved_at, self._pause = time.monotonic(), config.save_seconds
        self.newest: Path | None = None
        self.best: Path | None = None
        self._best_score: Score | None = None
        self._goes_on = False
        if self._folder is not None and resumed is not None:
            resumed, best = Path(resumed).resolve(), self._folder / BEST
            self._goes_on = self._folder.resolve() in (resumed, resumed.parent)
            if self._goes_on and best.exists():
                try:
                    score = load_checkpoint(best).get("score")
                    self.best, self._best_score = (None, None) if score is None else (best, Score(*score))
                except CheckpointError as error:
                    logger.warning("%s; the next checkpoint takes its place", error)

    @property
    def exist(self) -> bool:
        """Whether the folder has one, whoever wrote it."""
        return self._folder is not None and (self._folder / NEWEST).exists()

    def due(self, iteration: int, score: Score | None) -> bool:
        """Whether one is to be written after this iteration; the best by an evaluation, which are rare, always is."""
        if self._folder is None or self._interval == 0:
            return False
        if score is not None and score.by == "evaluation" and self._is_best(score):
            return True
        if iteration % self._interval == 0 and (self._interval != DEFAULT_INTERVAL or self.newest is None):
            return True
        return time.monotonic() - self._saved_at >= self._pause

    def save(self, content: Mapping[str, Any], iteration: int, score: Score | None) -> None:
        """Write one; without a folder nothing.

        Raises:
            OSError: as ``save_checkpoint``.
        """
        if self._folder is None:
            return
        began = time.monotonic()
        path, best = self._folder / NEWEST, self._folder / BEST
        save_checkpoint(path, {**content, "score": None if score is None else list(score)})
        if self.newest is None and not self._goes_on:
            for stale in (best, *self._folder.glob("checkpoint-*.pt")):
                stale.unlink(missing_ok=True)
        self.newest = path
        if score is not None and self._is_best(score):
            _copy(path, best)
            self.best, self._best_score = best, score
        if self._config.keep_checkpoints > 1:
            _copy(path, self._folder / f"checkpoint-{iteration}.pt")
            kept = sorted(self._folder.glob("checkpoint-*.pt"), key=lambda path: path.stat().st_mtime_ns)
            for old in kept[: -self._config.keep_checkpoints]:
                old.unlink()
        self._saved_at = time.monotonic()
        self._pause = max(self._config.save_seconds, (self._saved_at - began) / SAVING_SHARE)

    def _is_best(self, score: Score) -> bool:
        best = self._best_score
        return best is None or best.by != score.by or score.value > best.value


def _copy(path: Path, to: Path) -> None:
    """Give the file a second name, which costs no space where the file system knows hard links."""
    with replacing(to) as beside:
        try:
            os.link(path, beside)
        except OSError:
            shutil.copyfile(path, beside)


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

"""Checkpoints: written beside and renamed, loaded without executing anything."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or does not belong to this program."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors, arrays, numbers, text, nested).

    At every instant ``path`` is either the old file or the complete new one.

    Raises:
        OSError: the disk is full or not writable; an older checkpoint at ``path`` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, **_loadable(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _loadable(value: Any) -> Any:
    """Arrays as tensors, because a load without execution of code does not know NumPy's types."""
    if isinstance(value, dict):
        return {key: _loadable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_loadable(inner) for inner in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: no such file, truncated, corrupted or of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: truncated or corrupted ({error}); use an earlier checkpoint") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this program (format {FORMAT})")
    return content

"""Simulation faults of a run: warned about, and kept with the state that led to them."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class FaultLog:
    """Appends each new fault to a JSON-lines file (env_id, step, field, message, state) and warns of it once.

    Args:
        path: the file; None: only warn.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._reported = 0

    def report(self, count: int, latest: Sequence[Mapping[str, Any]]) -> None:
        """Report what is new.

        Args:
            count: faults since training began.
            latest: the newest of them, oldest first; what is no longer among them is only counted.
        """
        new = min(count - self._reported, len(latest))
        if new <= 0:
            return
        self._reported = count
        fresh = latest[-new:]
        for fault in fresh:
            logger.warning("%s; the episode was ended", fault["message"])
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(fault) + "\n" for fault in fresh)

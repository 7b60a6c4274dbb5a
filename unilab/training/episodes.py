"""Returns and lengths of finished episodes."""

from collections import deque
from typing import Any

import numpy as np

WINDOW = 100


class EpisodeStatistics:
    """Accumulates the environment's own rewards; the mean is over the last ``WINDOW`` finished episodes.

    Episodes under way when ``discard_running`` is called (a staggered start) do not count when they end: part of
    them is missing.
    """

    def __init__(self, num_envs: int) -> None:
        self.finished = 0
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._partial = np.zeros(num_envs, dtype=bool)
        self._recent: deque[tuple[float, int]] = deque(maxlen=WINDOW)

    def discard_running(self) -> None:
        """Do not count the episodes that are under way now."""
        self._partial[:] = True

    def step(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        """Add one step's rewards [N]; ``ended`` [K] are the rows whose episode ended with it."""
        self._returns += rewards
        self._lengths += 1
        if len(ended) == 0:
            return
        for row in ended[~self._partial[ended]]:
            self._recent.append((float(self._returns[row]), int(self._lengths[row])))
            self.finished += 1
        self._returns[ended] = 0
        self._lengths[ended] = 0
        self._partial[ended] = False

    @property
    def mean_return(self) -> float:
        """Mean return of the recent episodes; nan before the first one ended."""
        return float(np.mean([r for r, _ in self._recent])) if self._recent else float("nan")

    @property
    def mean_length(self) -> float:
        """Mean length in env steps of the recent episodes; nan before the first one ended."""
        return float(np.mean([n for _, n in self._recent])) if self._recent else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Everything, in types that a checkpoint can hold."""
        return {
            "finished": self.finished,
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
            "partial": self._partial.tolist(),
            "recent": [list(episode) for episode in self._recent],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.finished = state["finished"]
        self._returns[:] = state["returns"]
        self._lengths[:] = state["lengths"]
        self._partial[:] = state["partial"]
        self._recent.extend((float(r), int(n)) for r, n in state["recent"])

"""Returns and lengths of finished episodes."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

WINDOW = 100


class RecentEpisodes:
    """Return and length of the last ``WINDOW`` finished episodes; their means are computed once for each change."""

    def __init__(self) -> None:
        self._episodes: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._means: tuple[float, float] | None = (float("nan"), float("nan"))

    def extend(self, episodes: Iterable[tuple[float, int]]) -> None:
        """Add (return, length) of episodes in the order of their ends."""
        for episode in episodes:
            self._episodes.append(episode)
            self._means = None

    @property
    def means(self) -> tuple[float, float]:
        """Mean return and length; nan before the first episode."""
        if self._means is None:
            returns, lengths = zip(*self._episodes, strict=True)
            self._means = float(np.mean(returns)), float(np.mean(lengths))
        return self._means

    def __iter__(self) -> Iterator[tuple[float, int]]:
        return iter(self._episodes)


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
        self._recent = RecentEpisodes()

    def discard_running(self) -> None:
        """Do not count the episodes that are under way now."""
        self._partial[:] = True

    def step(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        """Add one step's rewards [N]; ``ended`` [K] are the rows whose episode ended with it."""
        self._returns += rewards
        self._lengths += 1
        if len(ended) == 0:
            return
        whole = ended[~self._partial[ended]]
        self._recent.extend(zip(self._returns[whole].tolist(), self._lengths[whole].tolist(), strict=True))
        self.finished += len(whole)
        self._returns[ended] = 0
        self._lengths[ended] = 0
        self._partial[ended] = False

    @property
    def mean_return(self) -> float:
        """Mean return of the recent episodes; nan before the first one ended."""
        return self._recent.means[0]

    @property
    def mean_length(self) -> float:
        """Mean length in env steps of the recent episodes; nan before the first one ended."""
        return self._recent.means[1]

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

"""Statistics of the episodes that ended."""

from enum import StrEnum

import numpy as np

EVENTS = ("episode_return", "episode_length")
"""what there are statistics of: one value an episode of each"""
STATISTICS = ("count", "mean", "min", "max", "std")


class StatsLevel(StrEnum):
    """Which episodes ``get_stats_value`` covers."""

    EPOCH = "epoch"
    """all episodes of the epoch that the last reduction ended"""
    EPISODE = "episode"
    """the newest episode that ended"""


class EpochStatistics:
    """Count, mean, min, max and standard deviation over the episodes that ended in the epoch under way.

    They are of ``episode_return`` and of ``episode_length``.
    """

    def __init__(self) -> None:
        self._newest: list[float] | None = None
        self._reduced: dict[str, dict[str, float]] | None = None
        self._begin()

    def _begin(self) -> None:
        self._count = 0
        self._mean, self._squares = np.zeros((2, len(EVENTS)))  # the squares of the distances from the mean, summed up
        self._min, self._max = np.full(len(EVENTS), np.inf), np.full(len(EVENTS), -np.inf)

    def record(self, episodes: np.ndarray) -> None:
        """Add ended episodes, the newest last: [K, 2] returns and lengths."""
        if not (ended := len(episodes)):
            return
        count = self._count + ended
        delta = episodes.mean(axis=0) - self._mean  # from here on as Chan, Golub and LeVeque (1979)
        self._squares += ended * (episodes.var(axis=0) + delta**2 * self._count / count)
        self._mean += delta * ended / count
        self._count = count
        np.minimum(self._min, episodes.min(axis=0), out=self._min)
        np.maximum(self._max, episodes.max(axis=0), out=self._max)
        self._newest = episodes[-1].tolist()

    def reduce(self) -> dict[str, dict[str, float]]:
        """End the epoch, begin the next one; event -> count, mean, min, max, std of the one that ended.

        Where nothing was recorded count is 0 and the rest NaN. std is that of the population: of one value it is 0.
        """
        deviation = np.sqrt(self._squares / max(1, self._count))
        rows = np.stack([self._mean, self._min, self._max, deviation], axis=1)
        if self._count == 0:
            rows.fill(np.nan)
        self._reduced = {
            event: dict(zip(STATISTICS, (float(self._count), *row), strict=True))
            for event, row in zip(EVENTS, rows.tolist(), strict=True)
        }
        self._begin()
        return {event: dict(values) for event, values in self._reduced.items()}

    def value(self, event: str, level: StatsLevel | str, name: str | None = None) -> float:
        """One statistic of an event.

        Args:
            event: episode_return or episode_length.
            level: of the epoch that the last ``reduce()`` ended, or of the newest episode that ended.
            name: count, mean, min, max or std; None: mean.

        Raises:
            ValueError: there is no such event, level or statistic.
            RuntimeError: nothing was reduced yet; no episode has ended yet.
        """
        name = name or "mean"
        for kind, given, known in (
            ("level", level, tuple(StatsLevel)), ("event", event, EVENTS), ("statistic", name, STATISTICS)
        ):  # fmt: skip
            if given not in known:
                raise ValueError(f"there is no {kind} {given!r}; choose one of {', '.join(known)}")
        if level == StatsLevel.EPOCH:
            if self._reduced is None:
                raise RuntimeError("no epoch has ended yet: call get_epoch_stats_aggregator().reduce() first")
            return self._reduced[event][name]
        if self._newest is None:
            raise RuntimeError("no episode has ended yet: collect more rollouts before asking for its statistics")
        return {"count": 1.0, "std": 0.0}.get(name, self._newest[EVENTS.index(event)])

"""Statistics of the episodes that ended: returns, lengths, and events of the environment's own."""

from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unilab.envs import VecEnv
from unilab.envs.vec_env import FloatArray

EPISODE_RETURN = "episode_return"
EPISODE_LENGTH = "episode_length"
STATISTICS = ("count", "mean", "min", "max", "std")

MOMENTS = 5
"""numbers that a set of values is summed up in: count, mean, sum of squared distances from the mean, min, max"""
_COUNT, _MEAN, _SQUARES, _MIN, _MAX = range(MOMENTS)


@runtime_checkable
class EmitsEvents(Protocol):
    """What a VecEnv adds to have events of its own in the statistics."""

    event_names: tuple[str, ...]
    """E names"""
    events: FloatArray
    """[N, E] values of the last step, NaN where there is none; belongs to the episodes that the step was made in"""


class StatsLevel(StrEnum):
    """Which episodes ``get_stats_value`` covers."""

    EPOCH = "epoch"
    """all episodes of the epoch that the last reduction ended"""
    EPISODE = "episode"
    """the newest episode that ended"""


def event_names(env: VecEnv) -> tuple[str, ...]:
    """Names of the environment's own events; none if it is no ``EmitsEvents``.

    Raises:
        ValueError: a name occurs twice, or is that of a statistic that every environment has.
    """
    names = tuple(env.event_names) if isinstance(env, EmitsEvents) else ()
    if len({EPISODE_RETURN, EPISODE_LENGTH, *names}) < 2 + len(names):
        raise ValueError(
            f"{type(env).__name__}: event_names is {names}; each must be there once, and {EPISODE_RETURN} and "
            f"{EPISODE_LENGTH} are taken: rename them"
        )
    return names


def no_moments(*shape: int) -> NDArray[np.float64]:
    """[*shape, 5] moments of no values."""
    return np.broadcast_to([0.0, 0.0, 0.0, np.inf, -np.inf], (*shape, MOMENTS)).copy()


def add_values(moments: NDArray[np.float64], values: np.ndarray) -> None:
    """Add to moments [..., 5] one value [...] each, except where it is NaN."""
    there = ~np.isnan(values)
    others = no_moments(*values.shape)
    others[there, _COUNT] = 1
    for moment in (_MEAN, _MIN, _MAX):
        others[there, moment] = values[there]
    merge_moments(moments, others)


def merge_moments(moments: NDArray[np.float64], others: NDArray[np.float64]) -> None:
    """Add to moments [..., 5] the values of others [..., 5] (Chan, Golub, LeVeque 1979)."""
    count = moments[..., _COUNT] + others[..., _COUNT]
    share = others[..., _COUNT] / np.maximum(count, 1)
    delta = others[..., _MEAN] - moments[..., _MEAN]
    moments[..., _SQUARES] += others[..., _SQUARES] + delta**2 * moments[..., _COUNT] * share
    moments[..., _MEAN] += delta * share
    moments[..., _COUNT] = count
    np.minimum(moments[..., _MIN], others[..., _MIN], out=moments[..., _MIN])
    np.maximum(moments[..., _MAX], others[..., _MAX], out=moments[..., _MAX])


def summary(moments: NDArray[np.float64]) -> dict[str, float]:
    """Count, mean, min, max and (population) standard deviation of the values in moments [5]; NaN without values."""
    count, mean, squares, low, high = moments.tolist()
    if count == 0:
        return dict.fromkeys(STATISTICS, float("nan")) | {"count": 0.0}
    return dict(zip(STATISTICS, (count, mean, low, high, float(np.sqrt(squares / count))), strict=True))


class EpochStatistics:
    """Count, mean, min, max and standard deviation over the episodes that ended in the epoch under way.

    Of ``episode_return`` and ``episode_length`` there is one value an episode. Of an event of the environment's own
    there are as many as it had in these episodes; they count when their episode has ended.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = (EPISODE_RETURN, EPISODE_LENGTH)
        self._epoch = no_moments(2)
        self._episode: NDArray[np.float64] | None = None
        self._reduced: dict[str, dict[str, float]] | None = None
        self._recorded = False

    @property
    def events(self) -> tuple[str, ...]:
        """Names of what there are statistics of; the environment's own from the first stored rollout on."""
        return self._names

    def record(self, event_names: tuple[str, ...], episodes: np.ndarray, events: np.ndarray) -> None:
        """Add ended episodes, the newest last.

        Args:
            event_names: E names of the environment's own events, the same in every call.
            episodes: [K, 2] returns and lengths.
            events: [K, E, 5] moments of the events.

        Raises:
            ValueError: other events than before.
        """
        names = (EPISODE_RETURN, EPISODE_LENGTH, *event_names)
        if not self._recorded:
            self._names, self._recorded = names, True
            self._epoch = no_moments(len(names))
        elif names != self._names:
            raise ValueError(
                f"the events are {names[2:]}, before they were {self._names[2:]}; all workers need the same"
            )
        for values, moments in zip(episodes, events, strict=True):
            episode = no_moments(len(self._names))
            add_values(episode[:2], values)
            episode[2:] = moments
            merge_moments(self._epoch, episode)
            self._episode = episode

    def reduce(self) -> dict[str, dict[str, float]]:
        """End the epoch, begin the next one; event -> count, mean, min, max, std of the one that ended.

        Where nothing was recorded count is 0 and the rest NaN. std is that of the population: of one value it is 0.
        """
        self._reduced = self._summaries(self._epoch)
        self._epoch = no_moments(len(self._names))
        return {event: dict(values) for event, values in self._reduced.items()}

    def value(self, event: str, level: StatsLevel | str, name: str | None = None) -> float:
        """One statistic of an event.

        Args:
            event: one of ``events``.
            level: of the epoch that the last ``reduce()`` ended, or of the newest episode that ended.
            name: count, mean, min, max or std; None: mean.

        Raises:
            ValueError: there is no such event, level or statistic.
            RuntimeError: nothing was reduced yet; no episode has ended yet.
        """
        if level not in list(StatsLevel):
            raise ValueError(f"there is no level {level!r}; choose one of {', '.join(StatsLevel)}")
        name = name or "mean"
        if event not in self._names:
            raise ValueError(f"there is no event {event!r}; choose one of {', '.join(self._names)}")
        if name not in STATISTICS:
            raise ValueError(f"there is no statistic {name!r}; choose one of {', '.join(STATISTICS)}")
        if level == StatsLevel.EPOCH:
            if self._reduced is None:
                raise RuntimeError("no epoch has ended yet: call get_epoch_stats_aggregator().reduce() first")
            return self._reduced[event][name]
        if self._episode is None:
            raise RuntimeError("no episode has ended yet: collect more rollouts before asking for its statistics")
        return self._summaries(self._episode)[event][name]

    def _summaries(self, moments: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        return {event: summary(values) for event, values in zip(self._names, moments, strict=True)}

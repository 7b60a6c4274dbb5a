"""What a training run reports while it goes, and what it leaves when it ends."""

import dataclasses
import logging
import queue
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

logger = logging.getLogger(__name__)

WINDOW = 100
"""number of the newest finished episodes, of which the mean return and length are reported"""


@dataclass(frozen=True)
class Progress:
    """Counters since training began, all cumulative; a rate is the difference of two of them.

    A mean of rates hides stalls; the difference of two counters over the difference of two clocks does not.
    """

    iteration: int = 0
    updates: int = 0
    """optimizer steps; one that an actor and its critics take together counts once"""
    samples: int = 0
    """transitions that went through updates, counted once for each update"""
    env_steps: int = 0
    """environment steps that were trained on, each counted once"""
    collected_env_steps: int = 0
    """environment steps that the collector made, given-up rollouts included"""
    wall_seconds: float = 0.0
    """monotonic seconds of training, summed over resumed runs"""
    learner_busy_seconds: float = 0.0
    learner_wait_seconds: float = 0.0
    """time that the learner waited for the collector"""
    collector_busy_seconds: float = 0.0
    collector_wait_seconds: float = 0.0
    """time that the collector waited for the learner"""
    episodes: int = 0
    """finished episodes; those that a staggered start cut short are not counted"""
    episode_return: float = float("nan")
    """mean return of the last 100 finished episodes, the environment's own rewards"""
    episode_length: float = float("nan")
    eval_return: float = float("nan")
    """mean return of the latest evaluation, which plays without noise; nan: none so far"""
    policy_lag: float = 0.0
    """iterations of the learner between the weights that acted and those that learn; of the newest data"""
    policy_lag_mean: float = 0.0
    dropped_rollouts: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """losses, KL, learning rate and the like of this iteration"""

    def scalars(self) -> dict[str, float]:
        """Every number by its name, metrics included, for a metric writer."""
        numbers = {f.name: float(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "metrics"}
        return numbers | self.metrics


@dataclass(frozen=True)
class CollectorCounters:
    """What the collector has done since training began, cumulative."""

    env_steps: int = 0
    episodes: int = 0
    episode_return: float = float("nan")
    episode_length: float = float("nan")
    busy_seconds: float = 0.0
    wait_seconds: float = 0.0
    dropped_rollouts: int = 0
    fault_count: int = 0
    faults: Sequence[dict[str, Any]] = ()
    """the latest simulation faults: env_id, step, field and message"""
    environment: Mapping[str, float] = field(default_factory=dict)
    """the environment's own numbers: terms of the reward and the like"""

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Self:
        """The counters in a collector's message; what it does not say is 0."""
        return cls(**{name: message[name] for name in cls.__dataclass_fields__ if name in message})

    def after(self, before: "CollectorCounters") -> "CollectorCounters":
        """These counters on top of those of the run that was resumed."""
        new = min(self.episodes, WINDOW)
        old = min(before.episodes, WINDOW - new)

        def recent(now: float, then: float) -> float:
            """The mean over the newest episodes of both."""
            if not (new and old):
                return now if new else then
            return (new * now + old * then) / (new + old)

        return CollectorCounters(
            env_steps=before.env_steps + self.env_steps,
            episodes=before.episodes + self.episodes,
            episode_return=recent(self.episode_return, before.episode_return),
            episode_length=recent(self.episode_length, before.episode_length),
            busy_seconds=before.busy_seconds + self.busy_seconds,
            wait_seconds=before.wait_seconds + self.wait_seconds,
            dropped_rollouts=before.dropped_rollouts + self.dropped_rollouts,
            fault_count=before.fault_count + self.fault_count,
            faults=self.faults,
            environment=self.environment,
        )


@dataclass(frozen=True)
class Summary:
    """The end of a run."""

    progress: Progress
    stopped_by: str
    """iterations | seconds | callback, or the signal's name"""
    checkpoint: Path | None
    """the newest; None: nothing was learned, or there is no folder"""
    best_checkpoint: Path | None = None
    """the one with the best return"""


def put_latest_metrics(metrics_queue: "queue.Queue[Any]", msg: dict[str, Any], *, worker_name: str) -> None:
    """Offer ``msg``, as it is, without ever blocking; a full queue gives up its oldest entry.

    ``worker_name`` is whose message it is, in what is logged (level DEBUG) when one is given up.
    """
    with suppress(queue.Full):
        metrics_queue.put_nowait(msg)
        return
    logger.debug("%s: the queue for metrics is full; its oldest message is given up", worker_name)
    with suppress(queue.Empty):  # the reader took it meanwhile: there is room again
        metrics_queue.get_nowait()
    with suppress(queue.Full):  # another writer was faster: its message is as new as ours
        metrics_queue.put_nowait(msg)

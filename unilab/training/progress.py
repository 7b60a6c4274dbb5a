"""What a training run reports while it goes, and what it leaves when it ends."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """Counters since training began, all cumulative: who wants a rate compares two of them.

    A mean of rates hides stalls; the difference of two counters over the difference of two clocks does not.
    """

    iteration: int = 0
    updates: int = 0
    """optimizer steps"""
    env_steps: int = 0
    """environment steps that were trained on, each counted once"""
    collected_env_steps: int = 0
    """environment steps that the collector made, given-up rollouts included"""
    wall_seconds: float = 0.0
    """monotonic seconds of training, summed over resumed runs"""
    learner_busy_seconds: float = 0.0
    learner_wait_seconds: float = 0.0
    """time that the learner waited for a rollout"""
    collector_busy_seconds: float = 0.0
    collector_wait_seconds: float = 0.0
    """time that the collector waited for a free slot"""
    episodes: int = 0
    """finished episodes; those that a staggered start cut short are not counted"""
    episode_return: float = float("nan")
    """mean return of the last 100 finished episodes, the environment's own rewards"""
    episode_length: float = float("nan")
    policy_lag: float = 0.0
    """learner versions between the weights that acted and those that learn, this iteration"""
    policy_lag_mean: float = 0.0
    dropped_rollouts: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """losses, KL, learning rate and the like of this iteration"""

    def scalars(self) -> dict[str, float]:
        """Every number by its name, metrics included, for a metric writer."""
        numbers = {f.name: float(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "metrics"}
        return numbers | self.metrics


@dataclass(frozen=True)
class Summary:
    """The end of a run."""

    progress: Progress
    stopped_by: str
    """iterations | seconds | callback | signal"""
    checkpoint: Path | None

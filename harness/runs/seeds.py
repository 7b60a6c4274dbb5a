"""One configuration with several seeds, one after the other: what each of them learned, and all together."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.runs.training import RunConfiguration
from harness.stats.inference import BOOTSTRAPPED, Interval, bootstrap_interval, interquartile_mean
from harness.suite.text import number_text
from unilab.errors import UserError

EPISODES = 64
"""whole episodes that each final policy plays without noise"""


@dataclass(frozen=True)
class SeedReturn:
    """What one of the runs learned."""

    seed: int
    folder: Path
    mean_return: float
    """of ``EPISODES`` episodes"""


def jobs(job: RunConfiguration, folder: Path, count: int) -> dict[int, tuple[RunConfiguration, Path]]:
    """The runs and their folders by their seeds, which follow that of the configuration.

    Raises:
        UserError: the trainer has no seed, or cannot play with what it has learned.
    """
    first = job.trainer.complete(job.settings).get("seed")
    if not isinstance(first, int) or not job.trainer.evaluates:
        lacks = "is not evaluated by this harness" if isinstance(first, int) else "has no setting 'seed'"
        raise UserError(f"--seeds: the trainer '{job.trainer_name}' {lacks}; train its runs one by one")
    return {
        seed: (dataclasses.replace(job, settings=job.settings | {"seed": seed}), folder / f"seed-{seed}")
        for seed in range(first, first + count)
    }


def evaluate(job: RunConfiguration, folder: Path) -> SeedReturn:
    """Play with the policy at the end of a run."""
    settings = job.trainer.complete(job.settings)
    return SeedReturn(settings["seed"], folder, job.trainer.evaluate(settings, folder, EPISODES))


def together(results: Sequence[SeedReturn]) -> tuple[float, Interval | None]:
    """The interquartile mean of the returns, and its 95 % interval; None with too few seeds for one."""
    returns = [one.mean_return for one in results]
    interval = Interval(*map(float, bootstrap_interval(returns))) if len(returns) >= BOOTSTRAPPED else None
    return interquartile_mean(returns), interval


def describe(results: Sequence[SeedReturn]) -> str:
    """The returns of all seeds as lines for people."""
    mean, interval = together(results)
    lines = [f"seed {one.seed}: return {number_text(one.mean_return)} ({one.folder})" for one in results]
    spread = f"fewer than {BOOTSTRAPPED} seeds have no interval"
    if interval is not None:
        spread = f"95 % interval {number_text(interval.low)} to {number_text(interval.high)}"
    lines.append(f"return {number_text(mean)}, interquartile mean of {len(results)} seeds; {spread}")
    return "\n".join([*lines, f"Each policy played {EPISODES} whole episodes without noise."])

"""The steady window of a repeat: what is left out as warm-up, what is measured, and whether it was steady."""

import bisect
import math
from array import array
from collections.abc import Mapping

from unilab.run.progress import Progress

WARMUP_ITERATIONS = 3
"""left out however short the warm-up and the buffers: first updates allocate and compile"""
UNSTEADY = 0.05
"""the halves of a window may differ by so much"""
EPISODES_FOR_TARGET = 10
"""finished episodes before their mean may count as the return that was asked for: the first ones may be lucky"""
BUDGETS = {"env_steps": "env_steps", "seconds": "wall_seconds"}
"""kinds of ``return_at`` and the counters of ``Progress`` that use them up"""
RATES = {
    "env_steps_per_second": "env_steps", "updates_per_second": "updates", "samples_per_second": "samples",
    "collector_busy_fraction": "collector_busy_seconds", "collector_wait_fraction": "collector_wait_seconds",
    "learner_busy_fraction": "learner_busy_seconds", "learner_wait_fraction": "learner_wait_seconds",
}  # fmt: skip
"""fields of a record that are measured over the window, and the counters whose rates they are"""
FRACTIONS = tuple(name for name in RATES if name.endswith("_fraction"))
"""of a result: how a repeat's time was used; not known of repeats that took turns"""


class SteadyWindow:
    """From the first progress after the warm-up to the first one at which the trial is long enough.

    Args:
        warmup_seconds: of training, at least.
        warmup_iterations: learner iterations of the warm-up, at least; ``WARMUP_ITERATIONS`` if that is more.
        return_at: ``{"env_steps": N}`` or ``{"seconds": S}``, counted from the start of training: the trial ends there
            instead of after ``seconds``, and its return is that at the budget.
        target_return: the time until the mean return of the last episodes reaches it is measured.
    """

    def __init__(
        self,
        warmup_seconds: float,
        seconds: float,
        *,
        warmup_iterations: int = 0,
        return_at: Mapping[str, float] | None = None,
        target_return: float | None = None,
    ) -> None:
        self.warmup_seconds = warmup_seconds
        self.warmup_iterations = max(WARMUP_ITERATIONS, warmup_iterations)
        self.seconds = seconds
        self.first: Progress | None = None
        self.last: Progress | None = None
        self._return_at = {BUDGETS[kind]: budget for kind, budget in (return_at or {}).items()}
        self._target_return = math.nan if target_return is None else target_return
        self._ended_at: Progress | None = None
        """where ``return_at`` was used up"""
        self._seconds_to_return = math.nan
        self._seen = 0
        self._times, self._env_steps = array("d"), array("d")

    def add(self, progress: Progress) -> bool:
        """Count ``progress`` in; False once the trial is long enough."""
        self._seen += 1
        reached = progress.episode_return >= self._target_return and progress.episodes >= EPISODES_FOR_TARGET
        if reached and math.isnan(self._seconds_to_return):  # the first time
            self._seconds_to_return = progress.wall_seconds
        if self.first is not None:
            self.last = progress
        elif self._seen >= self.warmup_iterations and progress.wall_seconds >= self.warmup_seconds:
            self.first = progress
        if self.first is not None:
            self._times.append(progress.wall_seconds)
            self._env_steps.append(progress.env_steps)
        if not self._return_at:
            return self.first is None or progress.wall_seconds - self.first.wall_seconds < self.seconds
        if all(getattr(progress, counter) < budget for counter, budget in self._return_at.items()):
            return True
        self._ended_at = progress
        return False

    def result(self) -> dict[str, float]:
        """The measured fields of a record.

        A trial that used up its ``return_at`` during the warm-up has its return, and NaN in place of rates.

        Raises:
            RuntimeError: training ended before there was a window, and before a budget was used up.
        """
        first, end = self.first, self.last
        # without a window these are not known, and nothing was unsteady
        window = dict.fromkeys(RATES, math.nan) | {"steady_seconds": 0.0, "half_ratio": math.nan, "unsteady": False}
        if first is not None and end is not None and end.wall_seconds > first.wall_seconds:
            seconds = end.wall_seconds - first.wall_seconds
            for name, counter in RATES.items():
                window[name] = (getattr(end, counter) - getattr(first, counter)) / seconds
            for name in FRACTIONS:
                # the collector counts by whole rollouts: one may reach over the window; NaN, not known, stays NaN
                window[name] = min(window[name], 1.0)
            half_ratio, times, env_steps = math.nan, self._times, self._env_steps
            middle = bisect.bisect_left(times, (times[0] + times[-1]) / 2)
            if 0 < middle < len(times) - 1:  # otherwise an iteration is about as long as the window
                before = (env_steps[middle] - env_steps[0]) / (times[middle] - times[0])
                after = (env_steps[-1] - env_steps[middle]) / (times[-1] - times[middle])
                half_ratio = after / before if before > 0 else math.nan
            # a window without halves to compare does not count as steady
            window |= {
                "steady_seconds": seconds,
                "half_ratio": half_ratio,
                "unsteady": not abs(half_ratio - 1) <= UNSTEADY,
            }
        elif self._ended_at is not None:
            end = self._ended_at
        else:
            raise RuntimeError(
                f"training ended before the steady window began, which takes {self.warmup_iterations} iterations and "
                f"{self.warmup_seconds:g} s of warm-up; make the trial longer or the warm-up shorter"
            )
        return window | {
            "episode_return": end.episode_return,
            "episodes": end.episodes,
            "policy_lag_mean": end.policy_lag_mean,
            "dropped_rollouts": end.dropped_rollouts,
            "env_steps": end.env_steps,
            "return_at_budget": math.nan if self._ended_at is None else self._ended_at.episode_return,
            "seconds_to_return": self._seconds_to_return,
        }

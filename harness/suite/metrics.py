"""What a suite may name as objective or constraint, and which direction is better."""

from typing import Literal

METRICS: dict[str, Literal["maximize", "minimize"]] = {
    "env_steps_per_second": "maximize",
    "updates_per_second": "maximize",
    "samples_per_second": "maximize",
    "episode_return": "maximize",
    "episodes": "maximize",
    "collector_busy_fraction": "maximize",
    "learner_busy_fraction": "maximize",
    "policy_lag_mean": "minimize",
    "dropped_rollouts": "minimize",
    "peak_host_bytes": "minimize",
    "peak_shm_bytes": "minimize",
    "peak_device_bytes": "minimize",
    "wall_seconds": "minimize",
    "return_at_budget": "maximize",
    "evaluated_return": "maximize",
    "seconds_to_return": "minimize",
    "seconds_to_success": "minimize",
    "async_efficiency": "maximize",
}
"""what an objective or a constraint may name, and the direction that is better"""

RATES = ("env_steps_per_second", "samples_per_second", "updates_per_second")
"""metrics of speed, which are predicted"""
TIMES = {"seconds_to_return": "the target return", "seconds_to_success": "success"}
"""metrics that a repeat lacks where it did not reach what it was asked for, which is later than any other; and what it
was"""
RETURNS = ("episode_return", "return_at_budget", "evaluated_return")
"""metrics of learning: their repeats are seeds, and the curve of a running trial tells something about them"""

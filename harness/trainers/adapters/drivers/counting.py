"""What several drivers count alike."""

from typing import Any

import torch


class StopTraining(Exception):
    """Ends a training loop that has no other way out than its number of iterations."""


class UpdateCounter:
    """Optimizer steps since it was made, where a package does not count them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.count = 0
        optimizer.register_step_post_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def in_turns(env_steps: int, collecting: float, learning: float) -> dict[str, Any]:
    """Counters of a trainer that collects and learns in turns: while one is busy, for so many seconds, the other waits.

    It learns with the weights that acted, and from every env step.
    """
    return {
        "env_steps": env_steps,
        "collected_env_steps": env_steps,
        "collector_busy_seconds": collecting,
        "collector_wait_seconds": learning,
        "learner_busy_seconds": learning,
        "learner_wait_seconds": collecting,
        "policy_lag": 0.0,
        "policy_lag_mean": 0.0,
    }

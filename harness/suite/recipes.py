"""Suites made from goals: ``tune ENV --goal GOAL`` runs one of them without a file.

``throughput`` and ``memory=SIZE`` search placement, as the trainer and the machine give it, and hold every setting of
the learning at the trainer's default. ``time-to-return=RETURN`` does the opposite: it searches the settings of the
learning below, and holds placement and all others at their defaults.
"""

import re
from collections.abc import Mapping
from typing import Any

from unilab.errors import UserError

GOALS = "throughput, time-to-return=RETURN or memory=SIZE"
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
RATE = {"low": 3.0e-4, "high": 3.0e-3, "log": True}
OFF_POLICY = {
    "algorithm.actor_learning_rate": RATE, "algorithm.critic_learning_rate": RATE, "num_envs": [8, 16, 32, 64],
    "updates_per_step": [2, 4, 8],
}  # fmt: skip
LEARNING: Mapping[str, Mapping[str, Any]] = {
    "appo": {
        "algorithm.learning_rate": RATE, "algorithm.num_learning_epochs": [3, 5, 8],
        "algorithm.num_mini_batches": [2, 4, 8], "num_envs": [64, 128, 256, 512], "steps_per_env": [8, 16, 32],
    },
    "sac": OFF_POLICY,
    "td3": OFF_POLICY,
}  # fmt: skip
"""what ``time-to-return`` searches, by trainer"""
MINUTES = {"throughput": 10.0, "memory": 10.0, "time-to-return": 60.0}
"""of a run, unless ``--minutes`` says otherwise"""
TRIALS, SPEED_TRIALS = 10, 16
"""of a search for a return, and at most of one for speed"""
REPEATS = 6
"""that confirm the best and the baseline: fewer show no difference at a level of 5 %"""
START_SECONDS = 6.0
"""of a trial, beside its budget"""


class GoalError(UserError, ValueError):
    """No goal, or one that the trainer has no recipe for."""


def recipe(env: str, trainer: str, goal: str, minutes: float | None, host_bytes: int) -> dict[str, Any]:
    """A suite as a file has it.

    Args:
        env: environment to train in.
        trainer: as a suite names it.
        goal: one of ``GOALS``.
        minutes: of the run; None: as ``MINUTES``.
        host_bytes: memory of this machine.

    Raises:
        GoalError: it says what there is.
    """
    kind, _, value = goal.partition("=")
    needs_value = kind != "throughput"
    if kind not in MINUTES or needs_value != bool(value):
        raise GoalError(f"--goal {goal}: expected {GOALS}, such as time-to-return=3000 or memory=8GB")
    minutes = MINUTES[kind] if minutes is None else minutes
    made: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9_.-]+", "-", f"tune_{env}_{trainer}_{goal}")[:80], "trainer": trainer, "env": env,
        "search": {"placement": "auto"}, "objectives": ["env_steps_per_second"],
        "measure": {"warmup_seconds": 3, "seconds": 8}, "confirm": {"top": 1, "repeats": REPEATS},
        "limits": {
            "trials": SPEED_TRIALS, "minutes": minutes, "trial_timeout_seconds": 120, "progress_timeout_seconds": 60,
        },
    }  # fmt: skip
    if kind == "memory":
        most = _bytes(goal, value)
        fraction = min(0.8, most / host_bytes)
        made["constraints"] = {"host_memory_fraction": fraction, "peak_host_bytes": {"max": most}}
    if kind == "time-to-return":
        if trainer not in LEARNING:
            raise GoalError(f"--goal {goal}: '{trainer}' has no recipe; there is one for {', '.join(LEARNING)}")
        try:
            target = float(value)
        except ValueError:
            problem = "expected the return that is to be reached, as in time-to-return=3000"
            raise GoalError(f"--goal {goal}: {problem}") from None
        seconds = max(10, int(60 * minutes / (TRIALS + 2 * REPEATS) - START_SECONDS))
        made |= {"search": dict(LEARNING[trainer]), "objectives": ["seconds_to_return"]}
        made["measure"] = {"warmup_seconds": 3, "return_at": {"seconds": seconds}, "target_return": target}
        made["limits"] |= {"trials": TRIALS, "trial_timeout_seconds": 2 * seconds + 60}
    return made


def _bytes(goal: str, size: str) -> int:
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", size)
    if found is None or not float(found[1]):
        raise GoalError(f"--goal {goal}: expected a size in {', '.join(UNITS)}, as in memory=8GB")
    return round(float(found[1]) * UNITS[found[2]])

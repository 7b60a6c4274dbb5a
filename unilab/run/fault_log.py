"""Simulation faults of a run: all are counted, the first are warned about and kept with the state that led to them."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unilab.envs import SimulationFault
from unilab.run.progress import CollectorCounters

logger = logging.getLogger(__name__)

LOGGED_FAULTS = 8
"""that a run warns of"""
KEPT_FAULTS = 32
"""whose states go to the file: those of a large model are large, and a policy that diverged makes thousands"""
FAILED_STEPS = 100
"""of all environments in a row that may all fail before the run ends"""


class FaultStates:
    """Appends the first faults, with their states, to a JSON-lines file (env_id, step, field, message, state).

    It belongs where the environments are: states of any size do not travel between processes.

    Args:
        path: the file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept = 0

    def keep(self, faults: Sequence[SimulationFault]) -> None:
        """Append these, as long as there are fewer than KEPT_FAULTS."""
        fresh = faults[: KEPT_FAULTS - self._kept]
        if self._path is None or not fresh:
            return
        self._kept += len(fresh)
        with self._path.open("a", encoding="utf-8") as file:
            for fault in fresh:
                file.write(json.dumps(dataclasses.asdict(fault) | {"state": fault.state.tolist()}) + "\n")


class AllStepsFailedError(RuntimeError):
    """Nothing can be learned: for a while every step of every environment has failed numerically."""


class FaultLog:
    """Warns of the first LOGGED_FAULTS faults of a run, and ends a run in which all steps fail.

    Args:
        num_envs: environments that are stepped together.
        path: the file of ``FaultStates``, to be named; None: there is none.
    """

    def __init__(self, num_envs: int, path: Path | None) -> None:
        self._patience = FAILED_STEPS * num_envs
        self._where = "" if path is None else f"; the first {KEPT_FAULTS} are in {path} with their states"
        self._counted = 0
        self._logged = 0
        self._succeeded = 0
        self._env_steps = 0
        self._example = "the environment's faults are in the log of the process that steps it"

    def report(self, counters: CollectorCounters) -> None:
        """Take the collector's newest counters, while waiting too.

        Raises:
            AllStepsFailedError: the last FAILED_STEPS steps of all environments failed.
        """
        new = counters.fault_count - self._counted
        self._counted = counters.fault_count
        if new > 0:
            self._warn(counters.faults[-new:])
        succeeded = counters.env_steps - counters.fault_count
        if succeeded != self._succeeded or not self._env_steps:
            self._succeeded, self._env_steps = succeeded, counters.env_steps
        elif counters.env_steps - self._env_steps >= self._patience:
            where = self._where if self._logged else ""  # who tells of faults keeps their states; workers do neither
            raise AllStepsFailedError(
                f"all of the last {counters.env_steps - self._env_steps} env steps failed numerically, so there is "
                f"nothing to learn from: {self._example}. Look at what the environment returns there{where}"
            )

    def _warn(self, fresh: Sequence[Mapping[str, Any]]) -> None:
        if fresh:
            self._example = fresh[-1]["message"]
        for fault in fresh[: LOGGED_FAULTS - self._logged]:
            self._logged += 1
            logger.warning("%s; the episode was ended", fault["message"])
            if self._logged == LOGGED_FAULTS:
                logger.warning("further simulation faults are only counted (simulation_faults)%s", self._where)

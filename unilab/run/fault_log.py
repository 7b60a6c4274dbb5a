"""The simulation faults of a run: its warnings, and when the run gives up."""

import logging
from pathlib import Path

from unilab.errors import UserError
from unilab.run.progress import CollectorCounters

logger = logging.getLogger(__name__)

LOGGED_FAULTS = 8
"""number of faults that a run warns of"""
KEPT_FAULTS = 32
"""number of faults whose states go to a file: states may be large, and a policy that diverged makes thousands"""
FAILED_STEPS = 100
"""number of steps in a row in which all environments may fail before the run ends"""


class AllStepsFailedError(UserError, RuntimeError):
    """Nothing can be learned: for a while every step of every environment has failed numerically."""


class FaultLog:
    """Warns of the first LOGGED_FAULTS faults of a run, and ends a run in which all steps fail.

    ``path`` is the file of the acting loop's first faults, to be named; None: there is none.
    """

    def __init__(self, num_envs: int, path: Path | None) -> None:
        self._patience = FAILED_STEPS * num_envs
        self._where = "" if path is None else f"; the first {KEPT_FAULTS} are in {path} with their states"
        self._counted = self._logged = self._succeeded = self._env_steps = 0
        self._example = "the environment's faults are in the log of the process that steps it"

    def report(self, counters: CollectorCounters) -> None:
        """Take the collector's newest counters, while waiting too.

        Raises:
            AllStepsFailedError: the last FAILED_STEPS steps of all environments failed.
        """
        fresh = counters.faults[self._counted - counters.fault_count :] if counters.fault_count > self._counted else ()
        self._counted = counters.fault_count
        for fault in fresh:
            self._example = fault["message"]
            if self._logged < LOGGED_FAULTS:
                self._logged += 1
                logger.warning("%s; the episode was ended", self._example)
                if self._logged == LOGGED_FAULTS:
                    logger.warning("further simulation faults are only counted (simulation_faults)%s", self._where)
        succeeded = counters.env_steps - counters.fault_count
        if succeeded != self._succeeded or not self._env_steps:
            self._succeeded, self._env_steps = succeeded, counters.env_steps
        elif counters.env_steps - self._env_steps >= self._patience:
            where = self._where if self._logged else ""  # who tells of faults keeps their states; workers do neither
            raise AllStepsFailedError(
                f"all of the last {counters.env_steps - self._env_steps} env steps failed numerically, so there is "
                f"nothing to learn from: {self._example}. Look at what the environment returns there{where}"
            )

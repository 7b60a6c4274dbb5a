"""How long a piece of work takes in this process."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from harness.trainers.rounds import Cost

SECONDS = 0.5
"""spent on one piece of work, unless ``LEAST`` executions take longer"""
LEAST = 3
MOST = 200


def now() -> tuple[float, float]:
    """Wall time and processor time of all threads of this process, seconds."""
    return time.perf_counter(), time.process_time()


def timed(work: Callable[[], object], *, count: int = 1) -> Cost:
    """The cost of ``work``, which does its piece ``count`` times a call; the first call is left out."""
    work()
    stamps = [now()]
    while len(stamps) <= LEAST or (len(stamps) < MOST and stamps[-1][0] - stamps[0][0] < SECONDS):
        work()
        stamps.append(now())
    return fastest(stamps, count=count)


def fastest(*series: Sequence[tuple[float, float]], count: int = 1) -> Cost:
    """The cost of what was done ``count`` times between each two stamps of a series, that of the fastest execution.

    What else goes on in the machine only ever adds wall time. Work that sleeps, waits for a device or steps in other
    processes takes more wall time than core time of this process, and that is its cost.
    """
    spent = np.concatenate([np.diff(stamps, axis=0) for stamps in series])
    seconds, core_seconds = spent[spent[:, 0].argmin()] / count
    return Cost(float(seconds), float(core_seconds))

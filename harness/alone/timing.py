"""How long a piece of work takes in this process."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from harness.workload import Cost

SECONDS = 0.25
"""spent on one piece of work, unless ``LEAST`` executions take longer"""
LEAST = 3
MOST = 200


def now() -> tuple[float, float]:
    """Wall time and processor time of all threads of this process, seconds."""
    return time.perf_counter(), time.process_time()


def timed(work: Callable[[], object], *, count: int = 1, device: str = "cpu") -> Cost:
    """The cost of ``work``, which does its piece ``count`` times a call on ``device``; the first call is left out."""
    work()
    stamps = [now()]
    while len(stamps) <= LEAST or (len(stamps) < MOST and stamps[-1][0] - stamps[0][0] < SECONDS):
        work()
        stamps.append(now())
    return typical(stamps, count=count, device=device)


def typical(*series: Sequence[tuple[float, float]], count: int = 1, device: str = "cpu") -> Cost:
    """The cost of what was done ``count`` times on ``device`` between each two stamps of a series.

    What else goes on in the machine only ever adds wall time, so the shortest counts; and work that is alone on a CPU
    keeps at least one core busy: more wall time than core time was somebody else's.
    """
    spent = np.concatenate([np.diff(stamps, axis=0) for stamps in series])
    seconds, core_seconds = float(spent[:, 0].min()) / count, float(np.median(spent[:, 1])) / count
    return Cost(min(seconds, core_seconds) if device == "cpu" else seconds, core_seconds)

"""Workers that fill a replay buffer: one after the other in this process, in processes of this machine, or Ray actors.

``ray`` itself is imported when ``RayWorkers`` are made.
"""

from unilab.distributed.base import BaseDistributedWorkersWithBuffer, WorkerError
from unilab.distributed.buffers import NotEnoughEntriesError, RolloutBuffer, TransitionBuffer
from unilab.distributed.processes import ProcessWorkers
from unilab.distributed.ray.workers import RayWorkers
from unilab.distributed.rollout import Rollout, RolloutLayout
from unilab.distributed.sequential import SequentialWorkers
from unilab.distributed.statistics import EpochStatistics, StatsLevel
from unilab.distributed.worker import RolloutWorker, WorkerPolicy

__all__ = [
    "BaseDistributedWorkersWithBuffer",
    "EpochStatistics",
    "NotEnoughEntriesError",
    "ProcessWorkers",
    "RayWorkers",
    "Rollout",
    "RolloutBuffer",
    "RolloutLayout",
    "RolloutWorker",
    "SequentialWorkers",
    "StatsLevel",
    "TransitionBuffer",
    "WorkerError",
    "WorkerPolicy",
]

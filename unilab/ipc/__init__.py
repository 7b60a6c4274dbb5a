"""Shared memory between collectors and learner: rollouts, weights, latest values, and the processes themselves."""

from unilab.ipc.async_runner import AsyncRunner
from unilab.ipc.collector_error import CollectorError
from unilab.ipc.mailbox import LatestValue
from unilab.ipc.rollout_ring_buffer import RolloutRingBuffer
from unilab.ipc.segments import SegmentClosedError, SharedMemoryFullError, remove_leftovers
from unilab.ipc.shared_obs_stats import SharedObsNormStats
from unilab.ipc.wakeup import SharedFlag
from unilab.ipc.weight_sync import SharedWeightSync

__all__ = [
    "AsyncRunner",
    "CollectorError",
    "LatestValue",
    "RolloutRingBuffer",
    "SegmentClosedError",
    "SharedFlag",
    "SharedMemoryFullError",
    "SharedObsNormStats",
    "SharedWeightSync",
    "remove_leftovers",
]

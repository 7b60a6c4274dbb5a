"""Shared memory between collectors and learner: rollouts, replay, weights, latest values, and the processes themselves.

Names are imported when they are first used: supervision and the removal of leftovers work without loading torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unilab.ipc.async_runner import AsyncRunner as AsyncRunner
    from unilab.ipc.collector_error import CollectorError as CollectorError
    from unilab.ipc.collector_error import ProcessFailure as ProcessFailure
    from unilab.ipc.latest import LatestValue as LatestValue
    from unilab.ipc.process.group import CollectorGroup as CollectorGroup
    from unilab.ipc.replay_buffer import ReplayBuffer as ReplayBuffer
    from unilab.ipc.replay_buffer import ReplayEmptyError as ReplayEmptyError
    from unilab.ipc.rollout_ring_buffer import RolloutRingBuffer as RolloutRingBuffer
    from unilab.ipc.rollout_ring_buffer import slot_fields as slot_fields
    from unilab.ipc.shared_buffer import SharedBufferBase as SharedBufferBase
    from unilab.ipc.shared_memory.segments import SegmentClosedError as SegmentClosedError
    from unilab.ipc.shared_memory.segments import SharedMemoryFullError as SharedMemoryFullError
    from unilab.ipc.shared_memory.segments import remove_leftovers as remove_leftovers
    from unilab.ipc.shared_memory.segments import start_time as start_time
    from unilab.ipc.shared_memory.wakeup import SharedFlag as SharedFlag
    from unilab.ipc.shared_obs_stats import SharedObsNormStats as SharedObsNormStats
    from unilab.ipc.weight_sync import SharedWeightSync as SharedWeightSync

_MODULES = {
    "AsyncRunner": "async_runner",
    "CollectorError": "collector_error",
    "CollectorGroup": "process.group",
    "LatestValue": "latest",
    "ProcessFailure": "collector_error",
    "ReplayBuffer": "replay_buffer",
    "ReplayEmptyError": "replay_buffer",
    "RolloutRingBuffer": "rollout_ring_buffer",
    "SegmentClosedError": "shared_memory.segments",
    "SharedBufferBase": "shared_buffer",
    "SharedFlag": "shared_memory.wakeup",
    "SharedMemoryFullError": "shared_memory.segments",
    "SharedObsNormStats": "shared_obs_stats",
    "SharedWeightSync": "weight_sync",
    "remove_leftovers": "shared_memory.segments",
    "slot_fields": "rollout_ring_buffer",
    "start_time": "shared_memory.segments",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)

"""What the tests of Ray workers run besides the usual workload, importable on every node and by other processes."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import ray

from tests.distributed.workload import SEEDS, STEPS, NoisyPolicy, RecordingBuffer, carts, stamps
from unilab.distributed import RayWorkers


class TellingPolicy(NoisyPolicy):
    """A policy that writes down in which process on which node each worker is."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def become_worker(self, worker: int) -> None:
        there = {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()}
        (self.folder / f"{worker}.json").write_text(json.dumps(there))


def home(folder: Path, worker: int) -> dict[str, Any]:
    """Where a worker was last: process id and node id."""
    return json.loads((folder / f"{worker}.json").read_text())


def workers(
    buffer: RecordingBuffer, folder: Path, count: int = 2, per_iteration: int = 4, **options: Any
) -> RayWorkers:
    """Workers that tell where they are."""
    policy = TellingPolicy(folder)
    return RayWorkers(carts(), policy, STEPS, count, 4, per_iteration, False, SEEDS[:count], buffer, **options)


def main(address: str, folder: str) -> None:
    """A learner of its own: prints a line for each thing that it has found out, then learns for ever."""
    buffer = RecordingBuffer()
    with workers(buffer, Path(folder), ray_address=address) as first:
        for seed in (1, 2, 3):
            first.broadcast_updated_policy(NoisyPolicy(seed).state_dict())
            first.collect_rollouts()
        print(json.dumps([first.restarts, stamps(buffer.rollouts)]), flush=True)
        untouched = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    print(json.dumps([ray.is_initialized(), untouched]), flush=True)
    with workers(RecordingBuffer(), Path(folder), 1, ray_address=address, in_step=False) as second:
        second.collect_rollouts()
        print("learning", flush=True)
        while True:
            second.collect_rollouts()


if __name__ == "__main__":
    main(*sys.argv[1:])

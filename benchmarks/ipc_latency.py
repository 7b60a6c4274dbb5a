"""What shared memory costs: wake-ups between processes, weight sync against a plain copy, the ring's throughput.

    python benchmarks/ipc_latency.py [--wakeups 2000] [--seconds 2] [--json]

- wake-up: from just before the writer's ``signal_write_done`` to the reader's return from ``wait_for_data``, on the
  monotonic clock that all processes share. The reader is asleep each time: the writer waits at random 1 to 3 ms.
- weight sync: nanoseconds of ``write_weights`` and ``read_weights_into`` over those of copying the same tensors once
  into ordinary memory, and over one copy of all the bytes in one piece; measured in turn in one process.
- ring: rollouts and bytes per second that go through the ring, copied out whole, writer and reader never idle.
"""

import argparse
import itertools
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from unilab.ipc import RolloutRingBuffer, SharedWeightSync
from unilab.ipc.shared_memory.wakeup import SharedFlag

NETWORKS = {
    "[256, 256], 17 -> 6": (17, 256, 256, 6),
    "[512, 256, 128], 105 -> 8": (105, 512, 256, 128, 8),
    "[1024, 1024, 512], 376 -> 17": (376, 1024, 1024, 512, 17),
}


def write_stamps(ring: RolloutRingBuffer, count: int) -> None:
    """Writer process of the wake-up measurement: the time of each signal travels in the rollout."""
    for _ in range(count):
        ring.wait_for_space()
        time.sleep(random.uniform(0.001, 0.003))
        stamp = ring.write_buffer["obs"].reshape(-1)[:2].view(np.int64)
        stamp[0] = time.monotonic_ns()
        ring.signal_write_done()


def measure_wakeups(count: int) -> dict[str, float]:
    """Microseconds from signal to wake-up."""
    context = multiprocessing.get_context("spawn")
    ring = RolloutRingBuffer(1, 1, 2, 1, num_slots=1)
    writer = context.Process(target=write_stamps, args=(ring, count))
    writer.start()
    waits = []
    for _ in range(count):
        if not ring.wait_for_data():
            raise RuntimeError("the writer process sends nothing; see its output")
        now = time.monotonic_ns()
        waits.append((now - int(ring.read_numpy_views()["obs"].reshape(-1)[:2].view(np.int64)[0])) / 1000)
        ring.advance_read()
    writer.join()
    ring.cleanup()
    quantiles = statistics.quantiles(waits, n=100)
    return {"count": count, "median": statistics.median(waits), "p90": quantiles[89], "p99": quantiles[98]}


def network(sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """State dict of a multi-layer perceptron of these widths."""
    layers = [torch.nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
    return {key: value.clone() for key, value in torch.nn.Sequential(*layers).state_dict().items()}


def timed(action: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    action()
    return time.perf_counter_ns() - start


def measure_weight_sync(sizes: tuple[int, ...], rounds: int = 400) -> dict[str, float]:
    """Medians over interleaved rounds: microseconds, and ratios to copying tensor by tensor and in one piece."""
    weights, copy = network(sizes), network(sizes)
    total = sum(value.numel() for value in weights.values())
    flat, flat_copy = torch.rand(total), torch.empty(total)
    sync = SharedWeightSync.from_state_dict(weights)

    def copy_tensors() -> None:
        for key, value in weights.items():
            copy[key].copy_(value)

    actions: dict[str, Callable[[], object]] = {
        "tensors": copy_tensors,
        "flat": lambda: flat_copy.copy_(flat),
        "write": lambda: sync.write_weights(weights),
        "read": lambda: sync.read_weights_into(copy),
    }
    samples: dict[str, list[int]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            samples[name].append(timed(action))
    sync.cleanup()
    median = {name: statistics.median(values) / 1000 for name, values in samples.items()}
    result = {"parameters": total, **{f"{name}_microseconds": value for name, value in median.items()}}
    for side in ("write", "read"):
        for base in ("tensors", "flat"):
            result[f"{side}_over_{base}"] = median[side] / median[base]
    return result


def write_for_ever(ring: RolloutRingBuffer, stop: SharedFlag) -> None:
    """Writer process of the throughput measurement: touches all of each rollout."""
    value = 0.0
    while ring.wait_for_space(unless=stop) and not stop.is_set():
        for array in ring.write_buffer.values():
            array.fill(value)
        ring.signal_write_done()
        value += 1


def measure_ring(seconds: float) -> dict[str, float]:
    """Rollouts a second of 256 environments, 32 steps, HalfCheetah's sizes."""
    context = multiprocessing.get_context("spawn")
    ring = RolloutRingBuffer(256, 32, 17, 6, num_slots=2)
    stop = SharedFlag()
    writer = context.Process(target=write_for_ever, args=(ring, stop))
    writer.start()
    tensors = {name: torch.zeros(shape) for name, shape in ring.slot_shapes.items()}
    rollout_bytes = sum(value.nbytes for value in tensors.values())
    ring.wait_for_data()
    start, count = time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < seconds:
        if ring.wait_for_data():
            ring.copy_read_slot_to_torch(tensors)
            ring.advance_read()
            count += 1
    stop.set()
    writer.join()
    ring.cleanup()
    rate = count / elapsed
    return {"rollouts_per_second": rate, "gigabytes_per_second": rate * rollout_bytes / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wakeups", type=int, default=2000, help="wake-ups to measure")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the ring measurement")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the copies")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, Any]] = {"wake-up, microseconds": measure_wakeups(options.wakeups)}
    for name, sizes in NETWORKS.items():
        results[f"weight sync, {name}"] = measure_weight_sync(sizes)
    results["ring, 256 environments x 32 steps"] = measure_ring(options.seconds)
    if options.json:
        print(json.dumps(results))
        return
    for title, values in results.items():
        print(title)
        for name, value in values.items():
            print(f"    {name:24} {value:12,.2f}")


if __name__ == "__main__":
    main()

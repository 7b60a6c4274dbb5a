"""Trainings in a child process that show what a process costs: ``python -m ... FOLDER`` prints it as JSON."""

import dataclasses
import json
import os
import sys
import threading

import psutil

from unilab.machine.loading import loading

with loading():  # as a run does, which takes some MiB more
    from unilab.algos.torch.appo.config import APPOConfig, NetworkConfig
    from unilab.algos.torch.appo.runner import APPORunner
    from unilab.algos.torch.memory.estimate import estimate
    from unilab.algos.torch.memory.processes import ProcessCost, ProcessCosts, read_process_cost
    from unilab.run.progress import Progress

TINY = APPOConfig(
    num_envs=4,
    steps_per_env=4,
    env_threads=1,
    inference_threads=1,
    learner_threads=1,
    network=NetworkConfig(actor=(8,), critic=(8,)),
)
USUAL = APPOConfig(mode="sync", num_envs=512, steps_per_env=16)
"""large enough that what the allocator keeps stands out, and small enough to take a second or two"""
NOTHING = ProcessCost(0, 0)
INTERVAL = 0.01
"""seconds between two looks for the peak"""


def look_at_processes(folder: str) -> dict[str, ProcessCost]:
    """What each process of the smallest possible run holds."""
    costs: dict[str, ProcessCost] = {}

    def record(progress: Progress) -> bool:
        if progress.iteration < 3:
            return True
        costs["learner"] = read_process_cost(os.getpid())
        for child in psutil.Process().children():
            kind = "tracker" if "resource_tracker" in " ".join(child.cmdline()) else "collector"
            costs[kind] = read_process_cost(child.pid)
        return False

    with APPORunner.from_config(TINY) as runner:
        runner.learn(5, log_dir=folder, on_iteration=record)
    return costs


def peak(config: APPOConfig, folder: str) -> int:
    """The most that this process holds of its own while it trains."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL):
            seen.append(read_process_cost(os.getpid()).private)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with APPORunner.from_config(config) as runner:
            runner.learn(5, log_dir=folder)
    finally:
        done.set()
        watcher.join()
    return max(seen)


def main(folder: str) -> None:
    costs = look_at_processes(folder)
    one, two = (peak(dataclasses.replace(TINY, mode="sync", learner_threads=count), folder) for count in (1, 2))
    thread = max(0, two - one)
    free = ProcessCosts(NOTHING, NOTHING, NOTHING, thread, 1.0)
    ratios = []
    for count in (1, 2):  # threads reuse each other's memory less, but what they use comes in smaller blocks
        usual = dataclasses.replace(USUAL, learner_threads=count)
        items = estimate(usual, costs=free).items
        phases = next(item.bytes for item in items if item.name == "activations")
        others = sum(item.bytes for item in items) - phases
        ratios.append((peak(usual, folder) - one - others) / phases)
    kept = min(max(sum(ratios) / len(ratios), 1.0), 2.0)
    print(json.dumps(dataclasses.asdict(ProcessCosts(**costs, thread=thread, kept=kept))))


if __name__ == "__main__":
    main(sys.argv[1])

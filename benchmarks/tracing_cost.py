"""What tracing costs: a span in ns, and APPO's training with and without, in turns.

    python benchmarks/tracing_cost.py [--rounds 3] [--seconds 15] [--blocks 40] [--json]

- span: of one block that does nothing, the loop around it taken off; on includes what writing it costs later.
- one process (``mode: sync``, one thread): blocks of some iterations with tracing off and on in turns within one
  training, by wall time and by processor time, which other processes disturb less; starting, writing and closing
  count as tracing.
- two processes (``mode: async``): whole trainings in turns, env steps trained on a second.
- share: spans a second of those trainings times the cost of a span, which is what the other two should show.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contest import Contestant, Window, add_options, add_settings, compare, conduct, print_table, settings

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.runner import APPORunner
from unilab.run.progress import Progress
from unilab.settings import parse
from unilab.tracing import spans as tracing
from unilab.tracing.spans import span
from unilab.tracing.timeline_file import merge

SPANS = 20_000
BLOCK_ITERATIONS = 5
SETTINGS: dict[str, Any] = {
    "env": "HalfCheetah",
    "num_envs": 256,  # short iterations, of which the window has many
    "steps_per_env": 32,
    "network.activation": "elu",
    "network.actor": [256, 256],
    "network.critic": [256, 256],
    "algorithm.num_learning_epochs": 5,
    "algorithm.num_mini_batches": 4,
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40, help="with tracing on, in one process; as many with it off")
    add_options(parser)
    add_settings(parser)
    return parser.parse_args()


def loop_ns(body: Callable[[int], None]) -> float:
    """Nanoseconds of one turn; the fastest of several loops."""
    times = []
    for _ in range(5):
        began = time.perf_counter_ns()
        body(SPANS)
        times.append((time.perf_counter_ns() - began) / SPANS)
    return min(times)


def empty_loop(count: int) -> None:
    for _ in range(count):
        pass


def span_loop(count: int) -> None:
    for _ in range(count):
        with span("span"):
            pass


def measure_span() -> dict[str, float]:
    """Nanoseconds of a span: off, on, on with thread time."""
    empty = loop_ns(empty_loop)
    costs = {"off": loop_ns(span_loop) - empty}
    for name, thread_time in (("on", False), ("on, with thread time", True)):
        with tempfile.TemporaryDirectory() as folder:
            tracing.start("benchmark", Path(folder), thread_time=thread_time, max_spans=sys.maxsize)
            costs[name] = loop_ns(span_loop) - empty
            tracing.stop()
    return costs


class Turns:
    """Turns tracing on and off between blocks of iterations (off on on off ...) and times each block."""

    def __init__(self, blocks: int, folder: Path) -> None:
        self.wall: dict[bool, list[float]] = {False: [], True: []}
        self.processor: dict[bool, list[float]] = {False: [], True: []}
        self._order = [turn in (1, 2) for pair in range(blocks) for turn in ((0, 1) if pair % 2 == 0 else (2, 3))]
        self._folder = folder
        self._began: tuple[float, float] | None = None

    def on_iteration(self, progress: Progress) -> bool:
        """The first block is a warm-up."""
        if progress.iteration % BLOCK_ITERATIONS:
            return True
        if self._began is not None:
            traced = self._order.pop(0)
            tracing.stop()
            self.wall[traced].append(time.monotonic() - self._began[0])
            self.processor[traced].append(time.process_time() - self._began[1])
        self._began = (time.monotonic(), time.process_time())
        if self._order and self._order[0]:
            tracing.start("learner", self._folder)
        return bool(self._order)


def measure_one_process(blocks: int, given: dict[str, Any]) -> dict[str, Any]:
    """Time of blocks with tracing over that of their neighbours without, and spans a second of wall time."""
    one_thread = {"mode": "sync", "env_threads": 1, "inference_threads": 1, "learner_threads": 1}
    config = parse(APPOConfig, {"num_envs": 64, **given, **one_thread})
    with tempfile.TemporaryDirectory() as folder, APPORunner.from_config(config) as runner:
        turns = Turns(blocks, Path(folder))
        runner.learn(sys.maxsize, sys.maxsize, None, on_iteration=turns.on_iteration)
        events = json.loads(merge(Path(folder)).read_text())["traceEvents"]  # of the last block
    return {
        "wall": ratios(turns.wall),
        "processor": ratios(turns.processor),
        "spans_per_second": sum(event["ph"] == "X" for event in events) / turns.wall[True][-1],
    }


def ratios(seconds: dict[bool, list[float]]) -> dict[str, float]:
    """Median and quartiles of on over off, pair by pair."""
    pairs = [on / off for on, off in zip(seconds[True], seconds[False], strict=True)]
    low, median, high = statistics.quantiles(pairs, n=4)
    return {"median": median, "low": low, "high": high}


def contestants(given: dict[str, Any]) -> list[Contestant]:
    """The same training, traced and not."""
    jobs: dict[str, dict[str, Any]] = {
        name: {"trainer": "appo", "settings": SETTINGS | given | {"trace_enabled": traced}}
        for name, traced in (("tracing on", True), ("tracing off", False))
    }
    return [Contestant(name, "trainer_driver.py", sys.executable, job) for name, job in jobs.items()]


def main() -> None:
    args = options()
    given = settings(args.set)
    costs = measure_span()
    one = measure_one_process(args.blocks, given)
    share = {name: one["spans_per_second"] * cost / 1e9 for name, cost in costs.items()}
    two = compare(contestants(given), "env_steps", args.rounds, Window(args.warmup_seconds, args.seconds))
    if args.json:
        print(json.dumps({"span_ns": costs, "one_process": one, "share": share, "two_processes": two}))
        return
    print("\nspan, ns")
    for name, cost in costs.items():
        print(f"  {name:<47} {cost:>11,.0f}   {share[name]:.3%} of the training's time in one process")
    print(
        f"\none process, time with tracing over without, median and quartiles; {one['spans_per_second']:,.0f} spans/s"
    )
    for name in ("wall", "processor"):
        told = one[name]
        print(f"  {name:<47} {told['median']:>11.4f}   {told['low']:.4f} to {told['high']:.4f}")
    print_table("two processes, env steps trained on per second", two)


if __name__ == "__main__":
    conduct(main)

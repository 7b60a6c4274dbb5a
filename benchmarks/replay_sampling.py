"""What sampling from the replay buffer costs, and how much of it a prefetching pipeline hides from the learner.

    python benchmarks/replay_sampling.py [--rows 8192] [--width 111] [--capacity 200000] [--rounds 40] [--json]

Everything is measured in turn within each round, on one intra-op thread unless ``--threads`` says otherwise; the
figures are the median and the quartiles over the rounds (some 8 seconds with the defaults on two idle cores).

- index_select: a bare ``torch.index_select`` of as many random rows of an ordinary tensor with the same contents, into
  memory that is there already; the indices are drawn before. index_select_drawn: drawing them is included.
- sample: ``ReplayBuffer.sample``; sample_packed: into memory that is there already.
- sample_over_index_select: their ratio, round by round.
- hidden: what a learner no longer waits for. A learner-like load (matrix products on the calling thread, several times
  as long as the sampling) runs alone, with a direct and with a prefetching pipeline in front of it;
  hidden = 1 - (prefetch - load) / (direct - load). 1: sampling costs the learner nothing.
- hidden_cpu: the same of the calling thread's processor time, that is without the time in which other programs had
  the core: what would be hidden if a second core were always idle.
"""

import argparse
import contextlib
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unilab.ipc.replay_buffer import ReplayBuffer
from unilab.ipc.replay_pipelines import build_pipeline

LOAD_FACTOR = 6
"""length of the load over that of the sampling"""
BATCHES = 8
"""batches that one round takes for each figure"""
CHUNK = 4096
"""rows added at a time"""
PIECE, FEATURES, HIDDEN = 128, 32, 256
"""rows of the load's products, width of its first layer and of the others"""

Batch = dict[str, Tensor]


def fill_buffer(width: int, capacity: int) -> ReplayBuffer:
    """A full replay buffer of random rows of this width (two observations, an action and three scalars)."""
    action_dim = 6 + (width - 9) % 2
    obs_dim = (width - 3 - action_dim) // 2
    if obs_dim < 1:
        raise SystemExit(f"--width: expected at least 11, got {width}")
    replay = ReplayBuffer(capacity, obs_dim, action_dim, "cpu", seed=0)
    for start in range(0, capacity, CHUNK):
        count = min(CHUNK, capacity - start)
        obs, actions, rewards = torch.randn(count, obs_dim), torch.rand(count, action_dim), torch.randn(count)
        replay.add(obs, actions, rewards, obs + 1, torch.zeros(count), torch.zeros(count))
    return replay


class Load:
    """What a learner does with a batch, in pieces that stay in the cache: a first layer on it, then many products."""

    def __init__(self, batch: Batch, microseconds: float) -> None:
        obs_dim = batch["obs"].shape[1]
        self._first, self._features = torch.randn(obs_dim, FEATURES), torch.empty(PIECE, FEATURES)
        self._layer, self._in = torch.randn(HIDDEN, HIDDEN), torch.randn(PIECE, HIDDEN)
        self._out = torch.empty(PIECE, HIDDEN)
        self._products = 0
        first = typical(lambda: self(batch))
        product = typical(lambda: torch.mm(self._in, self._layer, out=self._out))
        self._products = max(1, round((microseconds - first) / product))

    def __call__(self, batch: Batch) -> None:
        for name in ("obs", "next_obs"):
            for piece in batch[name].split(PIECE):
                torch.mm(piece, self._first, out=self._features[: len(piece)])
        for _ in range(self._products):
            torch.mm(self._in, self._layer, out=self._out)


def timed(action: Callable[[], object], times: int = 1) -> tuple[float, float]:
    """Microseconds of one of ``times`` calls in a row: wall time, and processor time of this thread."""
    wall, processor = time.perf_counter_ns(), time.thread_time_ns()
    for _ in range(times):
        action()
    processor, wall = time.thread_time_ns() - processor, time.perf_counter_ns() - wall
    return wall / 1000 / times, processor / 1000 / times


def typical(action: Callable[[], object]) -> float:
    """Median microseconds of a few calls, the first ones left out."""
    return statistics.median([timed(action)[0] for _ in range(30)][10:])


def measure(replay: ReplayBuffer, batch_size: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of every figure in every round, the ratios among them included."""
    table, out = replay.rows(0, replay.written), torch.empty(batch_size, replay.width)
    generator = torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randint(len(table), (batch_size,), generator=generator)

    indices = [draw() for _ in range(BATCHES)]
    with (
        contextlib.closing(build_pipeline("direct", replay, batch_size, "cpu")) as direct,
        contextlib.closing(build_pipeline("prefetch", replay, batch_size, "cpu")) as prefetch,
    ):
        fixed = {name: value.clone() for name, value in replay.sample(batch_size).items()}
        load = Load(fixed, LOAD_FACTOR * typical(direct.next_batch))
        actions: dict[str, Callable[[], object]] = {
            "index_select": lambda: torch.index_select(table, 0, indices.pop(0), out=out),
            "index_select_drawn": lambda: torch.index_select(table, 0, draw(), out=out),
            "sample": lambda: replay.sample(batch_size),
            "sample_packed": lambda: replay.sample_packed(batch_size, out=out),
            "load": lambda: load(fixed),
            "load_direct": lambda: load(direct.next_batch()),
            "load_prefetch": lambda: load(prefetch.next_batch()),
        }
        samples: dict[str, list[float]] = {name: [] for name in actions}
        processor: dict[str, list[float]] = {name: [] for name in actions}
        for turn in range(-1, rounds):  # the first round warms up
            for name, action in shuffled(actions):
                indices[:] = [draw() for _ in range(BATCHES)]
                prefetch.refresh()  # what it does ahead must not run beside the others
                wall, busy = timed(action, BATCHES)
                if turn >= 0:
                    samples[name].append(wall)
                    processor[name].append(busy)
    samples["sample_over_index_select"] = ratios(samples["sample"], samples["index_select"])
    samples["hidden"], samples["hidden_cpu"] = hidden(samples), hidden(processor)
    return samples


def hidden(samples: dict[str, list[float]]) -> list[float]:
    """In every round, the part of the sampling that prefetching takes off the learner."""
    rounds = zip(samples["load"], samples["load_direct"], samples["load_prefetch"], strict=True)
    return [1 - (prefetch - load) / (direct - load) for load, direct, prefetch in rounds]


def shuffled(actions: dict[str, Callable[[], object]]) -> list[tuple[str, Callable[[], object]]]:
    """In another order each time: nothing always comes behind what leaves the caches full of other data."""
    return random.sample(list(actions.items()), len(actions))


def ratios(left: list[float], right: list[float]) -> list[float]:
    return [a / b for a, b in zip(left, right, strict=True)]


def summary(values: list[float]) -> dict[str, float]:
    lower, median, upper = statistics.quantiles(values, n=4)
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192, help="rows of one batch")
    parser.add_argument("--width", type=int, default=111, help="float32 columns of a row")
    parser.add_argument("--capacity", type=int, default=200_000, help="rows in the replay buffer")
    parser.add_argument("--rounds", type=int, default=40, help="rounds to measure (at least 2)")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads of the calling thread")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    replay = fill_buffer(options.width, options.capacity)
    try:
        results = {name: summary(values) for name, values in measure(replay, options.rows, options.rounds).items()}
    finally:
        replay.cleanup()
    if options.json:
        arguments: dict[str, Any] = vars(options)
        print(json.dumps({"arguments": arguments, "results": results}))
        return
    print(f"{options.rows} rows of {options.width} columns out of {options.capacity}; microseconds, ratios")
    for name, values in results.items():
        print(f"    {name:26}" + "".join(f"{key:>16} {value:10.3f}" for key, value in values.items()))


if __name__ == "__main__":
    main()

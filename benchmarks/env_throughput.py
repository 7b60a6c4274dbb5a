"""Env steps per second of a batched task, interleaved with bare physics and with other environment pools.

    python benchmarks/env_throughput.py [--task HalfCheetah] [--envs 1024] [--threads 2] [--rounds 10] [--seconds 0.7]
        [--gymnasium] [--envpool-python OTHER/bin/python] [--json]

- ours: ``step`` with observations, rewards and resets; the episodes are staggered, so that rows end in every step.
- bare: ``mujoco.batch.Batch.step`` alone on the same states with the same actions, the model as its file has it.
- bare, our options: the same with the options that the environment sets, so that only its own work is between them.
- ours, no forces: of Ant and the humanoids, the task without contact forces, with the same actions.
- gymnasium (``--gymnasium``): its SyncVectorEnv.
- EnvPool: in a process of its own, which is asleep while the others run; from this interpreter if it has envpool, or
  from the one named (``pip install envpool`` in a fresh environment). Of the settings in ENVPOOL_SETTINGS, synchronous
  and asynchronous, the fastest is chosen beforehand and takes part.

All take turns, in a new order each round, so that what disturbs the machine disturbs all of them; the ratios are taken
within a round. On a machine that has other work they still favour whoever has more threads; the processor time of an
env step, summed over the threads, then says more.
"""

import argparse
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch

from unilab.envs import VecEnv, make, names
from unilab.envs.mujoco_env import MujocoVecEnv
from unilab.envs.mujoco_log import quiet


class Turn(NamedTuple):
    """What one contestant did in one round."""

    steps: int
    """env steps"""
    seconds: float
    core_seconds: float
    """processor time of all threads"""

    @property
    def rate(self) -> float:
        """Env steps per second of wall time."""
        return self.steps / self.seconds


Run = Callable[[float], Turn]
"""takes a turn of about so many seconds"""

DRIVER = Path(__file__).parent / "drivers" / "envpool_driver.py"
GYMNASIUM_ENVS = 32

# (version, num_envs, batch_size)
ENVPOOL_SETTINGS = [
    (version, num_envs, batch_size)
    for version in ("v4", "v5")
    for num_envs, batch_size in ((16, 16), (64, 64), (1024, 1024), (8, 4), (32, 16), (128, 64), (1024, 256))
]


def take_turn(step: Callable[[int], object], steps_a_call: int, seconds: float) -> Turn:
    """Call ``step(0)``, ``step(1)``, ... for about ``seconds``."""
    calls, start, core_start = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - start) < seconds:
        step(calls)
        calls += 1
    return Turn(calls * steps_a_call, spent, time.process_time() - core_start)


def ours_and_bare(task: str, num_envs: int, threads: int) -> dict[str, Run]:
    """The environment and its physics alone."""
    env = make(task, num_envs, seed=0, num_threads=threads)
    if not isinstance(env, MujocoVecEnv):
        raise SystemExit(f"{task} does not run on mujoco.batch, there is no bare physics to compare it with")
    env.reset()
    env.stagger()
    actions = np.random.default_rng(0).uniform(-1, 1, (16, num_envs, env.action_dim)).astype(np.float32)

    def bare(model: mujoco.MjModel) -> Run:
        batch = Batch(model, num_envs, threads, persistent=env.persistent)
        ctrl, frame_skip = batch.bind("ctrl"), env.settings.frame_skip

        def step(call: int) -> None:
            ctrl[...] = actions[call % 16]
            batch.step(nstep=frame_skip)

        def run(seconds: float) -> Turn:
            batch.state[:] = env.batch.state
            return take_turn(step, num_envs, seconds)

        return run

    def stepping(ours: VecEnv) -> Run:
        return lambda seconds: take_turn(lambda call: ours.step(actions[call % 16]), num_envs, seconds)

    contestants = {"ours": stepping(env), "bare": bare(env.load_model()), "bare, our options": bare(env.model)}
    if f"{task}NoForces" in names():
        without_forces = make(f"{task}NoForces", num_envs, seed=0, num_threads=threads)
        without_forces.reset()
        without_forces.stagger()
        contestants["ours, no forces"] = stepping(without_forces)
    return contestants


def gymnasium_sync(task: str) -> dict[str, Run]:
    """SyncVectorEnv, which steps its environments in a loop on one thread."""
    import gymnasium

    with quiet():
        pool = gymnasium.make_vec(f"{task}-v5", num_envs=GYMNASIUM_ENVS, vectorization_mode="sync")
    pool.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (16, *pool.action_space.shape)).astype(np.float32)
    return {
        f"gymnasium sync, {GYMNASIUM_ENVS} envs": lambda seconds: take_turn(
            lambda call: pool.step(actions[call % 16]), GYMNASIUM_ENVS, seconds
        )
    }


class EnvPool:
    """The driver process."""

    def __init__(self, python: str, task: str, threads: int) -> None:
        self.task, self.threads = task, threads
        self.process = subprocess.Popen(
            [python, str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, setting: tuple[str, int, int], seconds: float) -> Turn:
        """A turn in one setting."""
        version, num_envs, batch_size = setting
        asked = {"task": f"{self.task}-{version}", "num_envs": num_envs, "batch_size": batch_size}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked | {"threads": self.threads, "seconds": seconds}) + "\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"EnvPool's process ended with exit code {self.process.wait()}; its output is above")
        return Turn(**json.loads(answer))

    def best(self, seconds: float) -> dict[str, Run]:
        """The fastest of ENVPOOL_SETTINGS, by the median of three turns each."""
        rates: dict[tuple[str, int, int], list[float]] = {setting: [] for setting in ENVPOOL_SETTINGS}
        for _ in range(3):
            for setting, seen in rates.items():
                seen.append(self.run(setting, seconds).rate)
        setting = max(rates, key=lambda one: statistics.median(rates[one]))
        version, num_envs, batch_size = setting
        name = f"EnvPool {version}, {num_envs} envs, batch {batch_size}"
        return {name: lambda seconds: self.run(setting, seconds)}

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def interleave(contestants: dict[str, Run], rounds: int, seconds: float) -> dict[str, list[Turn]]:
    """The turns of each contestant, one a round."""
    order = random.Random(0)
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for run in contestants.values():
        run(min(seconds, 0.2))  # warm-up
    for _ in range(rounds):
        for name in order.sample(list(contestants), len(contestants)):
            turns[name].append(contestants[name](seconds))
    return turns


def summarize(turns: dict[str, list[Turn]]) -> list[dict[str, Any]]:
    """One row a contestant; ``ratio`` is ours over it."""

    def quartiles(values: list[float]) -> list[float]:
        return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3

    rows = []
    ours = [turn.rate for turn in turns["ours"]]
    for name, taken in turns.items():
        seen = [turn.rate for turn in taken]
        low, median, high = quartiles(seen)
        ratio_low, ratio, ratio_high = quartiles([a / b for a, b in zip(ours, seen, strict=True)])
        rows.append(
            {
                "name": name, "median": median, "quartiles": [low, high],
                "ratio": ratio, "ratio_quartiles": [ratio_low, ratio_high], "rounds": seen,
                "core_microseconds": 1e6 * sum(turn.core_seconds for turn in taken) / sum(turn.steps for turn in taken),
            }
        )  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """A table for a person."""
    width = max(len(row["name"]) for row in rows)
    print(
        f"{'':{width}}  {'env steps/s':>11}  {'quartiles':>19}"
        f"  {'ours / it':>9}  {'quartiles':>13}  {'core us/step':>12}"
    )
    for row in rows:
        low, high = row["quartiles"]
        ratio_low, ratio_high = row["ratio_quartiles"]
        print(
            f"{row['name']:{width}}  {row['median']:11,.0f}  {low:8,.0f} - {high:8,.0f}"
            f"  {row['ratio']:9.3f}  {ratio_low:5.3f} - {ratio_high:5.3f}  {row['core_microseconds']:12.1f}"
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", default="HalfCheetah")
    parser.add_argument("--envs", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each contestant in each round")
    parser.add_argument("--gymnasium", action="store_true", help="with gymnasium's SyncVectorEnv")
    parser.add_argument("--envpool-python", metavar="PATH", help="interpreter with envpool installed")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    contestants = ours_and_bare(given.task, given.envs, given.threads)
    if given.gymnasium:
        contestants |= gymnasium_sync(given.task)
    python = given.envpool_python or (sys.executable if importlib.util.find_spec("envpool") else None)
    pool = EnvPool(python, given.task, given.threads) if python else None
    try:
        if pool is not None:
            contestants |= pool.best(min(given.seconds, 0.3))
        rows = summarize(interleave(contestants, given.rounds, given.seconds))
    finally:
        if pool is not None:
            pool.close()
    if given.json:
        print(json.dumps({"task": given.task, "envs": given.envs, "threads": given.threads, "contestants": rows}))
    else:
        show(rows)


if __name__ == "__main__":
    main()

"""Env steps per second of a robot's task over its physics alone, in the states of a walking policy.

    python benchmarks/robot_throughput.py [CHECKPOINT] [--env Velocity-Go1] [--envs 512] [--threads 2] [--rounds 10]
        [--seconds 1.0] [--json]

A policy, that of the checkpoint or the steps on the spot that actions are offsets to, walks for two seconds. The second
that follows is recorded: the states that it begins with, the actions and the controls.

- plain, randomized: ``step`` from those states with those actions, without and with all randomization.
- bare: ``mujoco.batch.Batch.step`` alone on the plain one's model, substeps, threads, states and controls.
- bare, randomized: the same with the states, controls and models of the randomized one.

All take turns, in a new order each round, and ratios are taken within a round. At least 0.9 of bare is the aim, and 0.8
with all randomization.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from env_throughput import Run, Turn, interleave
from mujoco.batch import Batch

from unilab.envs import make
from unilab.envs.tasks.velocity.task import Velocity

WALKING, RECORDED = 100, 50
"""env steps"""
RANDOMIZED = {
    "friction": (0.4, 1.0), "trunk_mass": (-1.0, 1.0), "masses": (0.9, 1.1), "centre_of_mass": 0.05,
    "gains": (0.9, 1.1), "damping": (0.9, 1.1), "armature": (0.9, 1.1), "motor_strength": (0.8, 1.0),
    "push": 0.5, "latency": 1, "noise": 1.0,
}  # fmt: skip
RATIOS = (("plain", "bare"), ("randomized", "bare"), ("randomized", "bare, randomized"))


@dataclass(frozen=True)
class Walk:
    """A second of walking."""

    state: dict[str, Any]
    """of the task before it"""
    actions: list[np.ndarray]
    controls: list[np.ndarray]


def contestants(checkpoint: Path | None, env: str, num_envs: int, threads: int) -> dict[str, Run]:
    """The task and its physics, without and with randomization."""
    policy: Any = None
    cfg: dict[str, Any] = {}
    if checkpoint is not None:
        from unilab.algos.torch.policy import load_policy

        policy = load_policy(checkpoint)
        env, cfg = policy.config.env, policy.config.env_cfg
    found: dict[str, Run] = {}
    for name, randomize in (("plain", {}), ("randomized", RANDOMIZED)):
        task = make(env, num_envs, env_cfg_override={**cfg, "randomize": randomize}, seed=0, num_threads=threads)
        if not isinstance(task, Velocity):
            raise SystemExit(f"{env} is no robot that follows velocities")
        walk = record(task, policy)
        found |= {name: stepping(task, walk), "bare" if name == "plain" else f"bare, {name}": bare(task, walk)}
    return found


def record(task: Velocity, policy: Any) -> Walk:
    task.reset()
    task.stagger()
    ctrl, walk = task.batch.bind("ctrl"), Walk({}, [], [])
    for step in range(WALKING + RECORDED):
        if step == WALKING:
            walk = Walk(task.state_dict(), [], [])
        chosen = np.zeros((task.num_envs, task.action_dim), np.float32) if policy is None else policy(task.obs)
        task.step(chosen)
        walk.actions.append(chosen.copy())
        walk.controls.append(ctrl.copy())
    return walk


def timed(begin: Callable[[], object], step: Callable[[np.ndarray], object], steps: list[np.ndarray]) -> Run:
    """A turn: the walk again and again; going back to its begin takes no time."""

    def run(seconds: float) -> Turn:
        made, wall, cores = 0, 0.0, 0.0
        while wall < seconds:
            begin()
            since, core_since = time.perf_counter(), time.process_time()
            for one in steps:
                step(one)
            wall += time.perf_counter() - since
            cores += time.process_time() - core_since
            made += len(steps) * len(steps[0])
        return Turn(made, wall, cores)

    return run


def stepping(task: Velocity, walk: Walk) -> Run:
    return timed(lambda: task.load_state_dict(walk.state), task.step, walk.actions)


def bare(task: Velocity, walk: Walk) -> Run:
    batch = Batch(task.model, task.num_envs, task.num_threads, persistent=task.persistent)
    own = walk.state["own"]
    fields = [name for name in own if name.startswith("model.")]
    for name in fields:
        batch.expand(name.removeprefix("model."))[...] = own[name]
    if fields:
        batch.set_const()
    ctrl, substeps = batch.bind("ctrl"), task.settings.frame_skip

    def begin() -> None:
        batch.state[:] = own["physics"]

    def step(controlled: np.ndarray) -> None:
        ctrl[...] = controlled
        batch.step(nstep=substeps)

    return timed(begin, step, walk.controls)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="of the walking policy, or the folder with it")
    parser.add_argument("--env", default="Velocity-Go1", help="without a checkpoint")
    parser.add_argument("--envs", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contestant in each round")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    turns = interleave(contestants(given.checkpoint, given.env, given.envs, given.threads), given.rounds, given.seconds)
    rates = {name: [turn.rate for turn in taken] for name, taken in turns.items()}
    ratios = {
        f"{ours} / {theirs}": [a / b for a, b in zip(rates[ours], rates[theirs], strict=True)]
        for ours, theirs in RATIOS
    }
    if given.json:
        print(json.dumps({"envs": given.envs, "threads": given.threads, "rates": rates, "ratios": ratios}))
        return
    for name, values in (rates | ratios).items():
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        digits = 3 if name in ratios else 0
        middle = f"{statistics.median(values):10,.{digits}f}"
        print(f"{name:30}{middle}  (quartiles {low:,.{digits}f} to {high:,.{digits}f})")


if __name__ == "__main__":
    main()

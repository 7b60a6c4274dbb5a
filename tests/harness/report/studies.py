"""Studies as a run leaves them, made up: so many trials, repeats and curve points as a test wants."""

import json
import math
import random
from pathlib import Path
from typing import Any

from harness.measure.record import Record
from harness.predict.ceilings import Ceilings, Measured, Rehearsal
from harness.trainers.rounds import Cost, Part

SUITE = """\
name: {name}
trainer: appo
env: HalfCheetah
fixed: {{network.activation: relu}}
search:
  mode: [async, sync]
  num_envs: {{low: 64, high: 4096, log: true}}
  num_slots: [1, 2, 4]
  algorithm.learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}
  when_full: [wait, drop_oldest]
{searched}baseline: {{mode: async, num_envs: 256, num_slots: 2}}
objectives: {objectives}
constraints: {{host_memory_fraction: 0.8, policy_lag_mean: {{max: 8}}}}
measure: {{warmup_seconds: 3, seconds: 8}}
confirm: {{top: 2, repeats: 6}}
limits: {{trials: 200, minutes: 60}}
"""
MACHINE = {
    "name": "node7", "cpu": "AMD EPYC", "cores_physical": 8, "cores_logical": 16, "cores_usable": 16,
    "cpu_features": ["avx2", "fma"], "ram_total": 2**35, "ram_available": 2**34, "shm_total": 2**34,
    "shm_free": 2**34, "gpus": [{"name": "H200", "memory_total": 2**37}], "os": "Linux 6.1",
    "architecture": "x86_64", "python": "3.12.1", "versions": {"torch": "2.13.0"},
}  # fmt: skip
CEILINGS = Ceilings(
    "node7-3f9a2c", cores=16, seconds=21.0,
    measured=[
        Measured(Part("learner", "update", 256, {"learner_threads": 2}), Cost(0.005, 0.01)),
        Measured(Part("collector", "env_step", 256, {"env_threads": 2}), Cost(0.005, 0.005)),
    ],
    rehearsals=[Rehearsal({"num_envs": 256}, 80.0)],
)  # fmt: skip


def write_study(
    folder: Path,
    records: list[Record],
    *,
    name: str = "made_up",
    objectives: str = "[env_steps_per_second]",
    searched: str = "",
    curve_points: int = 0,
    manifest: bool = True,
    ceilings: Ceilings | None = None,
) -> Path:
    """A study's folder; each record gets a curve of so many readings in its log; ``searched`` are more lines of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.yaml").write_text(SUITE.format(name=name, objectives=objectives, searched=searched))
    (folder / "trials.jsonl").write_text("".join(json.dumps(record.flat()) + "\n" for record in records))
    (folder / "best.yaml").write_text("trainer: appo\nenv: HalfCheetah\nsettings: {num_envs: 1024}\n")
    if manifest:
        (folder / "manifest.json").write_text(json.dumps(manifest_of(folder, name)))
    if ceilings is not None:
        (folder / "ceilings.json").write_text(ceilings.text())
    for record in records if curve_points else ():
        log = folder / record.log
        log.mkdir(parents=True, exist_ok=True)
        (log / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve(record, curve_points)))
    return folder


def manifest_of(folder: Path, name: str) -> dict[str, Any]:
    run = {"command": f"python -m harness run suites/{name}.yaml", "started_at": "2026-11-20T10:00:00+00:00",
           "commit": "0123456789abcdef", "dirty": False}  # fmt: skip
    return {"study": folder.name, "suite": name, "commit": run["commit"], "dirty": False, "machine": MACHINE,
            "machine_name": "node7-3f9a2c", "python": "3.12.1", "versions": MACHINE["versions"],
            "dropped": ["learner_device: cuda"], "command": run["command"], "runs": [run]}  # fmt: skip


def curve(record: Record, points: int) -> list[dict[str, Any]]:
    """Returns that rise to the record's; the first readings have none yet, as no episode has finished."""
    end = record.episode_return if math.isfinite(record.episode_return) else 0.0
    rows = []
    for index in range(1, points + 1):
        part = index / points
        value = end * (1 - math.exp(-4 * part)) + 60 * math.sin(index / 7 + record.seed)
        seconds = 120 * part
        rows.append({"wall_seconds": seconds, "env_steps": seconds * record.env_steps_per_second,
                     "episode_return": None if part < 0.05 else value, "kl": 0.01, "iteration": index})  # fmt: skip
    return rows


def make_record(trial: int, repeat: int = 0, **changes: Any) -> Record:
    """A repeat that was measured to its end; throughput grows with the environments and the learning rate."""
    rng = random.Random(1000 * trial + repeat)
    place = random.Random(trial)
    params = {
        "mode": place.choice(["async", "sync"]), "num_envs": int(64 * 64 ** place.random()),
        "num_slots": place.choice([1, 2, 4]), "algorithm.learning_rate": 1e-4 * 100 ** place.random(),
        "when_full": place.choice(["wait", "drop_oldest"]),
    } if trial else {"mode": "async", "num_envs": 256, "num_slots": 2, "algorithm.learning_rate": 1e-3,
                     "when_full": "wait"}  # fmt: skip
    speed = 6000 + 2500 * math.log2(params["num_envs"] / 64) + (2000 if params["mode"] == "async" else 0)
    speed *= 1 + rng.uniform(-0.03, 0.03)
    busy = 0.4 + 0.5 * place.random()
    budget = 400 * 2**20 + 2**17 * params["num_envs"]
    fields: dict[str, Any] = {
        "study": "made", "trial": trial, "repeat": repeat, "state": "complete", "baseline": trial == 0,
        "params": params,
        "seed": repeat, "env_steps_per_second": speed, "updates_per_second": speed / 300,
        "episode_return": 1500 + 900 * place.random() + 200 * rng.random(), "episodes": 40,
        "policy_lag_mean": params["num_slots"] * 0.8, "collector_busy_fraction": busy,
        "learner_busy_fraction": 1.25 - busy, "learner_wait_fraction": max(0.0, busy - 0.3),
        "collector_wait_fraction": 0.95 - busy, "budget_host_bytes": budget,
        "budget_shm_bytes": 2**25, "peak_host_bytes": int(budget * rng.uniform(0.97, 1.06)),
        "peak_shm_bytes": 2**25, "wall_seconds": 14.0, "steady_seconds": 8.0, "env_steps": 100_000,
        "started_at": "2026-11-20T10:00:00+00:00", "commit": "0123456789abcdef", "machine": "node7-3f9a2c",
        "log": f"logs/{trial}-{repeat}", "half_ratio": 1.01, "other_cpu_fraction": 0.02, "load_average": 1.5,
        "throttled_seconds": 0.0, "predicted_env_steps_per_second": speed * place.uniform(0.85, 1.15),
        "async_efficiency": place.uniform(0.5, 0.95),
        "verdict": f"learner-bound: {1.25 - busy:.0%} busy; try fewer epochs or more learner threads",
        "budget_items": {"interpreters": 300 * 2**20, "ring": 2**25, "networks": 2**22,
                         "environments": 2**17 * params["num_envs"]},
        "threads": "env 8, inference 2, learner 6", "suite_hash": "abc",
    }  # fmt: skip
    return Record(**fields | changes)


def two_hundred_trials(folder: Path, curve_points: int = 200) -> Path:
    """A long search: some trials did not fit, failed, timed out; some were unsteady; the best were confirmed."""
    records = []
    for trial in range(200):
        if trial % 17 == 9:
            reason = "does not fit:\n  ring  12.0 GiB\n  limit  8.0 GiB; use fewer num_envs"
            records.append(make_record(trial, state="infeasible", error=reason, env_steps_per_second=math.nan,
                                       episode_return=math.nan, peak_host_bytes=0, log=""))  # fmt: skip
        elif trial % 41 == 7:
            records.append(make_record(trial, state="failed", error="ValueError: NaN in the reward of environment 3",
                                       env_steps_per_second=math.nan, episode_return=math.nan))  # fmt: skip
        else:
            half = 0.9 if trial % 29 == 3 else 1.01
            noise = "another process took 35 % of the cores" if trial % 53 == 11 else ""
            records.append(make_record(trial, half_ratio=half, unsteady=half < 0.95, disturbed=noise))
    measured = [record for record in records if record.state == "complete" and record.policy_lag_mean < 8]
    best = max(measured, key=lambda record: record.env_steps_per_second).trial
    for repeat in range(1, 7):
        records += [make_record(trial, repeat, phase="confirm") for trial in (0, best)]
    return write_study(folder, records, curve_points=curve_points, ceilings=CEILINGS)

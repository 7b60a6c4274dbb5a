"""Contestants take turns and their failures are told; how fast they are is not a test's business."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import contest
import pytest
from contest import Contestant, ContestError, Window, compare, fastest, measure, print_table
from steady_window import SteadyWindow

from unilab.settings import nest

ROOT = Path(__file__).parents[2]
WINDOW = Window(0.0, 0.0)
DRIVER = """
import json, sys
job = json.loads(sys.argv[1])
with open(job["log"], "a") as log:
    print(job["name"], file=log)
print("noise")
print("steady window:", json.dumps({"updates": 8, "updates_per_second": job["rate"], "env_steps_per_second": 5.0}))
"""


@pytest.fixture(autouse=True)
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(contest, "DRIVERS", tmp_path)
    (tmp_path / "driver.py").write_text(DRIVER)
    return tmp_path


def contestant(folder: Path, name: str, rate: float) -> Contestant:
    return Contestant(name, "driver.py", sys.executable, {"name": name, "rate": rate, "log": str(folder / "log")})


def test_turns_change_their_order_and_ratios_are_of_a_round(drivers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare([contestant(drivers, "a", 6.0), contestant(drivers, "b", 4.0)], "updates", 2, WINDOW)
    assert (drivers / "log").read_text().split() == ["a", "b", "b", "a"]
    assert comparison["ratios"] == {"ours / b": [1.5, 1.5]}
    assert comparison["rates"]["a"] == {"updates": [6.0, 6.0], "env_steps": [5.0, 5.0]}
    print_table("a title", comparison)
    out = capsys.readouterr().out
    assert "a title" in out and "6.0 to 6.0; 5 env steps/s" in out and "1.50 to 1.50, round by round" in out


def test_the_drivers_that_benchmarks_name_are_there() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    named = set(re.findall(r'"(\w+_driver\.py)"', sources))
    assert "trainer_driver.py" in named
    assert named <= {path.name for path in (ROOT / "benchmarks" / "drivers").iterdir()}


def test_the_fastest_is_chosen_and_a_single_one_is_not_measured(drivers: Path) -> None:
    slow, fast = contestant(drivers, "slow", 1.0), contestant(drivers, "fast", 2.0)
    assert fastest([slow], "updates", WINDOW) is slow
    assert not (drivers / "log").exists()
    assert fastest([slow, fast], "updates", WINDOW) is fast


def test_failures_are_told(drivers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (drivers / "fails.py").write_text("raise ValueError('the reason')")
    with pytest.raises(ContestError, match=r"x failed with exit code 1:(?s:.*)ValueError: the reason"):
        measure(Contestant("x", "fails.py", sys.executable, {}), WINDOW)
    (drivers / "silent.py").write_text("print('done')")
    with pytest.raises(ContestError, match="x ended without a result"):
        measure(Contestant("x", "silent.py", sys.executable, {}), WINDOW)
    with pytest.raises(ContestError, match=r"x did not start: .*no_such_python"):
        measure(Contestant("x", "silent.py", str(drivers / "no_such_python"), {}), WINDOW)


def test_one_that_hangs_is_ended_with_its_children(drivers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (drivers / "hangs.py").write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(drivers / 'pid')!r}, 'w').write(str(child.pid))\n"
        "print('so far', flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(contest, "STARTUP_SECONDS", 10.0)
    with pytest.raises(ContestError, match=r"did not end in time; its output ends:\nso far"):
        measure(Contestant("x", "hangs.py", sys.executable, {}), WINDOW)
    state = subprocess.run(["ps", "-o", "stat=", "-p", (drivers / "pid").read_text()], capture_output=True, text=True)
    assert state.stdout.strip()[:1] in ("", "Z")  # more letters follow, such as that of a niceness


def test_steady_window_counts_after_the_warm_up(capsys: pytest.CaptureFixture[str]) -> None:
    window = SteadyWindow(0.0, 0.0)
    assert not window.report(updates=3, env_steps=10)
    assert window.report(updates=5, env_steps=30)
    window.print_result()
    told = json.loads(capsys.readouterr().out.removeprefix("steady window: "))
    assert (told["updates"], told["env_steps"]) == (2, 20)
    assert told["updates_per_second"] == pytest.approx(2 / told["seconds"])
    with pytest.raises(RuntimeError, match="train for longer"):
        SteadyWindow(0.0, 0.0).print_result()


def test_settings_on_the_command_line() -> None:
    given = contest.settings(
        ["num_envs=8", "pipeline=prefetch", 'env_cfg={"max_episode_steps": 20}', "network.layer_norm=true"]
    )
    assert nest(given) == {
        "num_envs": 8,
        "pipeline": "prefetch",
        "env_cfg": {"max_episode_steps": 20},
        "network": {"layer_norm": True},
    }


def run_script(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / "offpolicy_vs_others.py"), *arguments]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_update_beside_plain_pytorch() -> None:
    options = ["--rounds", "1", "--warmup-seconds", "0", "--seconds", "0.2", "--batch-size", "32", "--json"]
    told = json.loads(run_script("update", "--algorithms", "td3", "--plain-threads", "1", *options))
    assert list(told["td3"]["rates"]) == ["unilab-harness", "plain PyTorch, 1 thread"]
    assert told["td3"]["ratios"]["ours / plain PyTorch, 1 thread"][0] > 0

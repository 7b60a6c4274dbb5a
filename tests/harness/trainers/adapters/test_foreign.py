"""A trainer in a process of another package: progress, limits, stop, failures, death on either side."""

import signal
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.trainers.adapters import foreign
from harness.trainers.adapters.foreign import ForeignTrainerError
from tests.harness.trainers.adapters.fake_driver import FakeForeign
from unilab.run.progress import Progress, Summary
from unilab.settings import SettingsError

ROOT = Path(__file__).resolve().parents[4]


def train(log_dir: Path, iterations: int = 10**6, **settings: Any) -> tuple[Summary, list[Progress]]:
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> bool:
        seen.append(progress)
        return len(seen) < 5

    trainer = FakeForeign()
    return trainer.run(settings, on_progress, log_dir=log_dir, max_iterations=iterations), seen


def driver(log_dir: Path) -> tuple[int, str]:
    pid, executable = (log_dir / "started").read_text().split()
    return int(pid), executable


def test_progress_comes_until_no_more_is_wanted_and_the_driver_saves(tmp_path) -> None:
    summary, seen = train(tmp_path, speed=7)
    assert summary.stopped_by == "callback" and summary.progress is seen[-1]
    assert [p.env_steps for p in seen] == [7 * p.iteration for p in seen]
    assert seen[1].wall_seconds > seen[0].wall_seconds > 0
    assert seen[0].metrics == {"loss": 0.5}
    assert str(seen[0].learner_busy_seconds) == str(seen[0].policy_lag_mean) == "nan", "unknown, not 0"
    assert (tmp_path / "saved").exists() and not psutil.pid_exists(driver(tmp_path)[0])
    assert "noise on standard output" in (tmp_path / "driver.log").read_text()


def test_limits(tmp_path) -> None:
    summary, _ = train(tmp_path, iterations=2)
    assert summary.stopped_by == "iterations" and summary.progress.iteration == 2
    summary = FakeForeign().run({}, lambda _: True, log_dir=tmp_path, max_iterations=10**6, max_seconds=0.2)
    assert summary.stopped_by == "seconds" and summary.progress.wall_seconds >= 0.2


@pytest.mark.parametrize(
    ("behaviour", "words", "note"),
    [
        ("raise", "FloatingPointError: the loss is nan; log: ", 'in misbehave\n    raise FloatingPointError("the loss'),
        ("die", " was killed by SIGKILL; log: ", "noise on standard output"),
        ("exit", " ended with exit code 3; log: ", "last words"),
        ("finish", "json ended training although nobody asked it to", None),
    ],
)
def test_failures_are_told(tmp_path, behaviour, words, note) -> None:
    with pytest.raises(ForeignTrainerError) as caught:
        FakeForeign().run(
            {"behaviour": behaviour}, lambda _: True, log_dir=tmp_path, max_iterations=10**6, max_seconds=60
        )
    assert words in str(caught.value)
    assert note is None or note in caught.value.__notes__[0]
    assert not psutil.pid_exists(driver(tmp_path)[0])


def test_one_that_holds_the_gil_is_killed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "KILL_SECONDS", 0.3)
    with pytest.warns(RuntimeWarning, match="may have left no model: asked to stop, its process was killed by SIGK"):
        summary, _ = train(tmp_path, iterations=2, behaviour="hold_gil")
    assert summary.stopped_by == "iterations"
    assert not psutil.pid_exists(driver(tmp_path)[0])


class DeadAtOnce(subprocess.Popen):  # type: ignore[type-arg]
    """Has ended before anything is written to it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wait()


def test_one_that_dies_before_it_reads_its_job_is_told(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", DeadAtOnce)
    with pytest.raises(ForeignTrainerError, match=" ended with exit code 1; log: "):
        FakeForeign().run({"python": "/bin/false"}, lambda _: True, log_dir=tmp_path, max_iterations=1)


PARENT = """
import sys
from pathlib import Path
from tests.harness.trainers.adapters.fake_driver import FakeForeign
FakeForeign().run({"behaviour": sys.argv[2]}, lambda p: print(p.iteration, flush=True) or True,
                  log_dir=Path(sys.argv[1]), max_iterations=10**6)
"""


@pytest.mark.parametrize("behaviour", ["good", "deaf"])
def test_it_does_not_outlive_a_killed_parent(tmp_path, behaviour) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), behaviour]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None and [next(parent.stdout) for _ in range(3)] == ["0\n", "1\n", "2\n"]
        process = psutil.Process(driver(tmp_path)[0])
        parent.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
    assert (tmp_path / "saved").exists() == (behaviour == "good")


def test_another_interpreter(tmp_path) -> None:
    venv.create(tmp_path / "other", symlinks=True)
    python = str(tmp_path / "other" / "bin" / "python")
    train(tmp_path, python=python)
    assert driver(tmp_path)[1] == python


def test_what_is_missing_is_said_before_anything_starts(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"python: this interpreter has no no_such_package: pip install -e '.\["):
        FakeForeign("no_such_package").check_together({})
    FakeForeign("no_such_package").check_together({"python": sys.executable})
    with pytest.raises(SettingsError, match="python: there is no program no/such/python"):
        FakeForeign().check_together({"python": "no/such/python"})
    with pytest.raises(SettingsError, match=r"sped: unknown setting; did you mean 'speed'\?"):
        FakeForeign().check({"sped": 1})
    with pytest.raises(SettingsError, match="leave --resume out"):
        FakeForeign().run({}, lambda _: True, log_dir=tmp_path, max_iterations=1, resume=tmp_path)
    assert list(tmp_path.iterdir()) == []

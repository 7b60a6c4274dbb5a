"""A trainer of another package: progress, limits, stop, failures, and the interpreter that it runs in."""

import os
import signal
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.measure.engines.local import execute
from harness.measure.process import RepeatLimits
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from harness.trainers.adapters.foreign import ForeignTrainerError
from tests.algos.appo.counting_env import CountingEnv
from tests.harness.trainers.adapters.fake_driver import FakeForeign
from unilab.run.progress import Progress, Summary
from unilab.settings import SettingsError


def train(log_dir: Path, iterations: int = 10**6, **settings: Any) -> tuple[Summary, list[Progress]]:
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> bool:
        seen.append(progress)
        return len(seen) < 5

    return FakeForeign().run(settings, on_progress, log_dir=log_dir, max_iterations=iterations), seen


def test_progress_comes_until_no_more_is_wanted_and_the_driver_saves(tmp_path) -> None:
    summary, seen = train(tmp_path, speed=7)
    assert summary.stopped_by == "callback" and summary.progress is seen[-1]
    assert [p.env_steps for p in seen] == [7 * p.iteration for p in seen]
    assert seen[1].wall_seconds > seen[0].wall_seconds > 0
    assert seen[0].metrics == {"loss": 0.5}
    assert str(seen[0].learner_busy_seconds) == str(seen[0].policy_lag_mean) == "nan", "unknown, not 0"
    assert (tmp_path / "model.zip").exists()


class Judging(CountingEnv):
    """Says which action a policy takes in its first state."""

    def judge(self, policy, episodes, seed):
        return {"success": False, "action": float(policy(np.zeros((1, 1), np.float32))[0, 0]), "episodes": episodes}


def test_policies_are_kept_as_they_were_and_judged_afterwards(tmp_path) -> None:
    trainer, settings = FakeForeign(), {"env": f"{__name__}:Judging"}
    trainer.run(settings, lambda _: True, log_dir=tmp_path, max_iterations=8, keep_seconds=0.06)
    judgements = [play(3) for play in trainer.kept(settings, tmp_path)]
    seconds, actions = zip(*[(seconds, said["action"]) for seconds, said in judgements], strict=True)
    assert len(judgements) > 2 and list(seconds) == sorted(seconds) and seconds[1] - seconds[0] >= 0.06
    assert list(actions) == sorted(set(actions)), "each as it was then"
    assert judgements[0][1]["episodes"] == 3
    trainer.run(settings, lambda _: True, log_dir=tmp_path, max_iterations=8)
    assert len(trainer.kept(settings, tmp_path)) == 1, "the last one"


def test_limits(tmp_path) -> None:
    summary, _ = train(tmp_path, iterations=2)
    assert summary.stopped_by == "iterations" and summary.progress.iteration == 2
    summary = FakeForeign().run({}, lambda _: True, log_dir=tmp_path, max_iterations=10**6, max_seconds=0.2)
    assert summary.stopped_by == "seconds" and summary.progress.wall_seconds >= 0.2


def test_after_a_signal_the_driver_saves(tmp_path) -> None:
    def interrupt(progress: Progress) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return True

    summary = FakeForeign().run({}, interrupt, log_dir=tmp_path, max_iterations=10**6)
    assert summary.stopped_by == "SIGINT" and (tmp_path / "model.zip").exists()


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        ("raise", FloatingPointError, "the loss is nan"),
        ("finish", ForeignTrainerError, "json ended training although nobody asked it to"),
    ],
)
def test_failures_are_told(tmp_path, behaviour: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        FakeForeign().run({"behaviour": behaviour}, lambda _: True, log_dir=tmp_path, max_iterations=10**6)


def test_another_interpreter(tmp_path) -> None:
    venv.create(tmp_path / "other", symlinks=True)
    python = str(tmp_path / "other" / "bin" / "python")
    fake = "tests.harness.trainers.adapters.fake_driver:FakeForeign"
    spec = TrialSpec(fake, {"python": python}, 0.1, 0.2, str(tmp_path), -1)
    with StopSignal() as stop:
        outcome = execute(spec, RepeatLimits(60, 60), stop)
    assert outcome.state == "complete", outcome.error
    assert (tmp_path / "started").read_text() == python and (tmp_path / "model.zip").exists()
    with pytest.raises(SettingsError, match="python: the process has to be that interpreter's"):
        train(tmp_path, python=python)


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

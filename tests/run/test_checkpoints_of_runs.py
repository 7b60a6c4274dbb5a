"""Which checkpoints a run leaves, and when it writes them."""

import csv
import math
import os
import signal
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.algos.appo import test_runner as appo
from tests.algos.appo.counting_env import CountingEnv
from unilab.run.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from unilab.settings import SettingsError

FALLING = {"env": "tests.run.test_checkpoints_of_runs:Falling"}


def learn(iterations, folder, **changes):
    return appo.learn(iterations, folder, **{"mode": "sync", **appo.COUNTING, **changes})


def iteration(path):
    return load_checkpoint(path)["progress"]["iteration"]


def saves(folder, iterations, **options):
    """After which iterations a new checkpoint was there; the one at the end is not counted."""
    seen, inode = [], None

    def look(progress):
        nonlocal inode
        path = folder / "checkpoint.pt"
        if path.exists() and path.stat().st_ino != inode:
            seen.append(progress.iteration)
            inode = path.stat().st_ino
        return True

    learn(iterations, folder, on_iteration=look, **options)
    return seen


def test_the_default_interval_is_thinned_to_one_checkpoint_every_save_seconds(tmp_path):
    assert saves(tmp_path, 151) == [50]
    assert iteration(tmp_path / "checkpoint.pt") == 151


def test_another_interval_is_kept_to(tmp_path):
    assert saves(tmp_path, 7, save_interval=2) == [2, 4, 6]


def test_slow_iterations_are_saved_by_time(tmp_path):
    assert saves(tmp_path, 3, save_interval=1000, save_seconds=0)[0] == 1


def test_interval_zero_means_none_before_the_end(tmp_path):
    assert saves(tmp_path, 3, save_interval=0, save_seconds=0) == []
    assert iteration(tmp_path / "checkpoint.pt") == 3
    with pytest.raises(SettingsError, match="save_interval: expected iterations between checkpoints, or 0"):
        learn(1, tmp_path, save_interval=-1)


def test_the_newest_are_kept_when_asked_for(tmp_path):
    learn(5, tmp_path, save_interval=1, keep_checkpoints=2)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "checkpoint-4.pt",
        "checkpoint-5.pt",
        "checkpoint.pt",
    ]
    assert [iteration(tmp_path / f"checkpoint-{n}.pt") for n in (4, 5)] == [4, 5]


class Falling(CountingEnv):
    """Whatever the policy does, returns fall with time."""

    def step(self, actions):
        result = super().step(actions)
        return result._replace(reward=result.reward - 0.1 * self.steps)


def test_the_best_by_return_is_kept_beside_the_newest(tmp_path):
    summary = learn(12, tmp_path, save_interval=1, **FALLING)
    first = iteration(tmp_path / "best.pt")
    assert first < 12 == iteration(tmp_path / "checkpoint.pt")
    assert load_checkpoint(tmp_path / "best.pt")["progress"]["episodes"] >= 100, "fewer episodes are luck"
    assert summary.best_checkpoint == tmp_path / "best.pt"
    resumed = learn(14, tmp_path, save_interval=1, resume=summary.checkpoint, **FALLING)
    assert iteration(tmp_path / "best.pt") == first, "the return went on falling"
    assert resumed.best_checkpoint == summary.best_checkpoint


class Changing(CountingEnv):
    """Each instance, and each evaluation makes one, pays ``by`` more than the one before."""

    made = 0

    def __init__(self, num_envs, *, by=0.0, **options):
        super().__init__(num_envs, **options)
        type(self).made += 1
        self.factor = 10 + by * self.made

    def step(self, actions):
        result = super().step(actions)
        return result._replace(reward=result.reward * self.factor)


@pytest.mark.parametrize(("by", "best"), [(0.01, 9), (-0.01, 3)])
def test_the_best_by_evaluation_is_kept_and_a_late_collapse_loses_nothing(by, best, tmp_path):
    returns = {}

    def note(progress):
        returns[progress.iteration] = progress.eval_return
        return True

    env = {"env": "tests.run.test_checkpoints_of_runs:Changing", "env_cfg": {"by": by}}
    learn(10, tmp_path, on_iteration=note, eval_interval=3, eval_episodes=4, save_seconds=1000, **env)
    assert math.isnan(returns[2])
    assert 33 < returns[3] == returns[5] < 37, "episodes of 4 and 3 steps"
    assert (returns[9] > returns[6] > returns[3]) if by > 0 else (returns[9] < returns[6] < returns[3])
    saved = load_checkpoint(tmp_path / "best.pt")
    assert saved["progress"]["iteration"] == best and saved["progress"]["eval_return"] == returns[best]
    assert iteration(tmp_path / "checkpoint.pt") == 10


class Watched(CountingEnv):
    """Of its instances the third makes the first evaluation: what each does is told by ``in_evaluation``."""

    made = 0
    in_evaluation: ClassVar[dict[int, Callable[[], float]]] = {}

    def __init__(self, num_envs, **options):
        super().__init__(num_envs, **options)
        type(self).made += 1
        self.factor = self.in_evaluation.get(self.made - 2, lambda: 1.0)

    def step(self, actions):
        result = super().step(actions)
        return result._replace(reward=result.reward * self.factor())


WATCHED = {"env": "tests.run.test_checkpoints_of_runs:Watched", "eval_interval": 1, "eval_episodes": 2}


def test_an_evaluation_that_gives_no_number_is_not_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(Watched, "made", 0)
    factors = {1: lambda: math.nan, 2: lambda: 2.0, 3: lambda: 1.0}
    monkeypatch.setattr(Watched, "in_evaluation", factors)
    learn(3, tmp_path, **WATCHED)
    assert iteration(tmp_path / "best.pt") == 2


def test_metrics_of_an_iteration_whose_evaluation_a_signal_ended_are_written(tmp_path, monkeypatch):
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        return 1.0

    monkeypatch.setattr(Watched, "made", 0)
    monkeypatch.setattr(Watched, "in_evaluation", {2: interrupt})
    summary = learn(5, tmp_path, logger_type="csv", **WATCHED)
    assert (summary.stopped_by, summary.progress.iteration) == ("SIGINT", 2)
    with (tmp_path / "curve.csv").open() as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["1", "2"]


def test_a_signal_after_the_last_iteration_is_told(tmp_path):
    def interrupt(progress):
        if progress.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return True

    summary = learn(2, tmp_path, on_iteration=interrupt)
    assert (summary.stopped_by, iteration(summary.checkpoint)) == ("SIGINT", 2)


class Measured(CountingEnv):
    """Its own numbers are of NumPy's and Python's other types."""

    def metrics(self):
        return {"share": np.float32(0.5), "count": np.int64(3), "whole": 4, "flag": True}


def test_an_environment_may_report_any_kind_of_number(tmp_path):
    summary = learn(1, tmp_path, logger_type="csv", env="tests.run.test_checkpoints_of_runs:Measured")
    expected = {"share": 0.5, "count": 3.0, "whole": 4.0, "flag": 1.0}
    assert expected.items() <= load_checkpoint(summary.checkpoint)["progress"]["metrics"].items()
    with (tmp_path / "curve.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {name: float(row[name]) for name in expected} == expected


def test_states_of_faults_are_of_this_run(tmp_path):
    (tmp_path / "faults.jsonl").write_text("of an earlier run\n")
    learn(1, tmp_path)
    assert not (tmp_path / "faults.jsonl").exists()


def test_evaluating_does_not_change_what_is_learned(tmp_path):
    plain = learn(4, tmp_path / "plain").checkpoint
    evaluated = learn(4, tmp_path / "evaluated", eval_interval=1, eval_episodes=3).checkpoint
    one, other = (load_checkpoint(path)["learner"]["actor"] for path in (plain, evaluated))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_new_run_replaces_the_checkpoints_of_an_earlier_one_with_its_first(tmp_path):
    learn(12, tmp_path, save_interval=1, keep_checkpoints=3, **FALLING)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    assert len(before) == 5
    assert learn(0, tmp_path).checkpoint is None
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == before
    learn(1, tmp_path)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["checkpoint.pt"]
    assert iteration(tmp_path / "checkpoint.pt") == 1


def test_what_learned_nothing_since_it_was_resumed_is_not_saved_over_anything(tmp_path):
    old = learn(3, tmp_path / "old").checkpoint
    other = learn(2, tmp_path / "other").checkpoint
    learn(3, tmp_path / "other", resume=old)
    assert iteration(other) == 2
    learn(3, tmp_path / "new", resume=old)
    assert iteration(tmp_path / "new" / "checkpoint.pt") == 3


@pytest.mark.parametrize("part", ["trainer", "progress", "learner", "collection", "learner.optimizer"])
def test_a_checkpoint_of_an_older_layout_says_so(part, tmp_path):
    path = learn(1, tmp_path / "old").checkpoint
    content = load_checkpoint(path)
    *outer, last = part.split(".")
    del (content[outer[0]] if outer else content)[last]
    save_checkpoint(path, content)
    with pytest.raises(CheckpointError, match=f"'{last}'.*older version"):
        learn(2, tmp_path / "new", resume=path)

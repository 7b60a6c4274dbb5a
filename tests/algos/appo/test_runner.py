"""The runner: both modes, resume, stopping and failing."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.algos.appo.counting_env import Remembering
from unilab import load_policy
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.runner import APPORunner
from unilab.algos.torch.evaluate import evaluate
from unilab.envs import EnvironmentMistake
from unilab.ipc import CollectorError
from unilab.machine.devices import COLLECTOR_NICENESS, DeviceError
from unilab.run.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from unilab.settings import SettingsError, parse

SMALL = {
    "num_envs": 8,
    "steps_per_env": 8,
    "network": {"actor": [8], "critic": [8]},
    "algorithm": {"num_learning_epochs": 2, "num_mini_batches": 2, "schedule": "adaptive"},
    "env_threads": 1,
    "learner_threads": 1,
}
CARTPOLE = {
    "mode": "sync", "env": "CartPole-v1", "num_envs": 8, "steps_per_env": 32, "stagger_episodes": False,
    "network": {"actor": [64], "critic": [64]}, "eval_interval": 150,
    "algorithm": {"gamma": 0.98, "lam": 0.8, "entropy_coef": 0.0, "learning_rate": 2e-3,
                  "use_clipped_value_loss": False},
}  # fmt: skip
COUNTING = {"env": "tests.algos.appo.counting_env:CountingEnv"}


def config(**changes):
    return parse(APPOConfig, {**SMALL, **changes})


def learn(iterations=3, log_dir=None, **changes):
    names = ("resume", "on_iteration", "save_interval", "max_seconds", "logger_type")
    options = {name: changes.pop(name) for name in names if name in changes}
    runner = APPORunner.from_config(config(**changes))
    return runner.learn(iterations, log_dir=log_dir, **options)


def weights(path):
    saved = load_checkpoint(path)["learner"]
    return torch.cat([saved[network][name].flatten() for network in ("actor", "critic") for name in saved[network]])


@pytest.mark.parametrize(("mode", "env"), [("sync", "HalfCheetah"), ("async", "Hopper")])
def test_trains_and_counts(mode, env, tmp_path):
    seen = []
    summary = learn(4, tmp_path, mode=mode, env=env, on_iteration=lambda p: seen.append(p) or True)
    assert summary.stopped_by == "iterations"
    assert [p.iteration for p in seen] == [1, 2, 3, 4]
    last = summary.progress
    assert last.env_steps == 4 * 64
    assert last.updates == 4 * 2 * 2
    assert last.collected_env_steps >= last.env_steps
    assert 0 < last.learner_busy_seconds <= last.wall_seconds
    assert last.collector_busy_seconds > 0
    assert all(earlier.wall_seconds < later.wall_seconds for earlier, later in itertools.pairwise(seen))
    if mode == "sync":
        assert last.policy_lag_mean == 0
        assert last.collected_env_steps == last.env_steps
    else:
        # with one slot, a rollout begins once the one before is read: at most an iteration before it is learned from
        assert all(0 <= progress.policy_lag <= 1 for progress in seen)
    assert torch.isfinite(weights(tmp_path / "checkpoint.pt")).all()


@pytest.mark.parametrize("when_full", ["wait", "drop_oldest"])
def test_full_ring(when_full):
    summary = learn(5, mode="async", when_full=when_full, num_slots=1, **COUNTING)
    progress = summary.progress
    assert progress.env_steps == 5 * 64
    if when_full == "wait":
        assert progress.dropped_rollouts == 0


def test_synchronous_mode_is_repeatable_bit_for_bit(tmp_path):
    for name in ("first", "second"):
        learn(3, tmp_path / name, mode="sync", env="Hopper", learner_threads=2)
    first, second = weights(tmp_path / "first/checkpoint.pt"), weights(tmp_path / "second/checkpoint.pt")
    assert torch.equal(first, second)
    learn(3, tmp_path / "other", mode="sync", env="Hopper", learner_threads=2, seed=1)
    assert not torch.equal(first, weights(tmp_path / "other/checkpoint.pt"))


def test_synchronous_resume_is_exact(tmp_path):
    straight = learn(5, tmp_path / "straight", mode="sync", env="Hopper")
    learn(2, tmp_path / "stopped", mode="sync", env="Hopper")
    resumed = learn(5, tmp_path / "resumed", mode="sync", env="Hopper", resume=tmp_path / "stopped/checkpoint.pt")
    assert torch.equal(weights(tmp_path / "straight/checkpoint.pt"), weights(tmp_path / "resumed/checkpoint.pt"))
    for name in ("iteration", "updates", "env_steps", "collected_env_steps", "episodes", "policy_lag_mean"):
        assert getattr(straight.progress, name) == getattr(resumed.progress, name), name
    assert straight.progress.metrics == resumed.progress.metrics


def test_a_runner_can_learn_again_and_asynchronous_resume_goes_on_counting(tmp_path):
    runner = APPORunner.from_config(config(mode="async", env=f"{Remembering.__module__}:Remembering"))
    assert runner.learn(3, log_dir=tmp_path).progress.metrics["steps_before"] == 0
    before = load_checkpoint(tmp_path / "checkpoint.pt")
    summary = runner.learn(5, log_dir=tmp_path / "resumed", resume=tmp_path / "checkpoint.pt")
    after = load_checkpoint(tmp_path / "resumed/checkpoint.pt")
    assert summary.progress.iteration == 5
    assert summary.progress.env_steps == 5 * 64
    assert summary.progress.updates == 5 * 4
    assert summary.progress.collected_env_steps > before["progress"]["collected_env_steps"]
    assert summary.progress.wall_seconds > before["progress"]["wall_seconds"]
    count = "normalizer.count"
    assert after["learner"]["actor"][count] == before["learner"]["actor"][count] + 2 * 64
    collected = before["progress"]["collected_env_steps"]
    assert summary.progress.metrics["steps_before"] == collected / 8, "a curriculum goes on"


def test_a_failing_collector_raises_its_own_traceback(tmp_path):
    with pytest.raises(CollectorError, match="planned failure at step 20") as raised:
        learn(1000, tmp_path, mode="async", env_cfg={"fail_at": 20}, save_interval=1, **COUNTING)
    assert "counting_env.py" in str(raised.value)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["iteration"] >= 1


def test_a_killed_collector_is_noticed_and_never_reported_as_completed(tmp_path):
    def kill(progress):
        if progress.iteration == 2:
            import multiprocessing

            os.kill(next(p.pid for p in multiprocessing.active_children() if p.name == "collector"), signal.SIGKILL)
        return True

    with pytest.raises(CollectorError, match="SIGKILL"):
        learn(100000, tmp_path, mode="async", on_iteration=kill, save_interval=1, **COUNTING)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["iteration"] >= 2


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_signal_ends_training_with_a_checkpoint(mode, tmp_path):
    def interrupt(progress):
        if progress.iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return True

    summary = learn(100000, tmp_path, mode=mode, on_iteration=interrupt, **COUNTING)
    assert summary.stopped_by == "SIGTERM"
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["iteration"] == summary.progress.iteration


def test_on_iteration_and_time_can_stop():
    assert learn(1000, mode="sync", on_iteration=lambda p: p.iteration < 3, **COUNTING).progress.iteration == 3
    assert learn(10**6, mode="sync", max_seconds=0.2, **COUNTING).stopped_by == "seconds"


def test_a_run_that_ends_within_a_rollout_does_not_wait_for_all_of_it(caplog):
    assert learn(1, mode="async", env="tests.algos.appo.counting_env:Tiring").stopped_by == "iterations"
    assert "did not stop in time" not in caplog.text


def test_privileged_observations_reach_the_critic(tmp_path):
    learn(2, tmp_path, mode="async", env_cfg={"critic_dim": 3}, **COUNTING)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")["learner"]
    assert saved["critic"]["normalizer.mean"].shape == (3,)
    assert saved["actor"]["normalizer.mean"].shape == (1,)


def test_tensorboard_has_the_metrics(tmp_path):
    learn(3, tmp_path, mode="sync", **COUNTING)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"episode_return", "policy_lag", "learner_busy_seconds", "kl", "learning_rate"} <= set(
        events.Tags()["scalars"]
    )
    assert [point.step for point in events.Scalars("iteration")] == [64, 128, 192]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_simulation_faults_are_kept_with_their_state(mode, tmp_path):
    summary = learn(4, tmp_path, mode=mode, env_cfg={"explode_at": 3}, **COUNTING)
    assert summary.progress.metrics["simulation_faults"] == 1
    lines = (tmp_path / "faults.jsonl").read_text().splitlines()
    assert [json.loads(line)["state"] for line in lines] == [[0.0, 1.0, 2.0]]


def test_a_non_finite_update_keeps_its_rollout(tmp_path):
    with pytest.raises(FloatingPointError, match="not finite") as raised:
        learn(50, tmp_path, mode="sync", env_cfg={"reward": float("nan"), "bad_from": 20}, save_interval=1, **COUNTING)
    assert "failed_update.pt" in "".join(raised.value.__notes__)
    assert torch.isnan(load_checkpoint(tmp_path / "failed_update.pt")["rollout"]["rewards"]).any()
    assert torch.isfinite(weights(tmp_path / "checkpoint.pt")).all()
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["iteration"] == 2


class TwoParts(gymnasium.Env):
    """Actions of two discrete parts."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])


def test_actions_of_several_parts_are_refused():
    with pytest.raises(
        EnvironmentMistake, match="TwoParts: action_space is a MultiDiscrete: only Box and Discrete are"
    ):
        learn(1, mode="sync", env="tests.algos.appo.test_runner:TwoParts")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_discrete_actions_are_trained_saved_resumed_and_played(mode, tmp_path):
    changes = {"mode": mode, "env": "CartPole-v1", "eval_interval": 2, "eval_episodes": 2}
    summary = learn(2, tmp_path / "first", **changes)
    assert {"kl", "entropy", "clip_fraction"} <= summary.progress.metrics.keys()
    assert 0 < summary.progress.metrics["entropy"] <= math.log(2) and "action_std" not in summary.progress.metrics
    learn(4, tmp_path / "second", resume=tmp_path / "first/checkpoint.pt", **changes)
    assert evaluate(tmp_path / "second", episodes=2)["return_mean"] > 0
    actions = load_policy(tmp_path / "second")(np.random.default_rng(0).normal(size=(50, 4)))
    assert actions.shape == (50, 1) and set(actions.flatten().tolist()) <= {0.0, 1.0}


def test_a_network_of_a_factory_is_trained_and_its_checkpoint_says_which(tmp_path):
    factory = {"factory": "tests.algos.networks.factories:gated", "width": 5}
    learn(2, tmp_path, mode="async", network={"actor": factory, "critic": [8]}, **COUNTING)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["config"]["network"]["actor"] == factory
    assert saved["learner"]["actor"]["body.gate.weight"].shape == (5, 1)
    assert load_policy(tmp_path)([[0.5]]).shape == (1, 1)
    saved["config"]["network"]["actor"]["factory"] = "gone:gated"
    save_checkpoint(tmp_path / "checkpoint.pt", saved)
    with pytest.raises(CheckpointError, match=r"network\.actor: gone cannot be imported: No module named 'gone'"):
        load_policy(tmp_path)


def test_learns_cartpole():
    """Within 6 s of one core; every seed of six reached a mean return of 195 before iteration 115."""
    summary = learn(150, **CARTPOLE)
    assert summary.progress.episode_return >= 195 and summary.progress.eval_return >= 195


def test_bad_settings_and_devices_are_refused_at_once():
    with pytest.raises(SettingsError, match=r"did you mean 'algorithm\.learning_rate'"):
        APPORunner("Hopper", None, {"algorithm": {"learning_rat": 1.0}})
    with pytest.raises(DeviceError, match="cuda:7"):
        APPORunner("Hopper", None, {}, device="cuda:7")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        learn(1, mode="sync", resume="/nowhere/checkpoint.pt", **COUNTING)


@pytest.mark.parametrize(("learner_threads", "niceness"), [(1000, COLLECTOR_NICENESS), (1, 0)])
def test_the_collector_yields_only_where_it_shares_cores(learner_threads, niceness):
    """In a process of its own, because niceness cannot be taken back."""
    code = (
        "import os; from unilab.machine.devices import yield_to_learner\n"
        "from unilab.algos.torch.appo.config import APPOConfig\n"
        "from unilab.machine import devices; devices.usable_cores = lambda: 2\n"
        f"yield_to_learner(APPOConfig(env_threads=1, learner_threads={learner_threads}))\n"
        "print(os.nice(0))"
    )
    expected = min(os.nice(0) + niceness, 19)  # there is no higher one
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected

"""The runner of SAC and TD3: both kinds of collection, resume, stopping and failing."""

import itertools
import multiprocessing
import os
import signal
import struct

import pytest
import torch

from tests.algos.appo.counting_env import Remembering
from tests.ipc.collectors import Runner
from tests.ipc.conftest import nothing_left
from tests.tracing.traces import process_names, read_trace, spans
from unilab.algos.torch.offpolicy.config import CONFIGS, SACConfig
from unilab.algos.torch.offpolicy.runner import OffPolicyRunner
from unilab.algos.torch.offpolicy.sac import SAC
from unilab.algos.torch.offpolicy.transition_source import CollectorSource
from unilab.ipc import CollectorError
from unilab.machine.devices import DeviceError
from unilab.run.checkpoint import CheckpointError, load_checkpoint
from unilab.settings import SettingsError, parse

__all__ = ["nothing_left"]  # a fixture that every test uses

SMALL = {
    "num_envs": 4,
    "batch_size": 16,
    "learning_starts": 6,
    "updates_per_step": 2,
    "replay_capacity": 60,  # wraps within a test
    "network": {"actor": [8], "critic": [8]},
    "env_threads": 1,
    "learner_threads": 2,
}
COUNTING = {"env": "tests.algos.appo.counting_env:CountingEnv"}


def learn(algorithm="sac", iterations=3, log_dir=None, **changes):
    options = {
        key: changes.pop(key) for key in ("resume", "on_iteration", "save_interval", "max_seconds") if key in changes
    }
    config = parse(CONFIGS[algorithm], {**SMALL, **COUNTING, **changes})
    return OffPolicyRunner.from_config(config).learn(iterations, log_dir=log_dir, **options)


def weights(path):
    saved = load_checkpoint(path)["learner"]
    networks = ("actor", "critics", "target_critics")
    return torch.cat([saved[network][name].flatten().float() for network in networks for name in saved[network]])


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_the_preset_for_many_environments_trains_on_real_physics(algorithm, tmp_path):
    summary = learn(algorithm, 4, tmp_path, env="Hopper", preset="fast")
    assert summary.progress.updates == 4 * 2
    assert 0 < summary.progress.metrics["reward_scale"] < 1
    critics = load_checkpoint(tmp_path / "checkpoint.pt")["learner"]["critics"]
    assert critics["body.weights.1"].shape[2] == 101
    assert torch.isfinite(weights(tmp_path / "checkpoint.pt")).all()


@pytest.mark.parametrize(("algorithm", "sync"), [("sac", True), ("td3", False)], ids=["lock step", "free"])
def test_trains_on_real_physics_and_counts(algorithm, sync, tmp_path):
    seen = []
    summary = learn(
        algorithm, 5, tmp_path, env="Hopper", sync_collection=sync, on_iteration=lambda p: seen.append(p) or True
    )
    assert summary.stopped_by == "iterations"
    assert [p.iteration for p in seen] == [1, 2, 3, 4, 5]
    assert [p.updates for p in seen] == [2, 4, 6, 8, 10]
    last = summary.progress
    assert last.samples == 5 * 2 * 16
    assert 0 < last.learner_busy_seconds <= last.wall_seconds
    assert all(earlier.wall_seconds < later.wall_seconds for earlier, later in itertools.pairwise(seen))
    assert torch.isfinite(weights(tmp_path / "checkpoint.pt")).all()
    if sync:  # six random steps of 4 environments are ready at the first iteration, then one more each
        assert [p.env_steps for p in seen] == [24, 28, 32, 36, 40]
        assert [p.policy_lag for p in seen][1:] == [1, 1, 1, 1]
    else:
        assert seen[0].env_steps >= 24
        assert last.collected_env_steps >= last.env_steps


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        ("td3", {"pipeline": "prefetch", "obs_normalization": True}),
        (
            "sac",
            {"obs_normalization": True, "algorithm.n_step": 3, "env_steps_per_sync": 2, "learning_starts": 10,
             "replay_capacity": 120},
        ),
    ],
)  # fmt: skip
def test_lock_step_is_repeatable_and_resumes_exactly_with_its_replay_buffer(algorithm, changes, tmp_path):
    """Bit for bit: what is resumed repeats the other run's beginning, and goes on as that did."""
    changes |= {"env": "Hopper", "save_replay": True}
    straight = learn(algorithm, 12, tmp_path / "straight", **changes)
    learn(algorithm, 7, tmp_path / "stopped", save_interval=3, **changes)
    checkpoint = tmp_path / "stopped/checkpoint.pt"
    resumed = learn(algorithm, 12, tmp_path / "resumed", resume=checkpoint, **changes)
    assert torch.equal(weights(tmp_path / "straight/checkpoint.pt"), weights(tmp_path / "resumed/checkpoint.pt"))
    for name in ("iteration", "updates", "samples", "env_steps", "collected_env_steps", "episodes", "policy_lag_mean"):
        assert getattr(straight.progress, name) == getattr(resumed.progress, name), name
    assert straight.progress.metrics == resumed.progress.metrics
    if algorithm == "sac":
        learn(algorithm, 12, tmp_path / "other", seed=1, **changes)
        assert not torch.equal(weights(tmp_path / "straight/checkpoint.pt"), weights(tmp_path / "other/checkpoint.pt"))


@pytest.mark.parametrize("sync", [True, False], ids=["lock step", "free"])
def test_resume_without_the_replay_buffer_fills_it_again_and_goes_on_counting_as_the_same_trainer(sync, tmp_path):
    environment = {"env": f"{Remembering.__module__}:Remembering"}
    learn("sac", 4, tmp_path, sync_collection=sync, obs_normalization=True, **environment)
    before = load_checkpoint(tmp_path / "checkpoint.pt")
    assert before["collection"]["replay"].get("rows") is None
    with pytest.raises(CheckpointError, match="saved with trainer = sac, this run has td3"):
        learn("td3", 2, resume=tmp_path / "checkpoint.pt")
    summary = learn(
        "sac",
        6,
        tmp_path / "resumed",
        sync_collection=sync,
        obs_normalization=True,
        resume=tmp_path / "checkpoint.pt",
        **environment,
    )
    assert summary.progress.iteration == 6
    collected = before["collection"]["counters"]["env_steps"]
    assert summary.progress.metrics["steps_before"] == (0 if sync else collected / 4), "its state says it otherwise"
    assert summary.progress.updates == 12
    assert summary.progress.env_steps >= before["progress"]["env_steps"] + 24
    assert summary.progress.wall_seconds > before["progress"]["wall_seconds"]
    after = load_checkpoint(tmp_path / "resumed/checkpoint.pt")["learner"]["actor"]["normalizer.count"]
    assert after > before["learner"]["actor"]["normalizer.count"]


def test_a_free_collector_takes_new_weights_and_leaves_its_timeline(tmp_path):
    def acts_with_the_first_weights(progress):
        return progress.policy_lag >= progress.iteration - 1

    changes = {"sync_collection": False, "trace_enabled": True, "on_iteration": acts_with_the_first_weights}
    summary = learn("sac", 10**6, tmp_path, **changes)
    assert (summary.stopped_by, summary.progress.collector_wait_seconds) == ("callback", 0)
    events = read_trace(tmp_path / "trace.json")
    assert sorted(process_names(events)) == ["collector", "learner"]
    names = {event["name"] for event in spans(events)}
    assert {"inference", "env_step", "replay_add", "weight_read", "weight_publish", "update"} <= names


def test_a_collector_that_dies_in_the_middle_of_an_answer_is_what_is_told():
    ours, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), struct.pack("!i", 10**6) + b"a part of its state")
    theirs.close()
    source = CollectorSource.__new__(CollectorSource)
    source._runner = Runner("HalfCheetah", None, {}, num_envs=2)
    source._runner._failures.append(CollectorError("collector", 77, -signal.SIGKILL))
    source._runner.interrupt.set()
    with ours, pytest.raises(CollectorError, match="process 77"):
        source._reply(ours, lambda: None)


@pytest.mark.parametrize("sync", [True, False], ids=["lock step", "free"])
def test_a_failing_collector_raises_its_own_traceback(sync, tmp_path):
    changes = {"env_cfg": {"fail_at": 40}, "save_interval": 1, "sync_collection": sync}
    with pytest.raises(CollectorError, match="planned failure at step 40") as raised:
        learn("td3", 10**6, tmp_path, **changes)
    assert "counting_env.py" in str(raised.value)


@pytest.mark.parametrize("sync", [True, False], ids=["lock step", "free"])
def test_a_killed_collector_is_noticed_and_never_reported_as_completed(sync, tmp_path):
    def kill(progress):
        if progress.iteration == 2:
            os.kill(next(p.pid for p in multiprocessing.active_children() if p.name == "collector"), signal.SIGKILL)
        return True

    with pytest.raises(CollectorError, match="SIGKILL"):
        learn("sac", 10**6, tmp_path, on_iteration=kill, save_interval=1, sync_collection=sync)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["iteration"] >= 1


@pytest.mark.parametrize("sync", [True, False], ids=["lock step", "free"])
def test_a_signal_ends_training_with_a_checkpoint(sync, tmp_path):
    def interrupt(progress):
        if progress.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return True

    summary = learn("sac", 10**6, tmp_path, on_iteration=interrupt, sync_collection=sync)
    assert summary.stopped_by == "SIGINT"
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["iteration"] == summary.progress.iteration


def test_an_update_that_is_not_finite_ends_training_and_keeps_the_last_checkpoint(tmp_path):
    changes = {"algorithm.critic_learning_rate": 1e30, "save_interval": 1}
    with pytest.raises(FloatingPointError, match=r"is (nan|inf)") as raised:
        learn("td3", 1000, tmp_path, **changes)
    assert "failed_update.pt" in "".join(raised.value.__notes__)
    if (tmp_path / "checkpoint.pt").exists():
        assert torch.isfinite(weights(tmp_path / "checkpoint.pt")).all()


def test_privileged_observations_reach_the_critics_alone(tmp_path):
    learn("sac", 2, tmp_path, env_cfg={"critic_dim": 3}, obs_normalization=True)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")["learner"]
    assert saved["critics"]["normalizer.mean"].shape == (3,)
    assert saved["critics"]["body.weights.0"].shape == (2, 3 + 1, 8)
    assert saved["actor"]["normalizer.mean"].shape == (1,)


def test_a_runner_can_learn_again_with_a_learner_of_the_callers(tmp_path):
    changes = {"batch_size": 16, "learner_threads": 1, "network": {"actor": [8, 8], "critic": [8, 8]}}
    config = parse(SACConfig, {**changes, "algorithm.policy_frequency": 2, "learning_starts": 0})
    learner = SAC(config, 1, 1)
    runner = OffPolicyRunner(
        learner,
        COUNTING["env"],
        "sac",
        num_envs=4,
        replay_buffer_n=20,
        batch_size=16,
        updates_per_step=3,
        policy_frequency=2,
        actor_hidden_dim=8,
        use_layer_norm=False,
    )
    assert runner.config.replay_capacity == 80
    runner.learn(2, log_dir=tmp_path)
    assert list(tmp_path.glob("events.out.tfevents.*")) and not (tmp_path / "curve.csv").exists()
    assert learner.updates == 6
    runner.learn(4, log_dir=tmp_path, resume=tmp_path / "checkpoint.pt")
    assert learner.updates == 12


def test_bad_settings_and_devices_are_refused_at_once():
    with pytest.raises(SettingsError, match="did you mean 'sac'"):
        OffPolicyRunner(None, "Hopper", "sack")
    with pytest.raises(SettingsError, match=r"did you mean 'algorithm\.gamma'"):
        OffPolicyRunner(None, "Hopper", "td3", rl_cfg={"algorithm.gama": 1.0})
    with pytest.raises(DeviceError, match="cuda:7"):
        OffPolicyRunner(None, "Hopper", "td3", device="cuda:7")
    with pytest.raises(SettingsError, match="replay_capacity: 60 transitions are too few: learning starts at 400"):
        learn("sac", 1, learning_starts=100)

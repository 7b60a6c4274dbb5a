"""SAC and TD3 with workers that collect: the same run whatever the kind, settings, exploring, resume, failing."""

import math
import threading

import pytest
import torch

from tests.algos.appo.counting_env import CountingEnv, Remembering
from tests.algos.offpolicy.test_runner import learn, weights
from tests.ipc.conftest import nothing_left
from unilab.algos.torch.offpolicy.config import SACConfig, TD3Config
from unilab.algos.torch.offpolicy.worker import ExploringPolicy
from unilab.algos.torch.offpolicy.worker_source import _Filler
from unilab.distributed import WorkerError
from unilab.envs import EnvDims
from unilab.ipc import SharedFlag
from unilab.run.checkpoint import load_checkpoint
from unilab.run.seeding import derive_seed
from unilab.settings import SettingsError, parse

__all__ = ["nothing_left"]

HERE = ["sequential", "processes"]
"""kinds of workers that need nothing more"""


def workers(kind: str, count: int = 2, **more) -> dict:
    return {"workers": {"kind": kind, "count": count} | more}


@pytest.mark.parametrize(("algorithm", "kind"), [("sac", "sequential"), ("td3", "processes")])
def test_lock_step_counts_as_the_collector_does(algorithm, kind, tmp_path):
    seen = []
    learn(algorithm, 5, tmp_path, env="Hopper", on_iteration=lambda p: seen.append(p) or True, **workers(kind))
    assert [p.updates for p in seen] == [2, 4, 6, 8, 10]
    # six random steps of 4 environments are ready at the first iteration, then one more each
    assert [p.env_steps for p in seen] == [24, 28, 32, 36, 40]
    assert [p.collected_env_steps for p in seen] == [24, 28, 32, 36, 40]
    assert [p.policy_lag for p in seen][1:] == [1, 1, 1, 1]
    last = seen[-1]
    assert 0 < last.collector_busy_seconds < last.wall_seconds
    assert last.collector_wait_seconds > 0
    assert torch.isfinite(weights(tmp_path / "checkpoint.pt")).all()


def test_all_kinds_learn_the_same_weights_bit_for_bit(tmp_path):
    changes = {"env": "Hopper", "obs_normalization": True, "env_steps_per_sync": 2, "replay_capacity": 90}
    for kind in HERE:
        learn("td3", 8, tmp_path / kind, **changes, **workers(kind))
    expected = weights(tmp_path / "sequential/checkpoint.pt")
    assert torch.equal(expected, weights(tmp_path / "processes/checkpoint.pt"))
    learn("td3", 8, tmp_path / "other", **changes, **workers("sequential", 4))
    assert not torch.equal(expected, weights(tmp_path / "other/checkpoint.pt"))


def test_episodes_are_counted_with_the_environments_own_rewards(tmp_path):
    # the first three of the last 100 episodes are the same ones: 3 and 4 steps long, with a reward of 1 a step
    scaled = {"algorithm.reward_scale": 0.5, "env_steps_per_sync": 5, "replay_capacity": 100}
    seen = []
    for kind in ("collector", "sequential"):
        summary = learn("sac", 4, **scaled, **workers(kind))
        seen.append(summary.progress)
    collector, ours = seen
    assert ours.episodes == collector.episodes > 0
    assert ours.episode_length == collector.episode_length
    assert ours.episode_return == pytest.approx(collector.episode_return)


class Measuring(CountingEnv):
    """Its numbers: the last digits of its seed, one that is NaN, and more than there is room for."""

    def reset(self, seed=None):
        self.seed = seed
        return super().reset(seed)

    def metrics(self):
        return {"digits": float(self.seed % 1000), "nan": math.nan} | {f"much more {n:04}": 1.0 for n in range(1000)}


@pytest.mark.parametrize("kind", HERE)
def test_the_environments_own_numbers_are_those_of_all_workers(kind):
    seen = []
    env = f"{__name__}:Measuring"
    learn("sac", 2, env=env, on_iteration=lambda p: seen.append(p.metrics) or True, **workers(kind))
    digits = [derive_seed(0, f"worker {worker}") % 1000 for worker in range(2)]
    assert digits[0] != digits[1]
    assert seen[-1]["digits"] == sum(digits) / 2 and math.isnan(seen[-1]["nan"])
    assert seen[-1]["much more 0099"] == 1.0 and "much more 0999" not in seen[-1]


@pytest.mark.parametrize("kind", HERE)
def test_a_resumed_run_starts_new_episodes_and_goes_on_counting(kind, tmp_path):
    changes = {"save_replay": True, "obs_normalization": True} | workers(kind, 1)
    changes["env"] = f"{Remembering.__module__}:Remembering"
    learn("sac", 4, tmp_path, **changes)
    before = load_checkpoint(tmp_path / "checkpoint.pt")
    assert before["collection"]["fresh"]
    seen = []
    resume = tmp_path / "checkpoint.pt"
    learn("sac", 6, tmp_path / "resumed", resume=resume, on_iteration=lambda p: seen.append(p) or True, **changes)
    assert [p.iteration for p in seen] == [5, 6]
    # the steps under way were made before the checkpoint was written: they are trained on first
    assert [p.env_steps for p in seen] == [40, 44]
    assert [p.collected_env_steps for p in seen] == [40, 44]
    assert seen[0].episodes >= before["progress"]["episodes"]
    collected = before["collection"]["counters"]["env_steps"]
    assert seen[-1].metrics["steps_before"] == collected / 4, "a curriculum goes on"


def test_a_run_goes_on_with_workers_where_a_collector_began_and_back(tmp_path):
    changes = {"save_replay": True}
    learn("sac", 3, tmp_path / "one", **changes)
    learn("sac", 5, tmp_path / "two", resume=tmp_path / "one/checkpoint.pt", **changes, **workers("sequential"))
    summary = learn("sac", 7, tmp_path / "three", resume=tmp_path / "two/checkpoint.pt", **changes)
    assert summary.progress.iteration == 7
    assert summary.progress.env_steps == 24 + 6 * 4


@pytest.mark.parametrize("kind", HERE)
def test_a_failing_worker_ends_training_with_its_traceback(kind, tmp_path):
    changes = {"env_cfg": {"fail_at": 40}, "save_interval": 1} | workers(kind)
    with pytest.raises(WorkerError, match="planned failure at step 40") as raised:
        learn("td3", 10**6, tmp_path, **changes)
    assert "counting_env.py" in str(raised.value)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["iteration"] >= 1


def test_free_workers_fill_the_buffer_until_one_fails_beyond_its_restarts(tmp_path):
    seen = []
    changes = {"sync_collection": False, "env_cfg": {"fail_at": 400}} | workers("processes", 1, max_restarts=1)
    with pytest.raises(WorkerError, match="failed after 1 restarts") as raised:
        learn("sac", 10**6, tmp_path, on_iteration=lambda p: seen.append(p) or True, save_interval=1, **changes)
    assert "planned failure at step 400" in str(raised.value)
    assert seen[0].env_steps >= 24
    assert [p.updates for p in seen] == [2 * p.iteration for p in seen]
    assert seen[-1].policy_lag >= 0
    resume, iterations = tmp_path / "checkpoint.pt", seen[-1].iteration + 2
    summary = learn("sac", iterations, resume=resume, **changes)
    assert summary.progress.iteration == iterations
    assert summary.progress.env_steps > seen[-1].env_steps


def test_exploring_is_part_of_the_weights_and_ends_with_the_first_learning():
    config, dims = parse(TD3Config, {"num_envs": 4, "algorithm.exploration_noise_max": 0.4}), EnvDims(3, 2, 0)
    policy = ExploringPolicy(config, dims)
    actor = policy.actor.state_dict()
    obs = torch.zeros(500, 3)
    policy.load_state_dict(policy.weights(actor, exploring=True))
    actions = policy.compute_actions(obs, torch.Generator().manual_seed(0))
    assert actions.min() < -0.9 and actions.max() > 0.9 and abs(actions.mean()) < 0.1
    policy.load_state_dict(policy.weights(actor, exploring=False))
    again = policy.compute_actions(obs[:2], torch.Generator().manual_seed(0))
    noise = torch.empty(2, 2).normal_(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = (policy.actor.mode(obs[:2]) + noise * torch.tensor([[0.1], [0.2]])).clamp(-1, 1)
    torch.testing.assert_close(again, expected)


def test_noise_is_spread_over_the_environments_of_all_workers():
    config = parse(TD3Config, {"num_envs": 4, "algorithm.exploration_noise_max": 0.4})
    policy = ExploringPolicy(config, EnvDims(3, 2, 0))
    policy.load_state_dict(policy.weights(policy.actor.state_dict(), exploring=False))
    policy.become_worker(1)
    obs = torch.zeros(2, 3)
    noise = torch.empty(2, 2).normal_(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = (policy.actor.mode(obs) + noise * torch.tensor([[0.3], [0.4]])).clamp(-1, 1)
    torch.testing.assert_close(policy.compute_actions(obs, torch.Generator().manual_seed(0)), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 5, "replay_capacity": 99}, "workers.count: 5 environments cannot be divided among 2 workers"),
        ({"algorithm.n_step": 3}, r"algorithm.n_step: is 3; workers store single steps"),
        ({"stagger_episodes": True}, "stagger_episodes: with workers.kind: sequential"),
        ({"sync_collection": False}, "sync_collection: is false; workers.kind: sequential works in turns"),
        ({"workers.ray_address": "auto"}, "workers.ray_address: is 'auto'; it needs workers.kind: ray"),
        ({"workers.kind": "threads"}, "workers.kind: Input should be 'collector', "),
    ],
)
def test_settings_that_workers_cannot_have_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        learn("sac", 1, **{"workers.kind": "sequential", "workers.count": 2} | changes)


@pytest.mark.parametrize(
    ("kind", "idle"),
    [
        ("collector", {"count", "max_restarts", "hang_seconds", "ray_address"}),
        ("sequential", {"hang_seconds"}),
        ("processes", set()),
    ],
)
def test_settings_of_workers_that_are_not_there_change_nothing(kind, idle):
    sides = set() if kind == "collector" else {"collector_cores", "learner_cores"}
    assert set(parse(SACConfig, {"workers.kind": kind}).idle) == {f"workers.{name}" for name in idle} | sides


class InstantWorkers:
    """Free workers whose rollouts take no time, one at a time."""

    policy_version = acted_version = 0

    def __init__(self):
        self.go_on = threading.Semaphore(0)

    def broadcast_updated_policy(self, state_dict):
        self.policy_version += 1

    def collect_rollouts(self, **_):
        self.go_on.acquire()
        self.acted_version = self.policy_version


def test_versions_of_free_workers_are_those_that_were_published_and_take_no_memory():
    workers = InstantWorkers()
    bell = SharedFlag()
    filler = _Filler(workers, bell)
    filler.ensure_running()
    sizes = set()
    for version in range(1, 61):
        assert filler.publish({"weight": torch.zeros(1)}) == version
        if version % 3 == 0:  # two of three are replaced before a worker gets them
            workers.go_on.release(2)
            while filler.acted_version != version:
                assert bell.wait(60.0)
                bell.clear()
            sizes.add(sum(len(value) for value in vars(filler).values() if isinstance(value, dict | list)))
    assert len(sizes) == 1
    workers.go_on.release(10**6)
    filler.stop()

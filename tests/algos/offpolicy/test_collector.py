"""What the collector adds to a replay buffer."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.algos.appo.counting_env import CountingEnv
from unilab.algos.torch.offpolicy.config import SACConfig, TD3Config
from unilab.algos.torch.offpolicy.worker import ExploringPolicy, acting_loop
from unilab.envs import EnvDims, make
from unilab.ipc import ReplayBuffer
from unilab.run.checkpoint import load_checkpoint, save_checkpoint
from unilab.settings import parse

GAMMA = 0.5


class NoiseActor(torch.nn.Module):
    """Acts as the noise says; from step ``bad_from`` on the first row's action is NaN."""

    def __init__(self, bad_from=None):
        super().__init__()
        self.bad_from, self.seen, self.noise = bad_from, [], []

    def act(self, obs, noise):
        self.seen.append(obs.clone())
        self.noise.append(noise.clone())
        actions = noise.clamp(-1, 1)
        if self.bad_from is not None and len(self.seen) >= self.bad_from:
            actions[0] = math.nan
        return actions


class EndsBothWays(CountingEnv):
    """At the time limit the rows terminate as well."""

    def step(self, actions):
        result = super().step(actions)
        return result._replace(terminated=result.terminated | result.truncated)


@contextmanager
def collector_of(env, actor=None, capacity=1000, *, kind=SACConfig, seed=3, learning_starts=0, stagger=False, **given):
    """What collects in an environment, and its replay buffer; ``given`` are settings of the algorithm."""
    config = parse(kind, {
        "num_envs": env.num_envs, "learning_starts": learning_starts, "stagger_episodes": stagger,
        "network": {"actor": (8,)}, "algorithm": {"gamma": GAMMA} | given,
    })  # fmt: skip
    multi_step = config.algorithm.n_step > 1
    replay = ReplayBuffer(
        capacity, env.obs_dim, env.action_dim, "cpu", critic_dim=env.critic_dim, multi_step=multi_step
    )
    torch.manual_seed(0)
    policy = ExploringPolicy(config, EnvDims(env.obs_dim, env.action_dim, env.critic_dim))
    policy.actor = actor or policy.actor
    try:
        yield acting_loop(config, env, policy, replay, seed=seed), replay
    finally:
        replay.cleanup()


def rows_of(replay):
    """All columns of the replay buffer, as arrays."""
    fields = replay.fields(replay.rows(0, replay.written))
    return {name: column.numpy().copy() for name, column in fields.items()}


def collect(env, steps, **settings):
    settings.setdefault("actor", NoiseActor())
    with collector_of(env, **settings) as (loop, replay):
        loop.run(steps)
        return loop, rows_of(replay)


def of_env(column, row, envs=2):
    """The entries of one environment, where every step added one row of each."""
    return column[row::envs].reshape(len(column) // envs, -1)[:, 0].tolist()


def test_rows_follow_the_episodes_and_end_at_the_true_final_observation():
    env = CountingEnv(2, critic_dim=2)
    _, rows = collect(env, 8)
    assert of_env(rows["obs"], 0) == [0, 1, 2, 3, 0, 1, 2, 3]  # cut off after 4 steps
    assert of_env(rows["next_obs"], 0) == [1, 2, 3, 4, 1, 2, 3, 4]
    assert of_env(rows["dones"], 0) == of_env(rows["truncated"], 0) == [0, 0, 0, 1, 0, 0, 0, 1]
    assert of_env(rows["obs"], 1) == [0, 1, 2, 0, 1, 2, 0, 1]  # terminates after 3
    assert of_env(rows["next_obs"], 1) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert of_env(rows["dones"], 1) == [0, 0, 1, 0, 0, 1, 0, 0]
    assert of_env(rows["truncated"], 1) == [0] * 8
    assert rows["rewards"].tolist() == [1] * 16
    np.testing.assert_array_equal(rows["critic"], np.repeat(10 * rows["obs"], 2, axis=1))
    np.testing.assert_array_equal(rows["next_critic"], np.repeat(10 * rows["next_obs"], 2, axis=1))
    np.testing.assert_array_equal(rows["actions"].ravel(), np.concatenate(env.seen_actions).ravel())


def test_an_end_that_is_both_is_stored_as_a_termination():
    _, rows = collect(EndsBothWays(1), 4)
    assert rows["dones"].tolist() == [0, 0, 0, 1]
    assert rows["truncated"].tolist() == [0, 0, 0, 0]


def test_several_step_returns_stop_at_both_ends():
    _, rows = collect(CountingEnv(2), 4, n_step=3)
    names = ("obs", "next_obs", "rewards", "steps", "dones", "truncated")
    assert list(zip(*(rows[name].ravel().tolist() for name in names), strict=True)) == [
        (0, 3, 1.75, 3, 0, 0),  # of row 0
        (0, 3, 1.75, 3, 1, 0),  # row 1 terminates after its third step
        (1, 3, 1.5, 2, 1, 0),
        (2, 3, 1, 1, 1, 0),
        (1, 4, 1.75, 3, 1, 1),  # row 0 is cut off after its fourth
        (2, 4, 1.5, 2, 1, 1),
        (3, 4, 1, 1, 1, 1),
    ]


def test_rewards_in_the_buffer_and_in_the_statistics_are_the_environments_own():
    collector, rows = collect(CountingEnv(2), 8, reward_scale=0.25)
    assert rows["rewards"].tolist() == [1] * 16
    metrics = collector.metrics()
    assert metrics["episodes"] == 4  # two of each row
    assert metrics["episode_return"] == metrics["episode_length"] == (4 + 4 + 3 + 3) / 4
    assert metrics["env_steps"] == 16


def test_staggered_episodes_do_not_count_when_they_are_cut_short():
    collector, rows = collect(CountingEnv(4), 3, stagger=True)
    assert of_env(rows["obs"], 1, envs=4)[0] == 1
    assert collector.metrics()["episodes"] == 0


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_failed_step_is_reported_and_left_out(n_step):
    collector, rows = collect(CountingEnv(1, explode_at=3), 4, n_step=n_step)
    assert rows["obs"].ravel().tolist() == [0, 1, 0] if n_step == 1 else [0, 1]
    if n_step == 3:  # what was open ends before the failure, and is to be bootstrapped there
        assert rows["next_obs"].ravel().tolist() == [2, 2]
        assert rows["rewards"].tolist() == [1.5, 1]
        assert rows["steps"].tolist() == [2, 1]
        assert rows["dones"].tolist() == rows["truncated"].tolist() == [1, 1]
    metrics = collector.metrics()
    assert metrics["fault_count"] == 1
    assert metrics["faults"] == [{"env_id": 0, "step": 3, "field": "qpos", "message": "environment 0, env step 3"}]


def test_an_action_that_is_not_finite_never_enters_the_buffer():
    with make("HalfCheetah", 3, num_threads=1) as env:
        collector, rows = collect(env, 5, actor=NoiseActor(bad_from=4))
    assert all(np.isfinite(column).all() for column in rows.values())
    assert len(rows["obs"]) == 3 * 3 + 2 * 2
    assert collector.metrics()["fault_count"] == 2
    assert collector.metrics()["faults"][0]["field"] == "action"


def test_the_first_steps_are_uniformly_random_and_the_policy_is_not_asked():
    actor = NoiseActor()
    _, rows = collect(CountingEnv(50), 41, actor=actor, learning_starts=40, capacity=3000)
    random = rows["actions"][: 40 * 50]
    assert random.min() >= -1 and random.max() <= 1
    assert abs(random.mean()) < 0.05
    assert np.quantile(random, [0.25, 0.75]) == pytest.approx([-0.5, 0.5], abs=0.05)
    assert len(actor.seen) == 1
    np.testing.assert_array_equal(rows["actions"][40 * 50 :], actor.noise[0].clamp(-1, 1).numpy())
    np.testing.assert_array_equal(actor.seen[0].numpy(), rows["obs"][40 * 50 :])


def test_td3_explores_more_from_environment_to_environment_and_sac_alike_everywhere():
    wide = {"exploration_noise_min": 0.0, "exploration_noise_max": 0.8}
    for settings, wanted in (({"kind": TD3Config, **wide}, [0, 0.2, 0.4, 0.6, 0.8]), ({}, [1] * 5)):
        actor = NoiseActor()
        collect(CountingEnv(5), 1000, actor=actor, capacity=5000, seed=0, **settings)
        noise = torch.stack(actor.noise)[..., 0]
        assert noise.std(0).tolist() == pytest.approx(wanted, rel=0.1)
        assert noise.mean(0).tolist() == pytest.approx([0] * 5, abs=0.1)


def test_actions_are_scaled_to_the_bounds_of_the_environment():
    env = CountingEnv(4)
    env.action_low, env.action_high = np.array([-2], np.float32), np.array([4], np.float32)
    _, rows = collect(env, 5)
    seen = np.concatenate(env.seen_actions)
    np.testing.assert_allclose(seen, -2 + (rows["actions"] + 1) / 2 * 6, rtol=1e-6)
    assert np.abs(rows["actions"]).max() == 1


def test_unbounded_actions_are_refused():
    env = CountingEnv(1)
    env.action_high = np.array([np.inf], np.float32)
    with (
        pytest.raises(ValueError, match=r"CountingEnv: actions range from \[-1.0\] to \[inf\]"),
        collector_of(env),
    ):
        pass


@pytest.mark.parametrize(("name", "ends"), [("HalfCheetah", "truncated"), ("Hopper", "terminated")])
def test_rows_are_what_the_simulation_did(name, ends):
    """Replayed in a second batch of simulations, step for step."""
    settings = {"max_episode_steps": 7} if ends == "truncated" else {}
    with make(name, 3, env_cfg_override=settings, num_threads=1) as env:
        collector, rows = collect(env, 60)
        seed_state = rows["obs"][:3]
    with make(name, 3, env_cfg_override=settings, num_threads=1) as again, collector_of(again) as (twin, _):
        np.testing.assert_array_equal(again.obs, seed_state)
        for step in range(60):
            now = slice(3 * step, 3 * step + 3)
            np.testing.assert_array_equal(rows["obs"][now], again.obs)
            result = again.step(rows["actions"][now])
            final = result.obs.copy()
            final[result.final_ids] = result.final_obs
            np.testing.assert_array_equal(rows["next_obs"][now], final)
            np.testing.assert_array_equal(rows["rewards"][now], result.reward)
            np.testing.assert_array_equal(rows["dones"][now], result.terminated | result.truncated)
            np.testing.assert_array_equal(rows["truncated"][now], result.truncated)
        assert twin.env_steps == 0
    assert rows["dones"].sum() >= 3
    assert rows["truncated"].sum() == (rows["dones"].sum() if ends == "truncated" else 0)
    assert collector.metrics()["episodes"] == rows["dones"].sum()


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_resumed_collector_goes_on_bit_for_bit(tmp_path, n_step):
    settings = {"n_step": n_step, "learning_starts": 3, "reward_scale": 0.5, "stagger": True}

    @contextmanager
    def cheetahs():
        with (
            make("HalfCheetah", 4, env_cfg_override={"max_episode_steps": 9}, num_threads=1) as env,
            collector_of(env, **settings) as collector,
        ):
            yield collector

    with cheetahs() as (whole, whole_rows), cheetahs() as (resumed, resumed_rows):
        whole.run(7)
        save_checkpoint(tmp_path / "collector.pt", whole.state_dict())
        before = whole_rows.written
        whole.run(20)
        resumed.run(2)  # of what is forgotten now
        forgotten = resumed_rows.written
        resumed.load_state_dict(load_checkpoint(tmp_path / "collector.pt"))
        resumed.run(20)
        wanted = whole_rows.rows(before, whole_rows.written)
        assert len(wanted) > 60
        found = resumed_rows.rows(forgotten, resumed_rows.written)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=False)
        assert resumed.metrics() == whole.metrics()


def test_nothing_reaches_over_episodes_that_a_resume_begins_anew():
    with (
        make("Pendulum-v1", 2) as env,
        collector_of(env, n_step=3) as (loop, replay),
    ):
        loop.run(2)
        loop.load_state_dict(loop.state_dict())  # gymnasium cannot save the episode
        loop.run(2)
        assert replay.written == 0
        loop.run(1)
        assert rows_of(replay)["steps"].tolist() == [3, 3]

"""What the collector writes into a rollout."""

import copy
import math
from contextlib import closing

import numpy as np
import torch

from tests.algos.appo.counting_env import CountingEnv
from unilab.algos.torch.appo.actor_critic import Actor
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.worker import NewestWeights, acting_loop
from unilab.ipc import SharedWeightSync
from unilab.ipc.rollout_ring_buffer import slot_fields
from unilab.settings import parse

GAMMA = 0.5


class KnownCritic(torch.nn.Module):
    """V(x) = 100 + the sum of x."""

    def forward(self, observations):
        return 100 + observations.sum(-1)


def collect(steps=8, envs=2, stagger=False, rollouts=1, init_noise_std=0.5, renew=None, **env_settings):
    torch.manual_seed(0)
    env = CountingEnv(envs, **env_settings)
    network = {"actor": [4], "activation": "tanh", "init_noise_std": init_noise_std}
    settings = {"network": network, "obs_normalization": False, "algorithm.gamma": GAMMA}
    config = parse(APPOConfig, settings | {"stagger_episodes": stagger})
    actor = Actor(config, env.dims)
    newer = (lambda: False) if renew is None else lambda: renew(actor)
    loop, sink = acting_loop(config, env, actor, KnownCritic(), seed=3, renew=newer)
    sink.arrays = rollout = {
        name: np.full(shape, np.nan, np.float32)
        for name, shape in slot_fields(envs, steps, 1, 1, env.critic_dim).items()
    }
    for _ in range(rollouts):
        loop.run(steps)
    return loop, actor, rollout


def test_every_field_is_written():
    _, _, rollout = collect(critic_dim=2)
    assert all(np.isfinite(array).all() for array in rollout.values())
    assert rollout.keys() >= {"critic", "last_critic"}


def test_rows_are_time_major_and_follow_the_episodes():
    _, _, rollout = collect(critic_dim=2)
    assert rollout["obs"][:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]  # cut off after 4 steps
    assert rollout["obs"][:, 1, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]  # terminates after 3
    assert rollout["dones"][:, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert rollout["dones"][:, 1].tolist() == [0, 0, 1, 0, 0, 1, 0, 0]
    assert rollout["truncated"][:, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert rollout["truncated"][:, 1].tolist() == [0] * 8
    assert rollout["last_obs"][:, 0].tolist() == [0, 2]
    np.testing.assert_array_equal(rollout["critic"], np.repeat(rollout["obs"] * 10, 2, axis=2))


def test_a_time_out_bootstraps_from_the_final_observation_and_a_termination_does_not():
    _, _, rollout = collect()
    bonus = GAMMA * (100 + 4)  # the final observation is 4, that after the reset 0
    assert rollout["rewards"][:, 0].tolist() == [1, 1, 1, 1 + bonus, 1, 1, 1, 1 + bonus]
    assert rollout["rewards"][:, 1].tolist() == [1] * 8


def test_the_critic_bootstraps_from_the_privileged_observation_if_there_is_one():
    _, _, rollout = collect(critic_dim=1)
    assert rollout["rewards"][3, 0] == 1 + GAMMA * (100 + 40)


def test_episode_returns_are_the_environments_own_rewards():
    loop, _, _ = collect()
    metrics = loop.metrics()
    assert metrics["episodes"] == 4  # two of row 0, two of row 1
    assert metrics["episode_return"] == (4 + 4 + 3 + 3) / 4
    assert metrics["episode_length"] == (4 + 4 + 3 + 3) / 4
    assert metrics["env_steps"] == 16


def test_episodes_cut_short_by_a_staggered_start_do_not_count():
    loop, _, _ = collect(envs=4, steps=3, stagger=True)
    # row 1 starts at its last step and row 3 at 3: both end at once, then play a whole episode or part of one
    assert loop.metrics()["episodes"] == 0
    assert math.isnan(loop.metrics()["episode_return"])
    loop, _, _ = collect(envs=4, steps=8, stagger=True)
    assert {played[0] for played in loop.episodes.state_dict()["recent"]} == {3.0, 4.0}


def test_log_probs_are_those_of_the_stored_actions_and_physics_gets_them_clipped():
    loop, actor, rollout = collect(init_noise_std=3.0)
    obs, actions = torch.from_numpy(rollout["obs"]), torch.from_numpy(rollout["actions"])
    with torch.no_grad():
        wanted = actor(obs).log_prob(actions)
    np.testing.assert_allclose(rollout["log_probs"], wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(rollout["actions"]).max() > 1
    np.testing.assert_array_equal(np.stack(loop.env.seen_actions), rollout["actions"].clip(-1, 1))


def test_weights_that_come_within_a_rollout_act_from_the_next_step_on():
    acted = []

    def renew(actor):
        """Other weights before every third step: other means and other deviations."""
        newer = len(acted) % 3 == 2
        if newer:
            for parameter in actor.parameters():
                parameter.data.add_(0.3)
        acted.append(copy.deepcopy(actor))
        return newer

    _, _, rollout = collect(renew=renew)
    assert len(acted) == 8
    obs, actions = torch.from_numpy(rollout["obs"]), torch.from_numpy(rollout["actions"])
    with torch.no_grad():
        wanted = torch.stack([actor(obs[t]).log_prob(actions[t]) for t, actor in enumerate(acted)])
        first = acted[0](obs).log_prob(actions)
    np.testing.assert_allclose(rollout["log_probs"], wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert (first - wanted)[2:].abs().min() > 1e-3  # the first weights would have given others


def test_the_newest_weights_are_taken_once_and_their_mean_version_is_told():
    actors, critics = ([torch.nn.Linear(1, 1) for _ in range(2)] for _ in range(2))
    published = {
        name: SharedWeightSync.from_state_dict(networks[0].state_dict())
        for name, networks in (("actor", actors), ("critic", critics))
    }
    with closing(published["actor"]), closing(published["critic"]):
        weights = NewestWeights(published, {"actor": actors[1], "critic": critics[1]})
        seen = []
        for version in (1, 1, 2, 4):
            while published["actor"].version < version:
                actors[0].weight.data.add_(1)
                critics[0].weight.data.add_(1)
                for name, networks in (("critic", critics), ("actor", actors)):
                    published[name].write_weights(networks[0].state_dict())
            seen.append(weights.renew())
            assert torch.equal(actors[1].weight, actors[0].weight)
            assert torch.equal(critics[1].weight, critics[0].weight)
        assert seen == [True, False, True, True]
        assert weights.mean_version() == 2  # of 1, 1, 2 and 4
        weights.renew()
        assert weights.mean_version() == 4


def test_one_rollout_goes_on_where_the_last_one_ended():
    _, _, rollout = collect(steps=3, rollouts=2)
    assert rollout["obs"][:, 0, 0].tolist() == [3, 0, 1]


def test_a_simulation_fault_is_reported_and_is_no_bootstrap():
    loop, _, rollout = collect(explode_at=2)
    assert rollout["rewards"][1, 0] == 0
    assert rollout["dones"][1, 0] == 1
    metrics = loop.metrics()
    assert metrics["fault_count"] == 1
    assert metrics["faults"] == [{"env_id": 0, "step": 2, "field": "qpos", "message": "environment 0, env step 2"}]

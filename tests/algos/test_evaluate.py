"""Playing a checkpoint's policy: that of every trainer, scaled to the environment's actions, whole episodes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.algos.appo.counting_env import CountingEnv
from unilab import load_policy
from unilab.algos.torch.appo.actor_critic import Actor
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.evaluate import evaluate
from unilab.algos.torch.offpolicy.config import CONFIGS
from unilab.algos.torch.offpolicy.networks.policies import build_actor
from unilab.algos.torch.offpolicy.runner import OffPolicyRunner
from unilab.envs import EnvDims
from unilab.run.checkpoint import CheckpointError, save_checkpoint
from unilab.run.loop import plain
from unilab.settings import parse

ENV = "tests.algos.test_evaluate:Rewarded"
SMALL = {"env": ENV, "network": {"actor": [8], "critic": [8]}, "obs_normalization": True}
LOW, HIGH = 1.0, 5.0


class Rewarded(CountingEnv):
    """Actions range from 1 to 5, and the reward is the action."""

    def __init__(self, num_envs, **options):
        super().__init__(num_envs, **options)
        self.action_low, self.action_high = np.full(1, LOW, np.float32), np.full(1, HIGH, np.float32)

    def step(self, actions):
        assert actions.min() >= LOW and actions.max() <= HIGH
        return super().step(actions)._replace(reward=actions[:, 0].copy())


def write(path, trainer, config, actor):
    content = {
        "trainer": trainer,
        "config": plain(config),
        "learner": {"actor": actor.state_dict()},
        "progress": {"iteration": 3, "env_steps": 40},
    }
    save_checkpoint(path, content)


@torch.no_grad()
@pytest.mark.parametrize("trainer", ["appo", "sac", "td3"])
def test_a_checkpoint_is_played_and_acts_as_the_trained_policy_without_noise(trainer, tmp_path):
    config = parse({"appo": APPOConfig, **CONFIGS}[trainer], SMALL)
    actor = Actor(config, EnvDims(1, 1, 0)) if trainer == "appo" else build_actor(config, 1, 1)
    actor.normalizer.update(torch.randn(50, 1) + 2)
    write(tmp_path / "checkpoint.pt", trainer, config, actor)

    def expected(obs):
        return actor(obs).mode.clamp(LOW, HIGH) if trainer == "appo" else 3 + 2 * actor.mode(obs)

    result = evaluate(tmp_path / "checkpoint.pt", episodes=6, num_envs=2)
    actions = expected(torch.arange(4.0)[:, None])  # of an episode
    long, short = float(actions.sum()), float(actions[:3].sum())  # rows play 4 and 3 steps, each as many episodes
    assert result == {
        "trainer": trainer,
        "env": ENV,
        "iteration": 3,
        "env_steps": 40,
        "episodes": 6,
        "return_mean": pytest.approx((long + short) / 2),
        "return_std": pytest.approx(abs(long - short) / 2, abs=1e-5),
        "return_min": pytest.approx(min(long, short)),
        "return_max": pytest.approx(max(long, short)),
        "length_mean": 3.5,
    }

    obs, random = torch.linspace(-3, 3, 7)[:, None], torch.get_rng_state()
    policy = load_policy(tmp_path / "checkpoint.pt")
    actions = policy(obs.numpy())
    assert actions.shape == (7, 1) and actions.dtype == np.float32
    np.testing.assert_allclose(actions, expected(obs).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(actions, load_policy(tmp_path)(obs.double().tolist()), "a folder, and lists, will do")
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(ValueError, match=r"expected observations \[N, 1\], got \[1\]"):
        policy([1.0])


def test_importing_the_package_stays_cheap():
    code = "import sys, unilab; assert 'torch' not in sys.modules; from unilab import load_policy, envs"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("trainer", ["sac", "td3"])
def test_a_checkpoint_that_training_wrote(trainer, tmp_path):
    small = {"num_envs": 2, "batch_size": 4, "learning_starts": 2, "replay_capacity": 100, "learner_threads": 1}
    small |= {"eval_interval": 2, "eval_episodes": 3}
    with OffPolicyRunner.from_config(parse(CONFIGS[trainer], SMALL | small)) as runner:
        summary = runner.learn(2, log_dir=tmp_path)
    assert 3 * LOW <= summary.progress.eval_return <= 4 * HIGH
    result = evaluate(summary.checkpoint, episodes=2)
    assert (result["trainer"], result["iteration"], result["episodes"]) == (trainer, 2, 2)
    assert result["env_steps"] == summary.progress.env_steps
    assert 3 * LOW <= result["return_min"] <= result["return_max"] <= 4 * HIGH


def test_what_cannot_be_evaluated_is_said(tmp_path):
    config = parse(APPOConfig, SMALL)
    write(tmp_path / "other.pt", "ddpg", config, torch.nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match="saved by 'ddpg'; only appo, sac, td3"):
        evaluate(tmp_path / "other.pt")
    old = plain(config) | {"policy": {"hidden_dims": [8]}}
    save_checkpoint(tmp_path / "old.pt", {"trainer": "appo", "config": old, "learner": {}, "progress": {}})
    with pytest.raises(CheckpointError, match="policy: unknown setting"):
        evaluate(tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(tmp_path / "none.pt", episodes=0)

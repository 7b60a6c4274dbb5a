"""The learners: one update from data of HalfCheetah's shape, for asv."""

import torch

from unilab.algos.torch.appo.actor_critic import build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.learner import APPOLearner, vtrace_advantages
from unilab.algos.torch.offpolicy.config import CONFIGS
from unilab.algos.torch.offpolicy.sac import SAC
from unilab.algos.torch.offpolicy.td3 import TD3
from unilab.envs import EnvDims
from unilab.settings import parse

STEPS, OBS_DIM, ACTION_DIM = 24, 17, 6


def rollout(num_envs: int) -> dict[str, torch.Tensor]:
    """Random fields of a rollout, with an episode's end in one of a hundred steps."""
    torch.manual_seed(0)
    return {
        "obs": torch.randn(STEPS, num_envs, OBS_DIM),
        "last_obs": torch.randn(num_envs, OBS_DIM),
        "actions": torch.randn(STEPS, num_envs, ACTION_DIM),
        "log_probs": torch.full((STEPS, num_envs), -8.5),
        "rewards": torch.randn(STEPS, num_envs),
        "dones": (torch.rand(STEPS, num_envs) < 0.01).float(),
        "truncated": torch.zeros(STEPS, num_envs),
    }


class Update:
    """5 epochs of 4 minibatches; networks [256, 256]."""

    param_names = ("num_envs", "num_threads", "dtype")
    params = ([256, 1024], [1, 2], ["float32", "bfloat16"])
    timeout = 120

    def setup(self, num_envs: int, num_threads: int, dtype: str) -> None:
        torch.set_num_threads(1)
        actor, critic = build_networks(APPOConfig(), EnvDims(OBS_DIM, ACTION_DIM, 0))
        self.learner = APPOLearner(actor, critic, num_threads=num_threads, dtype=dtype)
        self.rollout = rollout(num_envs)

    def teardown(self, num_envs: int, num_threads: int, dtype: str) -> None:
        self.learner.close()

    def time_update(self, num_envs: int, num_threads: int, dtype: str) -> None:
        self.learner.update(self.rollout)


class OffPolicyUpdate:
    """One update of SAC or TD3 from one batch; networks [256, 256]."""

    param_names = ("algorithm", "batch_size", "num_threads")
    params = (["sac", "td3"], [256, 8192], [1, 2])
    timeout = 120

    def setup(self, algorithm: str, batch_size: int, num_threads: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        settings = {"batch_size": batch_size, "learner_threads": num_threads, "algorithm.policy_frequency": 1}
        config = parse(CONFIGS[algorithm], settings)
        self.learner = {"sac": SAC, "td3": TD3}[algorithm](config, OBS_DIM, ACTION_DIM)
        self.batch = {
            "obs": torch.randn(batch_size, OBS_DIM),
            "actions": torch.rand(batch_size, ACTION_DIM) * 2 - 1,
            "rewards": torch.randn(batch_size),
            "dones": torch.zeros(batch_size),
            "truncated": torch.zeros(batch_size),
            "next_obs": torch.randn(batch_size, OBS_DIM),
        }

    def teardown(self, algorithm: str, batch_size: int, num_threads: int) -> None:
        self.learner.close()

    def time_two_updates(self, algorithm: str, batch_size: int, num_threads: int) -> None:
        """Each of the critics and of the actor."""
        self.learner.update(self.batch)
        self.learner.update(self.batch)


class Vtrace:
    """Targets and advantages of one rollout, without networks."""

    param_names = ("num_envs",)
    params = ([256, 1024],)

    def setup(self, num_envs: int) -> None:
        torch.set_num_threads(1)
        self.fields = torch.randn(4, STEPS, num_envs)
        self.bootstrap = torch.randn(num_envs)
        self.dones = torch.zeros(STEPS, num_envs)

    def time_vtrace_advantages(self, num_envs: int) -> None:
        behavior, target, rewards, values = self.fields
        vtrace_advantages(behavior, target, rewards, values, self.bootstrap, self.dones, lam=0.95)

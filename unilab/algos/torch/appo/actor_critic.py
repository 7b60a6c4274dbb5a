"""The networks of asynchronous PPO, and how its policy acts."""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.networks.build import build, mlp
from unilab.algos.torch.networks.distributions import Categorical, DiagonalGaussian, Distribution
from unilab.algos.torch.networks.normalizer import RunningNormalizer, ValueScale
from unilab.envs import EnvDims, VecEnv
from unilab.envs.vec_env import FloatArray


class Actor(nn.Module):
    """A stochastic policy: the distribution of actions that a network gives for normalized observations.

    Continuous actions are a diagonal Gaussian: the outputs are its means, and its standard deviations do not depend
    on the observation. Discrete actions are categorical: the outputs are their logits.

    Raises:
        SettingsError: ``network.actor`` describes no network for this environment.
    """

    normalizer: nn.Module
    log_std: nn.Parameter | None

    def __init__(self, config: APPOConfig, dims: EnvDims) -> None:
        super().__init__()
        self.normalizer = RunningNormalizer(dims.obs) if config.obs_normalization else nn.Identity()
        # a small gain keeps the first actions near zero (Andrychowicz et al. 2021, arXiv:2006.05990)
        built_in = functools.partial(mlp, activation=config.network.activation, output_gain=0.01)
        self.body = build(config.network.actor, dims.obs, dims.outputs, "network.actor", built_in)
        std = torch.full((dims.action,), math.log(config.network.init_noise_std))
        self.log_std = None if dims.num_actions else nn.Parameter(std)

    def distribution(self, outputs: Tensor) -> Distribution:
        """The distribution of actions for the body's outputs [..., outputs]."""
        return Categorical(outputs) if self.log_std is None else DiagonalGaussian(outputs, self.log_std)

    def forward(self, observations: Tensor) -> Distribution:
        """The distribution of actions for each of the observations [..., O]."""
        return self.distribution(self.body(self.normalizer(observations)))


class Critic(nn.Module):
    """State values. The critic sees the privileged observation where there is one.

    Raises:
        SettingsError: ``network.critic`` describes no network for this environment.
    """

    normalizer: nn.Module

    def __init__(self, config: APPOConfig, dims: EnvDims) -> None:
        super().__init__()
        seen = dims.critic or dims.obs
        self.normalizer = RunningNormalizer(seen) if config.obs_normalization else nn.Identity()
        built_in = functools.partial(mlp, activation=config.network.activation)
        self.body = build(config.network.critic, seen, 1, "network.critic", built_in)
        self.scale = ValueScale()

    def forward(self, observations: Tensor) -> Tensor:
        """Values [...] of observations [..., O]."""
        return self.scale(self.body(self.normalizer(observations)).squeeze(-1))


class SamplingPolicy:
    """Acts with samples of the actor's distribution (see ``unilab.run.acting.ActingPolicy``).

    Actions are recorded as they were drawn, with their log probabilities. The environments get them within their
    bounds. The actor is on ``device``.

    Args:
        renew: called before each step; gives the actor newer weights if there are any, and says whether it did.
    """

    def __init__(self, actor: Actor, env: VecEnv, device: str, renew: Callable[[], bool] = lambda: False) -> None:
        self._actor = actor
        self._device = device
        self._renew = renew
        self._low, self._high = env.action_low, env.action_high
        self._clipped = np.empty((env.num_envs, env.action_dim), np.float32)

    def begin(self, steps: int, made: int, generator: torch.Generator) -> None:
        """Draw the noise of all steps; with the deviations it says the log probabilities of a Gaussian."""
        self._step = 0
        if self._actor.log_std is not None:
            self._noise = torch.randn(steps, *self._clipped.shape, generator=generator, device=self._device)
            self._weigh_noise(self._actor.log_std)

    def _weigh_noise(self, log_std: Tensor) -> None:
        policy = DiagonalGaussian(torch.zeros((), device=self._device), log_std)
        self._log_probs = policy.log_prob_of_noise(self._noise).cpu().numpy()

    def act(self, obs: FloatArray, generator: torch.Generator) -> tuple[FloatArray, dict[str, np.ndarray]]:
        log_std = self._actor.log_std
        if self._renew() and log_std is not None:
            self._weigh_noise(log_std)
        policy = self._actor(torch.from_numpy(obs).to(self._device))
        if log_std is None:
            drawn, drawn_log_probs = policy.sample_with_log_prob(policy.noise(generator))
            log_probs = drawn_log_probs.cpu().numpy()
        else:
            drawn, log_probs = policy.sample(self._noise[self._step]), self._log_probs[self._step]
        self._step += 1
        actions = drawn.cpu().numpy()
        np.clip(actions, self._low, self._high, out=self._clipped)
        return self._clipped, {"actions": actions, "log_probs": log_probs}


def build_networks(config: APPOConfig, dims: EnvDims) -> tuple[Actor, Critic]:
    """The actor and critic that ``config`` describes, on the CPU. Raises as they do.

    Where both see the same they have one normalizer.
    """
    actor, critic = Actor(config, dims), Critic(config, dims)
    if not dims.critic:
        critic.normalizer = actor.normalizer
    return actor, critic

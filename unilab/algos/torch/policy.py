"""A trained policy, to act with."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from unilab.algos.torch.appo.actor_critic import Actor
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.networks.policies import BoundedActor, build_actor
from unilab.envs import VecEnv, make
from unilab.envs.unit_actions import action_scale
from unilab.envs.vec_env import FloatArray
from unilab.run.checkpoint import CheckpointError, load_checkpoint
from unilab.settings import SettingsError, parse

Config = APPOConfig | OffPolicyConfig


class Mode(nn.Module):
    """Actions [N, A] without noise, within the environment's bounds, for observations [N, O], which it normalizes.

    ``weights`` are the state dict of an actor that was trained with ``config``; sizes and bounds are those of ``env``.
    """

    low: Tensor
    high: Tensor
    half_range: Tensor
    middle: Tensor

    def __init__(self, config: Config, weights: Mapping[str, Any], env: VecEnv) -> None:
        super().__init__()
        self.actor: Actor | BoundedActor
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are replaced
            if isinstance(config, APPOConfig):
                self.actor = Actor(config, env.dims)
                bounds = {"low": env.action_low, "high": env.action_high}
            else:
                self.actor = build_actor(config, env.obs_dim, env.action_dim)
                bounds = dict(zip(("half_range", "middle"), action_scale(env), strict=True))
        self.actor.load_state_dict(weights)
        for name, values in bounds.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, obs: Tensor) -> Tensor:
        if isinstance(self.actor, Actor):
            return torch.clamp(self.actor(obs).mode, self.low, self.high)
        return self.middle + self.half_range * self.actor.mode(obs)


class Policy:
    """Acts as a trained policy does, without noise, on the CPU: ``policy(obs)``.

    Observations are those of the environment: they are normalized here as training did. Actions are within the
    environment's bounds. ``mode`` is the network that computes them. Arguments are those of ``Mode``.
    """

    def __init__(self, config: Config, weights: Mapping[str, Any], env: VecEnv) -> None:
        self.config = config
        self.obs_dim, self.action_dim, self.num_actions = env.obs_dim, env.action_dim, env.num_actions
        self.action_low, self.action_high = env.action_low.copy(), env.action_high.copy()
        self.mode = Mode(config, weights, env).eval()

    @torch.no_grad()
    def __call__(self, obs: ArrayLike) -> FloatArray:
        """Actions [N, A] for observations [N, O]; [N, 1] indices where actions are discrete.

        Raises:
            ValueError: observations of another shape.
        """
        rows = np.asarray(obs, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.obs_dim:
            wanted = f"[N, {self.obs_dim}]"
            raise ValueError(f"expected observations {wanted}, got {list(rows.shape)}; obs[None] makes a row of one")
        actions: FloatArray = self.mode(torch.from_numpy(rows)).numpy()
        return actions


def load_policy(checkpoint: str | Path) -> Policy:
    """The policy of a checkpoint, which the ``learn`` of any runner of this package wrote, or of a folder with one.

    Raises:
        CheckpointError: it cannot be read, or its environment cannot be made here.
    """
    with restored(checkpoint, 1, num_threads=1) as (policy, _, _):
        return policy


@contextmanager
def restored(
    checkpoint: str | Path, num_envs: int, seed: int | None = None, num_threads: int | None = None
) -> Iterator[tuple[Policy, VecEnv, dict[str, Any]]]:
    """The policy of a checkpoint, environments as it was trained in, and the content. Raises as ``load_policy``.

    The environments are those of the end of a training: a curriculum is over.
    """
    path = Path(checkpoint)
    saved = load_checkpoint(path, ("trainer", "config", "learner", "progress"))
    trainer = saved["trainer"]
    configs: dict[str, type[Config]] = {"appo": APPOConfig, **CONFIGS}
    if trainer not in configs:
        raise CheckpointError(f"{path}: saved by '{trainer}'; only {', '.join(configs)} can be evaluated")
    try:
        config = parse(configs[trainer], saved["config"])
    except SettingsError as error:
        raise CheckpointError(f"{path}: saved with settings that this version does not know: {error}") from error
    try:
        env = make(config.env, num_envs, config.sim_backend, config.env_cfg, seed, num_threads)
    except ValueError as error:
        raise CheckpointError(f"{path}: the environment that it was trained in cannot be made: {error}") from error
    with env:
        env.steps_before = math.inf
        try:
            policy = Policy(config, saved["learner"]["actor"], env)
        except (KeyError, RuntimeError, SettingsError) as error:
            raise CheckpointError(
                f"{path}: its policy does not fit '{config.env}' as it is here ({type(error).__name__}: {error})"
            ) from error
        yield policy, env, saved

"""A trained policy, to act with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from unilab.algos.torch.appo.actor_critic import Actor
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.networks.policies import build_actor
from unilab.envs import VecEnv, make
from unilab.envs.unit_actions import action_scale
from unilab.run.checkpoint import CheckpointError, load_checkpoint
from unilab.settings import SettingsError, parse

FloatArray = NDArray[np.float32]
Config = APPOConfig | OffPolicyConfig


class Policy:
    """Acts as a trained policy does, without noise, on the CPU: ``policy(obs)``.

    Observations are those of the environment: they are normalized here as training did. Actions are within the
    environment's bounds.

    Args:
        config: that it was trained with.
        weights: of the actor, its state dict.
        env: whose sizes and bounds it takes.
    """

    def __init__(self, config: Config, weights: Mapping[str, Any], env: VecEnv) -> None:
        self.config = config
        self.obs_dim, self.action_dim = env.obs_dim, env.action_dim
        self.action_low, self.action_high = env.action_low.copy(), env.action_high.copy()
        self._mode: Callable[[Tensor], Tensor]
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are replaced
            if isinstance(config, APPOConfig):
                sampling = Actor(config, env.dims)
                sampling.load_state_dict(weights)
                self._mode = lambda obs: sampling(obs).mode
            else:
                self._scale = action_scale(env)
                squashed = build_actor(config, env.obs_dim, env.action_dim)
                squashed.load_state_dict(weights)
                self._mode = squashed.mode

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
        actions = self._mode(torch.from_numpy(rows)).numpy()
        if isinstance(self.config, APPOConfig):
            return np.clip(actions, self.action_low, self.action_high)
        half_range, middle = self._scale
        return middle + half_range * actions


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
    """The policy of a checkpoint, environments as it was trained in, and the content. Raises as ``load_policy``."""
    path = Path(checkpoint)
    saved = load_checkpoint(path, ("config", "learner", "progress"))
    trainer = saved.get("trainer", "appo")  # early checkpoints, all of APPO, do not say
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
        try:
            policy = Policy(config, saved["learner"]["actor"], env)
        except (KeyError, RuntimeError, SettingsError) as error:
            raise CheckpointError(
                f"{path}: its policy does not fit '{config.env}' as it is here ({type(error).__name__}: {error})"
            ) from error
        yield policy, env, saved

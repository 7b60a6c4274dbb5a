"""Returns of a trained policy, acting without noise."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.worker import build_networks
from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.networks import build_actor
from unilab.envs import VecEnv, make
from unilab.training.checkpoint import CheckpointError, load_checkpoint
from unilab.training.seeding import derive_seed
from unilab.training.settings import parse

FloatArray = NDArray[np.float32]
Policy = Callable[[FloatArray], FloatArray]
"""observations [N, O] to actions [N, A] within the environment's bounds"""


@torch.no_grad()
def evaluate(checkpoint: str | Path, episodes: int = 16, seed: int = 0, num_envs: int | None = None) -> dict[str, Any]:
    """Play whole episodes with the actions that a checkpoint's policy takes without noise.

    Every environment plays the same number of episodes, so that short episodes are not over-represented.

    Args:
        checkpoint: written by the ``learn`` of any runner of this package.
        episodes: at least this many are played.
        seed: of the environments.
        num_envs: environments stepped together; None: one an episode, 64 at most.

    Returns:
        trainer, env, iteration, env_steps (of training), episodes, return_mean, return_std, return_min, return_max,
        length_mean.

    Raises:
        CheckpointError: the file cannot be read, or is of a trainer that is not known here.
        ValueError: ``episodes`` is below 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    saved = load_checkpoint(Path(checkpoint))
    trainer = saved.get("trainer", "appo")  # early checkpoints, all of APPO, do not say
    configs: dict[str, type[APPOConfig | OffPolicyConfig]] = {"appo": APPOConfig, **CONFIGS}
    if trainer not in configs:
        raise CheckpointError(f"{checkpoint}: saved by '{trainer}'; only {', '.join(configs)} can be evaluated")
    config = parse(configs[trainer], saved["config"])
    num_envs = min(episodes, 64) if num_envs is None else num_envs
    seed = derive_seed(seed, "evaluation")
    with make(config.env, num_envs, config.sim_backend, config.env_cfg, seed) as env:
        returns, lengths = _play(env, _policy(config, env, saved["learner"]["actor"]), seed, -(-episodes // num_envs))
    return {
        "trainer": trainer,
        "env": config.env,
        "iteration": saved["progress"]["iteration"],
        "env_steps": saved["progress"]["env_steps"],
        "episodes": len(returns),
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": float(np.min(returns)),
        "return_max": float(np.max(returns)),
        "length_mean": float(np.mean(lengths)),
    }


def _policy(config: APPOConfig | OffPolicyConfig, env: VecEnv, weights: Mapping[str, Any]) -> Policy:
    """The saved policy, on the CPU."""
    if isinstance(config, APPOConfig):
        gaussian, _ = build_networks(config, env.obs_dim, env.action_dim, env.critic_dim)
        gaussian.load_state_dict(weights)
        return lambda obs: np.clip(gaussian(torch.from_numpy(obs)).numpy(), env.action_low, env.action_high)
    actor = build_actor(config, env.obs_dim, env.action_dim)
    actor.load_state_dict(weights)
    half_range, middle = (env.action_high - env.action_low) / 2, (env.action_high + env.action_low) / 2
    return lambda obs: middle + half_range * actor.mode(torch.from_numpy(obs)).numpy()


def _play(env: VecEnv, policy: Policy, seed: int, wanted: int) -> tuple[list[float], list[int]]:
    """Returns and lengths of the first ``wanted`` episodes of each environment."""
    returns: list[float] = []
    lengths: list[int] = []
    played = np.zeros(env.num_envs, dtype=np.int64)
    running, steps = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.int64)
    obs, _ = env.reset(seed)
    while played.min() < wanted:
        result = env.step(policy(obs))
        running += result.reward
        steps += 1
        for row in result.final_ids:
            if played[row] < wanted:
                returns.append(float(running[row]))
                lengths.append(int(steps[row]))
            played[row] += 1
            running[row] = 0
            steps[row] = 0
        obs = result.obs
    return returns, lengths

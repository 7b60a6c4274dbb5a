"""Returns of a trained policy, acting without noise."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.worker import build_networks
from unilab.envs import make
from unilab.training.checkpoint import load_checkpoint
from unilab.training.seeding import derive_seed
from unilab.training.settings import parse


@torch.no_grad()
def evaluate(checkpoint: str | Path, episodes: int = 16, seed: int = 0, num_envs: int | None = None) -> dict[str, Any]:
    """Play whole episodes with the mean action of a checkpoint's policy.

    Every environment plays the same number of episodes, so that short episodes are not over-represented.

    Args:
        checkpoint: written by ``APPORunner.learn``.
        episodes: at least this many are played.
        seed: of the environments.
        num_envs: environments stepped together; None: one an episode, 64 at most.

    Returns:
        env, iteration, env_steps (of training), episodes, return_mean, return_std, return_min, return_max,
        length_mean.

    Raises:
        CheckpointError: the file cannot be read.
        ValueError: ``episodes`` is below 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    saved = load_checkpoint(Path(checkpoint))
    config = dataclasses.replace(parse(APPOConfig, saved["config"]), collector_device="cpu")
    num_envs = min(episodes, 64) if num_envs is None else num_envs
    wanted = -(-episodes // num_envs)
    returns: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[int] = []
    with make(config.env, num_envs, config.sim_backend, config.env_cfg, derive_seed(seed, "evaluation")) as env:
        actor, _ = build_networks(config, env.obs_dim, env.action_dim, env.critic_dim)
        actor.load_state_dict(saved["learner"]["actor"])
        obs, _ = env.reset(derive_seed(seed, "evaluation"))
        running = np.zeros(num_envs)
        steps = np.zeros(num_envs, dtype=np.int64)
        while min(map(len, returns)) < wanted:
            actions = actor(torch.from_numpy(obs)).numpy()
            result = env.step(np.clip(actions, env.action_low, env.action_high))
            running += result.reward
            steps += 1
            for row in result.final_ids:
                if len(returns[row]) < wanted:
                    returns[row].append(float(running[row]))
                    lengths.append(int(steps[row]))
                running[row] = 0
                steps[row] = 0
            obs = result.obs
    played = np.concatenate(returns)
    return {
        "env": config.env,
        "iteration": saved["progress"]["iteration"],
        "env_steps": saved["progress"]["env_steps"],
        "episodes": len(played),
        "return_mean": float(played.mean()),
        "return_std": float(played.std()),
        "return_min": float(played.min()),
        "return_max": float(played.max()),
        "length_mean": float(np.mean(lengths)),
    }

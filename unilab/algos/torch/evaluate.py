"""Returns of a trained policy, acting without noise."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unilab.algos.torch.policy import Config, Policy, restored
from unilab.envs import VecEnv, make
from unilab.envs.vec_env import FloatArray
from unilab.run.acting import EpisodeCounter
from unilab.run.loop import trainer_name
from unilab.run.seeding import derive_seed

MOST_ENVS = 64
"""environments stepped together, unless more are asked for"""
OnStep = Callable[[int, Sequence[float]], None]
"""called after each step of all environments, with the number of steps and the returns so far; what it raises ends the
evaluation"""
Watch = Callable[[VecEnv], None]
"""called with the environments after the reset and after each step, to look at them; likewise"""


def evaluate(
    checkpoint: str | Path,
    episodes: int = 16,
    seed: int = 0,
    num_envs: int | None = None,
    *,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Play whole episodes with the actions that a checkpoint's policy takes without noise.

    Every environment plays the same number of episodes, so that short episodes are not over-represented.

    Args:
        checkpoint: written by the ``learn`` of any runner of this package, or the folder with it.
        episodes: at least this many are played.
        seed: of the environments.
        num_envs: environments stepped together; None: one an episode, 64 at most.
        on_step: see ``OnStep``.
        watch: such as ``unilab.envs.rendering.video.Video``.

    Returns:
        trainer, env, iteration, env_steps (of training), episodes, return_mean, return_std, return_min, return_max,
        length_mean, and what the task itself says (``VecEnv.judge``).

    Raises:
        CheckpointError: the file cannot be read, or is of a trainer or an environment that is not known here.
        ValueError: ``episodes`` is below 1, or ``seed`` below 0.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    num_envs = min(episodes, MOST_ENVS) if num_envs is None else num_envs
    seed = derive_seed(seed, "evaluation")
    with restored(checkpoint, num_envs, seed) as (policy, env, saved):
        returns, lengths = play(env, policy, seed, -(-episodes // num_envs), on_step, watch)
        judged = env.judge(policy, episodes, seed)
    return {
        "trainer": trainer_name(policy.config),
        "env": policy.config.env,
        "iteration": saved["progress"]["iteration"],
        "env_steps": saved["progress"]["env_steps"],
        "episodes": len(returns),
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "return_min": float(np.min(returns)),
        "return_max": float(np.max(returns)),
        "length_mean": float(np.mean(lengths)),
        **judged,
    }


def judge_checkpoint(checkpoint: str | Path, episodes: int, seed: int = 0) -> tuple[float, dict[str, float]]:
    """Seconds that a checkpoint's policy was trained for, and what the task says of it (``VecEnv.judge``).

    Raises:
        CheckpointError: as ``evaluate``.
    """
    seed = derive_seed(seed, "evaluation")
    with restored(checkpoint, 1, seed) as (policy, env, saved):
        return float(saved["progress"]["wall_seconds"]), env.judge(policy, episodes, seed)


def mean_return(config: Config, weights: Mapping[str, Any], check: Callable[[], None]) -> float:
    """Mean return of ``eval_episodes`` whole episodes, played without noise and from the same starts each time.

    ``weights`` are those of the actor; ``check`` is called after each step and may raise.
    """
    num_envs = min(config.eval_episodes, MOST_ENVS)
    seed = derive_seed(config.seed, "evaluation")
    with make(config.env, num_envs, config.sim_backend, config.env_cfg, seed, config.env_threads) as env:
        env.steps_before = math.inf
        policy = Policy(config, weights, env)
        returns, _ = play(env, policy, seed, -(-config.eval_episodes // num_envs), lambda steps, so_far: check())
    return float(np.mean(returns))


def play(
    env: VecEnv,
    policy: Callable[[FloatArray], FloatArray],
    seed: int,
    wanted: int,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
) -> tuple[list[float], list[int]]:
    """Returns and lengths of the first ``wanted`` episodes of each environment, which are reset with ``seed`` first.

    ``policy`` gives actions [N, A] for observations [N, O].
    """
    returns: list[float] = []
    lengths: list[int] = []
    played, counter = np.zeros(env.num_envs, dtype=np.int64), EpisodeCounter(env.num_envs)
    obs, _ = env.reset(seed)
    made = 0
    if watch is not None:
        watch(env)
    while played.min() < wanted:
        result = env.step(policy(obs))
        for row, (total, length) in zip(result.final_ids, counter.step(result.reward, result.final_ids), strict=True):
            if played[row] < wanted:
                returns.append(float(total))
                lengths.append(int(length))
            played[row] += 1
        obs = result.obs
        made += env.num_envs
        if on_step is not None:
            on_step(made, returns)
        if watch is not None:
            watch(env)
    return returns, lengths

"""Tries an environment before anything is built on it: makes a few steps and names the mistakes of its code.

These are the usual mistakes in a first environment of one's own: an observation of another shape, a function that
returns nothing, and so on.
"""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unilab.envs.autoreset import AutoresetVecEnv
from unilab.envs.registry import make
from unilab.envs.vec_env import EnvironmentMistake, StepResult, VecEnv
from unilab.settings import SettingsError

ROWS = 2
STEPS = 8
UNTIL_AN_END = 200
"""steps after which an episode of an environment without a time limit should have ended"""


@dataclass
class Findings:
    """What was found, each in a sentence."""

    problems: list[str] = field(default_factory=list)
    """mistakes; with one of them nothing can be trained"""
    notes: list[str] = field(default_factory=list)
    """what may be intended"""
    sizes: str = ""
    """of the environment, in words"""
    setting: str = ""
    """of the environment, that a problem is about"""


def check(name: str, env_cfg: Mapping[str, Any] | None = None, sim_backend: str = "mujoco") -> Findings:
    """Make two of the environment, reset and step them with random actions, and tell what is wrong."""
    findings = Findings()
    try:
        with make(name, ROWS, sim_backend, env_cfg, seed=0, num_threads=1) as env:
            limit = "no time limit" if env.max_episode_steps is None else f"{env.max_episode_steps} steps at most"
            action = f"{env.num_actions} discrete actions" if env.num_actions else f"action [{env.action_dim}]"
            findings.sizes = f"observation [{env.obs_dim}], {action}, {limit}"
            findings.problems += steps_problems(env, STEPS)
            if findings.problems:
                return findings
            if isinstance(env, AutoresetVecEnv):
                env._begin(np.array([ROWS - 1]))  # one row alone, as in a training
            if env.max_episode_steps is None and not any(
                env.step(actions).final_ids.size for actions in random_actions(env, UNTIL_AN_END)
            ):
                findings.notes.append(
                    f"it has no time limit, and no episode ended within {UNTIL_AN_END} steps: returns are those of "
                    "finished episodes, so they may never come; set one with env_cfg: {max_episode_steps: 1000}"
                )
    except (EnvironmentMistake, SettingsError) as error:
        findings.problems.append(str(error))
        findings.setting = getattr(error, "key", "")
    except Exception as error:  # noqa: BLE001 its author wants to know whatever its code raises
        package = Path(__file__).parents[1]
        for place in reversed(traceback.extract_tb(error.__traceback__)):
            is_installed = package in Path(place.filename).parents or "site-packages" in place.filename
            if not (is_installed or place.filename.startswith("<")):
                where = f"{place.filename}:{place.lineno}, in {place.name}"
                findings.problems.append(f"{type(error).__name__}: {error} ({where})")
                return findings
        findings.problems.append(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")
    return findings


def steps_problems(env: VecEnv, steps: int) -> list[str]:
    """What a reset and some steps return that the contract of ``VecEnv`` does not allow."""
    problems: list[str] = []
    n, o, c, floats = env.num_envs, env.obs_dim, env.critic_dim, np.float32

    def expect(what: str, value: Any, shape: tuple[int, ...], dtype: Any = floats) -> None:
        if not c and what.endswith("critic"):
            if value is not None:
                problems.append(f"{what} is there, but critic_dim is 0")
        elif not (isinstance(value, np.ndarray) and value.shape == shape and value.dtype == dtype):
            got = f"shape {value.shape} and type {value.dtype}" if isinstance(value, np.ndarray) else f"{value!r:.60}"
            problems.append(f"{what} has {got}; expected shape {shape} and type {np.dtype(dtype)}")

    expect("action_low", env.action_low, (env.action_dim,))
    expect("action_high", env.action_high, (env.action_dim,))
    obs, critic = env.reset()
    expect("reset(): obs", obs, (n, o))
    expect("reset(): critic", critic, (n, c))
    for actions in random_actions(env, steps):
        if problems:
            break
        result = env.step(actions)
        if not isinstance(result, StepResult):
            return [f"step() returned {type(result).__name__}; expected a StepResult"]
        ended = result.final_ids.size
        expect("step(): obs", result.obs, (n, o))
        expect("step(): reward", result.reward, (n,))
        expect("step(): terminated", result.terminated, (n,), np.bool_)
        expect("step(): truncated", result.truncated, (n,), np.bool_)
        expect("step(): final_ids", result.final_ids, (ended,), np.int64)
        expect("step(): final_obs", result.final_obs, (ended, o))
        expect("step(): critic", result.critic, (n, c))
        expect("step(): final_critic", result.final_critic, (ended, c))
        problems += [f"step(): {fault.message}" for fault in result.faults]
        if not problems and not np.array_equal(result.final_ids, np.flatnonzero(result.terminated | result.truncated)):
            problems.append("step(): final_ids are not the rows that are terminated or truncated")
    return list(dict.fromkeys(problems))


def random_actions(env: VecEnv, steps: int, seed: int = 7) -> np.ndarray:
    """[steps, N, A] float32 within the action bounds (-1 .. 1 where there are none)."""
    rng = np.random.default_rng(seed)
    if env.num_actions:
        return rng.integers(0, env.num_actions, (steps, env.num_envs, 1)).astype(np.float32)
    low = np.where(np.isfinite(env.action_low), env.action_low, -1)
    high = np.where(np.isfinite(env.action_high), env.action_high, 1)
    return rng.uniform(low, high, (steps, env.num_envs, env.action_dim)).astype(np.float32)

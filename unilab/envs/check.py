"""Tries an environment before anything is built on it: a few steps, and what its own code does not as it should.

The mistakes of a first own environment are found here, where they can be told in words: an observation of another
shape, a function that returns nothing, and so on.
"""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
    """what may be meant so"""
    sizes: str = ""
    """of the environment, in words"""

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)


def check(name: str, env_cfg: Mapping[str, Any] | None = None, sim_backend: str = "mujoco") -> Findings:
    """Make two of the environment, reset and step them with random actions, and tell what is wrong."""
    findings = Findings()
    try:
        with make(name, ROWS, sim_backend, env_cfg, seed=0, num_threads=1) as env:
            limit = "no time limit" if env.max_episode_steps is None else f"{env.max_episode_steps} steps at most"
            action = f"{env.num_actions} discrete actions" if env.num_actions else f"action [{env.action_dim}]"
            findings.sizes = f"observation [{env.obs_dim}], {action}, {limit}"
            for problem in steps_problems(env, STEPS):
                findings.problem(problem)
            if not findings.problems:
                _try_partial_reset(env)
            if not findings.problems and env.max_episode_steps is None:
                _note_endless(env, findings)
    except (EnvironmentMistake, SettingsError) as error:
        findings.problem(str(error))
    except Exception as error:  # noqa: BLE001 whatever its code raises is what its author wants to know
        findings.problem(_told(error))
    return findings


def steps_problems(env: VecEnv, steps: int) -> list[str]:
    """What a reset and some steps return that the contract of ``VecEnv`` does not allow."""
    problems = []
    n, o, c = env.num_envs, env.obs_dim, env.critic_dim
    for name in ("action_low", "action_high"):
        problems += _array(name, getattr(env, name), (env.action_dim,), np.float32)
    obs, critic = env.reset()
    problems += _array("reset(): obs", obs, (n, o), np.float32)
    problems += _critic("reset(): critic", critic, n, c)
    for actions in random_actions(env, steps):
        if problems:
            break
        result = env.step(actions)
        if not isinstance(result, StepResult):
            return [f"step() returned {type(result).__name__}; expected a StepResult"]
        ended = result.final_ids.size
        for field_name, shape, dtype in (
            ("obs", (n, o), np.float32), ("reward", (n,), np.float32), ("terminated", (n,), np.bool_),
            ("truncated", (n,), np.bool_), ("final_ids", (ended,), np.int64), ("final_obs", (ended, o), np.float32),
        ):  # fmt: skip
            problems += _array(f"step(): {field_name}", getattr(result, field_name), shape, dtype)
        problems += _critic("step(): critic", result.critic, n, c)
        problems += _critic("step(): final_critic", result.final_critic, ended, c)
        problems += [f"step(): {fault.message}" for fault in result.faults]
        if not problems and not np.array_equal(result.final_ids, np.flatnonzero(result.terminated | result.truncated)):
            problems.append("step(): final_ids are not the rows that are terminated or truncated")
    return list(dict.fromkeys(problems))


def random_actions(env: VecEnv, steps: int, seed: int = 7) -> np.ndarray:
    """[steps, N, A] float32 within the action bounds (-1 .. 1 where there are none)."""
    low = np.where(np.isfinite(env.action_low), env.action_low, -1)
    high = np.where(np.isfinite(env.action_high), env.action_high, 1)
    if env.num_actions:
        return np.random.default_rng(seed).integers(0, env.num_actions, (steps, env.num_envs, 1)).astype(np.float32)
    sample = np.random.default_rng(seed).uniform(low, high, (steps, env.num_envs, env.action_dim))
    return sample.astype(np.float32)


def _array(what: str, value: Any, shape: tuple[int, ...], dtype: Any) -> list[str]:
    if isinstance(value, np.ndarray) and value.shape == shape and value.dtype == dtype:
        return []
    got = f"shape {value.shape} and type {value.dtype}" if isinstance(value, np.ndarray) else f"{value!r:.60}"
    return [f"{what} has {got}; expected shape {shape} and type {np.dtype(dtype)}"]


def _critic(what: str, value: Any, rows: int, size: int) -> list[str]:
    if size:
        return _array(what, value, (rows, size), np.float32)
    return [] if value is None else [f"{what} is there, but critic_dim is 0"]


def _note_endless(env: VecEnv, findings: Findings) -> None:
    for actions in random_actions(env, UNTIL_AN_END):
        if env.step(actions).final_ids.size:
            return
    findings.notes.append(
        f"it has no time limit, and no episode ended within {UNTIL_AN_END} steps: returns are those of finished "
        "episodes, so they may never come; set one with env_cfg: {max_episode_steps: 1000}"
    )


def _try_partial_reset(env: VecEnv) -> None:
    """One row alone begins anew, as it will in a training."""
    from unilab.envs.autoreset import AutoresetVecEnv

    if isinstance(env, AutoresetVecEnv):
        env._begin(np.array([ROWS - 1]))


def _told(error: Exception) -> str:
    """What was raised, and where in the environment's own code."""
    own = [one for one in traceback.extract_tb(error.__traceback__) if _is_users(one.filename)]
    if own:
        return f"{type(error).__name__}: {error} ({own[-1].filename}:{own[-1].lineno}, in {own[-1].name})"
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _is_users(file: str) -> bool:
    parents = Path(file).parents
    return not file.startswith("<") and Path(__file__).parents[1] not in parents and "site-packages" not in file

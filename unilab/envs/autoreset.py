"""The episodes of a batched environment: buffers, time limit, final observations, automatic reset, faults.

A subclass says how all rows advance (``_advance``) and how some of them begin anew (``_begin``); what happens
around that is the same for every environment and is here.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unilab.envs.vec_env import EnvironmentMistake, FloatArray, SimulationFault, StepResult, VecEnv, describe
from unilab.settings import SettingsError

Failures = dict[int, tuple[str, str]]
"""row -> (field, what was wrong with it)"""


class AutoresetVecEnv(VecEnv):
    """``VecEnv`` with preallocated buffers and same-step automatic reset."""

    def __init__(
        self,
        num_envs: int,
        *,
        action_low: np.ndarray,
        action_high: np.ndarray,
        max_episode_steps: int | None,
        num_threads: int,
        seed: int | None,
    ) -> None:
        """``action_low`` and ``action_high`` are [A]. A subclass then calls ``_allocate``."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.action_low = np.asarray(action_low, dtype=np.float32)
        self.action_high = np.asarray(action_high, dtype=np.float32)
        self.action_dim = self.action_low.size
        self.max_episode_steps = max_episode_steps
        self.num_threads = num_threads
        self.elapsed_steps = np.zeros(num_envs, dtype=np.int64)
        self.rng = np.random.default_rng(seed)
        """all randomness of the environments comes from it"""
        self.steps_made = 0
        """env steps of each row"""
        self._ready = self._closed = False
        self._reward = np.zeros(num_envs, dtype=np.float32)
        self._terminated, self._truncated, self._ended = np.zeros((3, num_envs), dtype=bool)

    def _allocate(self, obs_dim: int, critic_dim: int) -> None:
        """Make the buffers of observations of these widths."""
        self.obs_dim, self.critic_dim, num_envs = obs_dim, critic_dim, self.num_envs
        # The observation before the step outlives it: it is the final one of a row whose simulation fails.
        self._obs, self._previous_obs = np.zeros((2, num_envs, obs_dim), dtype=np.float32)
        self._critic, self._previous_critic = np.zeros((2, num_envs, critic_dim), dtype=np.float32)
        self._final_obs = np.zeros((num_envs, obs_dim), dtype=np.float32)
        self._final_critic = np.zeros((num_envs, critic_dim), dtype=np.float32)

    # What a subclass provides.

    @abstractmethod
    def _advance(self, actions: FloatArray) -> Failures:
        """Step every row: write ``_obs``, ``_critic``, ``_reward``, ``_terminated``, ``_truncated``. Return failures.

        ``_truncated`` comes in all False and need not be written: the time limit is added to it.
        """

    @abstractmethod
    def _begin(self, ids: NDArray[np.int64]) -> None:
        """Start new episodes in the rows ``ids`` (ascending): write their rows of ``_obs`` and ``_critic``."""

    def _state_before(self, row: int) -> np.ndarray:
        """[S] the state of a row before the last ``_advance``, with its action."""
        return np.zeros(0)

    def _state(self) -> dict[str, Any]:
        """What ``state_dict`` holds beside the common part."""
        return {}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``_state`` gave."""

    # The contract.

    @property
    def steps_trained(self) -> float:
        """Env steps of each row since training began, for a curriculum; infinity after it."""
        return self.steps_before + self.steps_made

    @property
    def obs(self) -> FloatArray:
        return self._obs

    @property
    def critic(self) -> FloatArray | None:
        return self._critic if self.critic_dim else None

    def reset(self, seed: int | None = None) -> tuple[FloatArray, FloatArray | None]:
        self._check_open()
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.elapsed_steps.fill(0)
        self._begin(np.arange(self.num_envs))
        self._ready = True
        return self._obs, self.critic

    def stagger(self) -> None:
        self._check_ready("stagger")
        if self.max_episode_steps is not None:
            self.elapsed_steps[:] = np.arange(self.num_envs) * self.max_episode_steps // self.num_envs

    def step(self, actions: FloatArray) -> StepResult:
        self._check_ready("step")
        actions = np.asarray(actions, dtype=np.float32)
        if actions.shape != (self.num_envs, self.action_dim):
            expected = f"[{self.num_envs}, {self.action_dim}] (environments, action)"
            raise ValueError(f"{self._name}: actions must have shape {expected}, got {list(actions.shape)}")
        self._obs, self._previous_obs = self._previous_obs, self._obs
        self._critic, self._previous_critic = self._previous_critic, self._critic
        self._truncated.fill(False)
        self.steps_made += 1
        # Rows that blow up overflow on their way; they are found here and end as faults. What is nearest to the cause
        # names the fault. A sum is one cheap pass and is not finite if any term is not; the second look decides.
        with np.errstate(over="ignore", invalid="ignore"):
            failures = self._advance(actions)
            if not np.isfinite(self._obs.sum() + self._critic.sum() + self._reward.sum()):
                given = {"observation": self._obs, "critic": self._critic, "reward": self._reward[:, None]}
                for field, values in given.items():
                    for row, column in np.argwhere(~np.isfinite(values)).tolist():
                        failures.setdefault(row, (field, f"{values[row, column]} at index {column}"))
            if not np.isfinite(actions.sum()):
                for row in np.flatnonzero(~np.isfinite(actions).all(axis=1)).tolist():
                    failures[row] = ("action", f"{actions[row].tolist()} is not finite")
        self.elapsed_steps += 1
        if self.max_episode_steps is not None:
            self._truncated |= self.elapsed_steps >= self.max_episode_steps
        faults = []
        for row, (field, problem) in sorted(failures.items()):
            message = f"{self._name} environment {row}, env step {self.steps_made}: {field}: {problem}"
            faults.append(SimulationFault(row, self.steps_made, field, message, self._state_before(row)))
            self._obs[row], self._critic[row] = self._previous_obs[row], self._previous_critic[row]
            self._reward[row], self._terminated[row], self._truncated[row] = 0, True, False
        np.logical_or(self._terminated, self._truncated, out=self._ended)
        ids = self._ended.nonzero()[0]
        final_obs, final_critic = self._final_obs[: ids.size], self._final_critic[: ids.size]
        if ids.size:
            # mode="clip" lets numpy write straight into out; the ids are in range
            np.take(self._obs, ids, axis=0, out=final_obs, mode="clip")
            np.take(self._critic, ids, axis=0, out=final_critic, mode="clip")
            self.elapsed_steps[ids] = 0
            self._begin(ids)
        return StepResult(
            self._obs, self._reward, self._terminated, self._truncated, ids, final_obs,
            self.critic, final_critic if self.critic_dim else None, tuple(faults),
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        self._check_open()
        return {
            "kind": self._kind,
            "env_steps": self.steps_made,
            "elapsed_steps": self.elapsed_steps.copy(),
            "obs": self._obs.copy(),
            "critic": self._critic.copy(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "own": self._state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._check_open()
        if state["kind"] != self._kind:
            problem = f"the state is of {state['kind']}, this environment is {self._kind}; make the same one"
            raise SettingsError("env", problem)
        here, saved = ({name: np.shape(value) for name, value in one.items()} for one in (self._state(), state["own"]))
        if others := sorted(name for name in here | saved if here.get(name) != saved.get(name)):
            problem = f"the state was saved with other settings, or by another version: {', '.join(others)} differ"
            raise SettingsError("env_cfg", f"{problem}; make the environment with those it was saved with")
        self.steps_made = int(state["env_steps"])
        self.elapsed_steps[:] = np.asarray(state["elapsed_steps"])
        self._obs[:] = np.asarray(state["obs"])
        self._critic[:] = np.asarray(state["critic"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self._load_state(state["own"])
        self._ready = True

    def close(self) -> None:
        self._closed = True

    # What errors say.

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def _kind(self) -> str:
        sizes = f"{self.num_envs} environments, observation {self.obs_dim}, critic {self.critic_dim}"
        return f"{self._name}({sizes}, action {self.action_dim})"

    def _mistake(self, method: str, returned: Any, expected: str, what: str = "") -> EnvironmentMistake:
        return EnvironmentMistake(f"{self._name}: {method}() returned {what}{describe(returned)}; expected {expected}")

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self._name} is closed; make a new environment")

    def _check_ready(self, method: str) -> None:
        self._check_open()
        if not self._ready:
            raise RuntimeError(f"{self._name} has no episode yet; call reset() before {method}()")

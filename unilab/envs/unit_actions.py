"""An environment whose actions are in [-1, 1], around one with other bounds."""

from typing import Any

import numpy as np

from unilab.envs.vec_env import EnvDims, FloatArray, StepResult, VecEnv
from unilab.settings import SettingsError


def require_continuous(env: str, dims: EnvDims, trainer: str) -> None:
    """Refuse an environment with discrete actions, for a trainer whose policy has none.

    Raises:
        SettingsError: it has.
    """
    if dims.num_actions:
        raise SettingsError(
            "env",
            f"'{env}' has {dims.num_actions} discrete actions, for which {trainer} has no policy; use appo, or an "
            "environment with continuous actions",
        )


def action_scale(env: VecEnv) -> tuple[np.ndarray, np.ndarray]:
    """Half the range and the middle [A] of the environment's actions.

    Raises:
        ValueError: the actions are not bounded.
    """
    low, high = env.action_low, env.action_high
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(
            f"{type(env).__name__}: actions range from {low.tolist()} to {high.tolist()}; SAC and TD3 need finite "
            "bounds, because they act in [-1, 1] scaled to them: give the environment's actions bounds"
        )
    return (high - low) / 2, (high + low) / 2


class UnitActions(VecEnv):
    """Takes actions in [-1, 1] and scales them to the bounds of ``env``, which it owns.

    Raises:
        ValueError: the actions of ``env`` are not bounded; it is closed.
    """

    def __init__(self, env: VecEnv) -> None:
        try:
            self._half_range, self._middle = action_scale(env)
        except ValueError:
            env.close()
            raise
        self._env = env
        self._scaled = np.zeros((env.num_envs, env.action_dim), np.float32)
        self.num_envs, self.num_threads = env.num_envs, env.num_threads
        self.obs_dim, self.action_dim, self.critic_dim = env.obs_dim, env.action_dim, env.critic_dim
        self.action_low, self.action_high = -np.ones(env.action_dim, np.float32), np.ones(env.action_dim, np.float32)
        self.num_actions = env.num_actions
        self.max_episode_steps = env.max_episode_steps
        self.elapsed_steps, self.exact_resume = env.elapsed_steps, env.exact_resume

    @property
    def obs(self) -> FloatArray:
        return self._env.obs

    @property
    def critic(self) -> FloatArray | None:
        return self._env.critic

    def reset(self, seed: int | None = None) -> tuple[FloatArray, FloatArray | None]:
        return self._env.reset(seed)

    def step(self, actions: FloatArray) -> StepResult:
        if actions.shape != self._scaled.shape:
            return self._env.step(actions)  # which says what is wrong
        np.multiply(actions, self._half_range, out=self._scaled)
        self._scaled += self._middle
        return self._env.step(self._scaled)

    def stagger(self) -> None:
        self._env.stagger()

    def metrics(self) -> dict[str, float]:
        return self._env.metrics()

    def state_dict(self) -> dict[str, Any]:
        return self._env.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._env.load_state_dict(state)

    def close(self) -> None:
        self._env.close()

"""Any gymnasium environment as a batched one: one object a row, stepped in a loop. Slower, but correct."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unilab.envs.autoreset import AutoresetVecEnv, Failures
from unilab.envs.mujoco_log import keep_warnings_out_of_files, quiet
from unilab.envs.registry import Factory
from unilab.envs.vec_env import FloatArray
from unilab.training.settings import SettingsError


class GymnasiumVecEnv(AutoresetVecEnv):
    """N gymnasium environments.

    Observations are flattened as ``gymnasium.spaces.flatten`` does. A box action is passed as it is given; of a
    discrete one each value has a column and the largest is taken. Gymnasium offers no state to save: after
    ``load_state_dict`` every row begins a new episode.
    """

    exact_resume: ClassVar[bool] = False

    def __init__(
        self,
        make_one: Callable[[], gymnasium.Env[Any, Any]],
        num_envs: int,
        *,
        max_episode_steps: int | None,
        seed: int | None = None,
    ) -> None:
        """Make ``num_envs`` environments with ``make_one``, which must apply no time limit of its own.

        Raises:
            ValueError: an observation or action space without a fixed size.
        """
        keep_warnings_out_of_files()  # for the environments that are MuJoCo's
        with quiet():
            self._envs = [make_one() for _ in range(num_envs)]
        if not self._envs:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        first = self._envs[0]
        self._label = first.spec.id if first.spec else type(first.unwrapped).__name__
        for kind, space in (("observation", first.observation_space), ("action", first.action_space)):
            if not space.is_np_flattenable:
                self.close()
                raise ValueError(f"{self._label}: the {kind} space {space} has no fixed size and cannot be batched")
        bounds = spaces.flatten_space(first.action_space)
        super().__init__(
            num_envs,
            obs_dim=spaces.flatdim(first.observation_space),
            action_low=bounds.low,
            action_high=bounds.high,
            critic_dim=0,
            max_episode_steps=max_episode_steps,
            num_threads=1,
            seed=seed,
        )
        self.chooses = _chooses(first.action_space)

    @property
    def _name(self) -> str:
        return self._label

    def _advance(self, actions: FloatArray) -> Failures:
        for row, env in enumerate(self._envs):
            self._terminated[row] = False
            self._reward[row] = 0
            if not np.isfinite(actions[row]).all():
                continue  # ends as a fault; no environment of another's is asked to stand it
            action, _ = unflatten_action(env.action_space, actions[row])
            try:
                obs, reward, terminated, truncated, _ = env.step(action)
            except Exception as error:
                error.add_note(f"{self._label}: environment {row}, env step {self._env_steps}, action {action}")
                raise
            self._obs[row] = spaces.flatten(env.observation_space, obs)
            self._reward[row] = reward
            self._terminated[row], self._truncated[row] = terminated, truncated
        return {}

    def _begin(self, ids: NDArray[np.int64]) -> None:
        for row in ids.tolist():
            env = self._envs[row]
            # A seed at every reset makes the rows' streams a function of ours, which can be saved.
            obs, _ = env.reset(seed=int(self._rng.integers(2**31)))
            self._obs[row] = spaces.flatten(env.observation_space, obs)

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.elapsed_steps.fill(0)
        self._begin(np.arange(self.num_envs))

    def close(self) -> None:
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()
        super().close()


def _chooses(space: spaces.Space[Any]) -> bool:
    """Whether a part of the space takes the largest of several numbers."""
    match space:
        case spaces.Dict():
            return any(map(_chooses, space.spaces.values()))
        case spaces.Tuple():
            return any(map(_chooses, space.spaces))
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete)


def unflatten_action(space: spaces.Space[Any], flat: FloatArray) -> tuple[Any, FloatArray]:
    """An action of ``space`` from the front of ``flat``, and the rest of it."""
    size = spaces.flatdim(space)
    head, rest = flat[:size], flat[size:]
    match space:
        case spaces.Box():
            values = np.rint(head) if np.issubdtype(space.dtype, np.integer) else head
            return values.reshape(space.shape).astype(space.dtype), rest
        case spaces.Discrete():
            return space.start + int(head.argmax()), rest
        case spaces.MultiDiscrete():
            blocks = np.split(head, np.cumsum(space.nvec.ravel())[:-1])
            chosen = np.array([block.argmax() for block in blocks], dtype=space.dtype)
            return chosen.reshape(space.shape) + space.start, rest
        case spaces.MultiBinary():
            return (head > 0).astype(space.dtype).reshape(space.shape), rest
        case spaces.Dict():
            chosen_parts = {}
            for key, part in space.spaces.items():
                chosen_parts[key], flat = unflatten_action(part, flat)
            return chosen_parts, rest
        case spaces.Tuple():
            parts = []
            for part in space.spaces:
                one, flat = unflatten_action(part, flat)
                parts.append(one)
            return tuple(parts), rest
    raise ValueError(f"actions of the space {space} cannot be made from numbers")


def adapter_of_id(env_id: str) -> Factory:
    """A factory for a gymnasium id; its settings are the arguments of ``gymnasium.make``."""
    registered_limit = gymnasium.spec(env_id).max_episode_steps

    def factory(num_envs: int, *, num_threads: int | None, seed: int | None, **cfg: Any) -> GymnasiumVecEnv:
        del num_threads  # the rows are stepped in a loop, on the caller's thread
        limit = cfg.pop("max_episode_steps", registered_limit)
        # The time limit is ours, so that stagger() can shift it.
        make_one = _explained(
            env_id, lambda: gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True, **cfg)
        )
        return GymnasiumVecEnv(make_one, num_envs, max_episode_steps=limit, seed=seed)

    return factory


def adapter_of_class(cls: type) -> Factory:
    """A factory for a ``gymnasium.Env`` class; its settings are the constructor's and ``max_episode_steps``.

    Raises:
        ValueError: the class is no gymnasium environment.
    """
    name = f"{cls.__module__}:{cls.__qualname__}"
    if not issubclass(cls, gymnasium.Env):
        raise ValueError(f"environment '{name}' must be a VecEnv or a gymnasium.Env, or a factory function")

    def factory(num_envs: int, *, num_threads: int | None, seed: int | None, **cfg: Any) -> GymnasiumVecEnv:
        del num_threads
        limit = cfg.pop("max_episode_steps", None)
        return GymnasiumVecEnv(_explained(name, lambda: cls(**cfg)), num_envs, max_episode_steps=limit, seed=seed)

    return factory


def _explained(name: str, make_one: Callable[[], Any]) -> Callable[[], Any]:
    """``make_one`` with a constructor's refusal of its arguments told as an error of the settings."""

    def explained() -> Any:
        try:
            return make_one()
        except TypeError as error:
            raise SettingsError("", f"{name} refused its settings: {error}") from error

    return explained

"""Any gymnasium environment as a batched one: one object a row, stepped in a loop. Slower, but correct."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from unilab.envs.autoreset import AutoresetVecEnv, Failures
from unilab.envs.mujoco_log import keep_warnings_out_of_files, quiet
from unilab.envs.vec_env import EnvironmentMistake, Factory, FloatArray, describe
from unilab.settings import SettingsError

NUMBERS = (float, int, np.floating, np.integer, np.bool_)


class GymnasiumVecEnv(AutoresetVecEnv):
    """N gymnasium environments.

    Observations are flattened as ``gymnasium.spaces.flatten`` does; those of several parts, and images, are refused,
    because the policies here could not tell what is what. Actions are a ``Box``, which gets them as they are given, or
    ``Discrete``, of which the index is given. Gymnasium offers no state to save: after ``load_state_dict`` every row
    begins a new episode.
    """

    exact_resume = False

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
            EnvironmentMistake: a space that is missing or cannot be batched, a ``reset`` that takes no seed.
        """
        keep_warnings_out_of_files()  # for the environments that are MuJoCo's
        with quiet():
            self._envs = [make_one() for _ in range(num_envs)]
        if not self._envs:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        first = self._envs[0]
        self._label = first.spec.id if first.spec else type(first.unwrapped).__name__
        problem = _unusable(first)
        if problem is not None:
            for env in self._envs:
                env.close()
            raise EnvironmentMistake(f"{self._label}: {problem}")
        action_space = first.action_space
        if isinstance(action_space, spaces.Discrete):
            self.num_actions = int(action_space.n)
            action_space = spaces.Box(0, self.num_actions - 1, (1,))
        bounds = spaces.flatten_space(action_space)
        super().__init__(
            num_envs,
            action_low=bounds.low,
            action_high=bounds.high,
            max_episode_steps=max_episode_steps,
            num_threads=1,
            seed=seed,
        )
        self._allocate(spaces.flatdim(first.observation_space), 0)

    @property
    def _name(self) -> str:
        return self._label

    def _advance(self, actions: FloatArray) -> Failures:
        for row, env in enumerate(self._envs):
            self._terminated[row] = False
            self._reward[row] = 0
            if not np.isfinite(actions[row]).all():
                continue  # it ends as a fault; not every environment survives a NaN
            space = env.action_space
            if isinstance(space, spaces.Discrete):
                action = space.start + round(float(actions[row, 0]))
            else:
                given = np.rint(actions[row]) if np.issubdtype(space.dtype, np.integer) else actions[row]
                action = given.astype(space.dtype).reshape(space.shape)  # a copy, which the environment may change
            try:
                returned = env.step(action)
            except Exception as error:
                error.add_note(f"{self._label}: environment {row}, env step {self.steps_made}, action {action}")
                raise
            if not (isinstance(returned, tuple) and len(returned) == 5):
                is_old = isinstance(returned, tuple) and len(returned) == 4
                old = "; this is the interface of gym before 0.26" if is_old else ""
                raise self._mistake("step", returned, f"(observation, reward, terminated, truncated, info){old}")
            obs, reward, terminated, truncated, _ = returned
            self._obs[row] = self._flat("step", obs)
            if not _is_number(reward):
                raise self._mistake("step", reward, "one number", "as the reward ")
            self._reward[row] = reward
            for name, end in (("terminated", terminated), ("truncated", truncated)):
                if not _is_number(end):
                    raise self._mistake("step", end, "True or False", f"as {name} ")
            self._terminated[row], self._truncated[row] = terminated, truncated
        return {}

    def _begin(self, ids: NDArray[np.int64]) -> None:
        for row in ids.tolist():
            env = self._envs[row]
            # A seed at every reset makes the rows' streams a function of ours, which can be saved.
            returned = env.reset(seed=int(self.rng.integers(2**31)))
            if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping)):
                raise self._mistake("reset", returned, "(observation, info), where info is a dict")
            self._obs[row] = self._flat("reset", returned[0])

    def _flat(self, method: str, obs: Any) -> np.ndarray:
        space = self._envs[0].observation_space
        if isinstance(space, spaces.Box):
            is_like = np.shape(obs) == space.shape and np.asarray(obs).dtype.kind in "fiub"
        else:
            is_like = space.contains(obs)
        if not is_like:
            raise self._mistake(method, obs, f"one of its observation_space {space}", "as the observation ")
        return spaces.flatten(space, obs)

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.elapsed_steps.fill(0)
        self._begin(np.arange(self.num_envs))

    def close(self) -> None:
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()
        super().close()


def _is_number(value: Any) -> bool:
    """Whether it is one number, True or False; an array without dimensions is."""
    return isinstance(value, NUMBERS) or (np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiub")


def _unusable(env: gymnasium.Env[Any, Any]) -> str | None:
    """What keeps an environment from being batched."""
    for kind in ("observation", "action"):
        space = getattr(env, f"{kind}_space", None)
        if not isinstance(space, spaces.Space):
            return f"{kind}_space is {describe(space)}; expected a space, such as gymnasium.spaces.Box(-1, 1, (3,))"
    seen = env.observation_space
    if not seen.is_np_flattenable:
        return f"the observation space {seen} has no fixed size and cannot be batched"
    if isinstance(seen, spaces.Dict | spaces.Tuple):
        return (
            f"observation_space is a {type(seen).__name__}: observations of several parts are not supported, because "
            "the policies take one vector; wrap the environment in gymnasium.wrappers.FlattenObservation"
        )
    if isinstance(seen, spaces.Box) and (len(seen.shape) > 2 or (len(seen.shape) == 2 and seen.dtype == np.uint8)):
        return (
            f"observation_space is an image {seen.shape}: images are not supported, because the policies take one "
            "vector and know nothing of neighbouring pixels; observe the state, or features of the image"
        )
    if not isinstance(env.action_space, spaces.Box | spaces.Discrete):
        return (
            f"action_space is a {type(env.action_space).__name__}: only Box and Discrete are supported, because the "
            "policies give one vector or choose one action; wrap the environment so that it takes one of these"
        )
    signature = inspect.signature(env.unwrapped.reset)
    try:
        signature.bind(seed=0)
    except TypeError:
        signature = signature.replace(return_annotation=inspect.Signature.empty)
        return f"reset{signature} takes no seed; expected reset(self, *, seed=None, options=None)"
    return None


def adapter_of_id(env_id: str) -> Factory:
    """A factory for a gymnasium id; its settings are the arguments of ``gymnasium.make``."""
    # The time limit is ours, so that stagger() can shift it.
    make_one = partial(gymnasium.make, env_id, max_episode_steps=-1, disable_env_checker=True)
    return _adapter(env_id, make_one, gymnasium.spec(env_id).max_episode_steps)


def adapter_of_class(cls: type) -> Factory:
    """A factory for a ``gymnasium.Env`` class; its settings are the constructor's and ``max_episode_steps``.

    Raises:
        ValueError: the class is no gymnasium environment.
    """
    name = f"{cls.__module__}:{cls.__qualname__}"
    if not issubclass(cls, gymnasium.Env):
        raise ValueError(f"environment '{name}' must be a VecEnv or a gymnasium.Env, or a factory function")
    return _adapter(name, cls, None)


def _adapter(name: str, make_one: Callable[..., Any], own_limit: int | None) -> Factory:
    def factory(num_envs: int, *, num_threads: int | None, seed: int | None, **cfg: Any) -> GymnasiumVecEnv:
        del num_threads  # the rows are stepped in a loop, on the caller's thread
        limit = cfg.pop("max_episode_steps", own_limit)
        if limit is not None and (type(limit) is not int or limit < 1):
            problem = f"expected a whole number of at least 1, or null for no limit, got {limit!r}"
            raise SettingsError("max_episode_steps", problem)

        def made() -> Any:
            try:
                return make_one(**cfg)
            except TypeError as error:
                raise SettingsError("", f"{name} refused its settings: {error}") from error

        return GymnasiumVecEnv(made, num_envs, max_episode_steps=limit, seed=seed)

    return factory

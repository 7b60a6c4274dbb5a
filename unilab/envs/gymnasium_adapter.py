"""Any gymnasium environment as a batched one: one object a row, stepped in a loop. Slower, but correct."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

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
    because the policies here could not tell what is what. A box action is passed as it is given, a
    discrete one by its index. In spaces of several parts each value of a discrete part has a column, and the largest is
    taken. Gymnasium offers no state to save: after
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
        space = first.action_space
        if isinstance(space, spaces.Discrete):
            self.num_actions = int(space.n)
            space = spaces.Box(0, self.num_actions - 1, (1,))
        bounds = spaces.flatten_space(space)
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
        self.chooses = _chooses(space)

    @property
    def _name(self) -> str:
        return self._label

    def _advance(self, actions: FloatArray) -> Failures:
        for row, env in enumerate(self._envs):
            self._terminated[row] = False
            self._reward[row] = 0
            if not np.isfinite(actions[row]).all():
                continue  # ends as a fault; no environment of another's is asked to stand it
            space = env.action_space
            if isinstance(space, spaces.Discrete):
                action = space.start + round(float(actions[row, 0]))
            else:
                action, _ = unflatten_action(space, actions[row])
            try:
                returned = env.step(action)
            except Exception as error:
                error.add_note(f"{self._label}: environment {row}, env step {self._env_steps}, action {action}")
                raise
            if not (isinstance(returned, tuple) and len(returned) == 5):
                old = "; this is the interface of gym before 0.26" if _length(returned) == 4 else ""
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
            returned = env.reset(seed=int(self._rng.integers(2**31)))
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


def _length(value: Any) -> int:
    return len(value) if isinstance(value, tuple | list) else 0


def _unusable(env: gymnasium.Env[Any, Any]) -> str | None:
    """What keeps an environment from being batched."""
    for kind in ("observation", "action"):
        space = getattr(env, f"{kind}_space", None)
        if not isinstance(space, spaces.Space):
            return f"{kind}_space is {describe(space)}; expected a space, such as gymnasium.spaces.Box(-1, 1, (3,))"
        if not space.is_np_flattenable:
            return f"the {kind} space {space} has no fixed size and cannot be batched"
    seen = env.observation_space
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
    signature = inspect.signature(env.unwrapped.reset)
    try:
        signature.bind(seed=0)
    except TypeError:
        signature = signature.replace(return_annotation=inspect.Signature.empty)
        return f"reset{signature} takes no seed; expected reset(self, *, seed=None, options=None)"
    return None


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

"""Names of environments.

A name is one of ours (``HalfCheetah``), ``module:attribute``, which every process can import, or a gymnasium id
(``Pendulum-v1``). A ``Robot`` stands for the task in which it follows velocities.
"""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from unilab.envs.robots.robot import Robot
from unilab.envs.vec_env import EnvDims, EnvironmentMistake, Factory, VecEnv
from unilab.settings import SettingsError, nearest

_OWN = {
    "Ant": "unilab.envs.tasks.ant:Ant",
    "AntNoForces": "unilab.envs.tasks.ant:AntNoForces",
    "HalfCheetah": "unilab.envs.tasks.planar:HalfCheetah",
    "Hopper": "unilab.envs.tasks.planar:Hopper",
    "Humanoid": "unilab.envs.tasks.humanoid:Humanoid",
    "HumanoidNoForces": "unilab.envs.tasks.humanoid:HumanoidNoForces",
    "HumanoidStandup": "unilab.envs.tasks.humanoid:HumanoidStandup",
    "HumanoidStandupNoForces": "unilab.envs.tasks.humanoid:HumanoidStandupNoForces",
    "InvertedDoublePendulum": "unilab.envs.tasks.pendulums:InvertedDoublePendulum",
    "InvertedPendulum": "unilab.envs.tasks.pendulums:InvertedPendulum",
    "Pusher": "unilab.envs.tasks.arms:Pusher",
    "Reacher": "unilab.envs.tasks.arms:Reacher",
    "Swimmer": "unilab.envs.tasks.planar:Swimmer",
    "Walker2d": "unilab.envs.tasks.planar:Walker2d",
}
_ROBOTS = {
    f"Velocity-{name}": f"unilab.envs.robots.{name.lower()}:{name.upper()}"
    for name in ("Barkour", "G1", "Go1", "Go2", "H1", "Spot", "T1")
}
_OWN |= _ROBOTS


def names() -> list[str]:
    """Names of this project's environments, sorted."""
    return sorted(_OWN)


def is_robot(name: str, *, load: bool = False) -> bool:
    """Whether it is one of this project's robots, whose model may not be on this machine.

    ``load``: or ``module:ROBOT`` that is here. That imports the module, so it is for names that the user has just used.
    """
    module, _, attribute = name.partition(":")
    if not (load and attribute):
        return name in _ROBOTS
    try:
        return isinstance(getattr(importlib.import_module(module), attribute, None), Robot)
    except ImportError:
        return False


def make(
    name: str,
    num_envs: int,
    sim_backend: str = "mujoco",
    env_cfg_override: Mapping[str, Any] | None = None,
    seed: int | None = None,
    num_threads: int | None = None,
) -> VecEnv:
    """Make a batched environment.

    Args:
        name: one of ``names()``, ``module:attribute`` or a gymnasium id.
        num_envs: number of environments, N.
        sim_backend: the physics engine, ``mujoco``.
        env_cfg_override: overrides of the environment's own settings.
        seed: of all its randomness; None: from the operating system.
        num_threads: physics threads, the caller's included; None: all cores this process may use.

    Raises:
        ValueError: an unknown name or backend; the nearest known one is named.
        SettingsError: an unknown or impossible setting in ``env_cfg_override``.
    """
    if sim_backend != "mujoco":
        raise ValueError(f"unknown sim_backend '{sim_backend}'; there is: mujoco")
    override = dict(env_cfg_override or {})
    for reserved in {"num_envs", "num_threads", "seed"} & override.keys():
        raise SettingsError(reserved, "is an argument of make(), not a setting of the environment")
    factory = _find(name)
    return factory(num_envs, num_threads=num_threads, seed=seed, **override)


def env_dims(name: str, sim_backend: str = "mujoco", env_cfg_override: Mapping[str, Any] | None = None) -> EnvDims:
    """Sizes of an environment's observations and actions, from one instance that is closed again."""
    with make(name, 1, sim_backend, env_cfg_override, num_threads=1) as env:
        return env.dims


def simulates_here(name: str) -> bool:
    """``VecEnv.simulates_here`` of an environment: true for gymnasium's own, false where nothing is known.

    Raises:
        ValueError: an unknown name.
    """
    factory = _find(name)
    if name in _OWN or ":" in name:
        return bool(getattr(factory, "simulates_here", False))
    import gymnasium

    return str(gymnasium.spec(name).entry_point).startswith("gymnasium.")


def can_judge(name: str) -> bool:
    """Whether an environment may say that a policy solves it (``VecEnv.judge``); true where that is not known.

    Raises:
        ValueError: an unknown name.
    """
    factory = _find(name)
    return not isinstance(factory, type) or getattr(factory, "judge", VecEnv.judge) is not VecEnv.judge


def _find(name: str) -> Factory:
    path = _OWN.get(name, name)
    return _import(path) if ":" in path else _gymnasium(path)


def _import(path: str) -> Factory:
    """The factory at ``module:attribute``: of a gymnasium class or id its adapter, of a robot its task."""
    module_name, attribute = path.split(":", 1)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports is not
        raise ValueError(f"environment '{path}': no module '{error.name}'; is it installed or on PYTHONPATH?") from None
    found = getattr(module, attribute, None)
    if found is None:
        there = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module_name]
        return _gymnasium(attribute, f"'{path}': module '{module_name}' has no '{attribute}'", there)
    if isinstance(found, Robot):
        from unilab.envs.tasks.velocity.task import with_robot

        return with_robot(found)
    is_class = isinstance(found, type)
    if isinstance(found, type) and not issubclass(found, VecEnv):
        from unilab.envs.gymnasium_adapter import adapter_of_class

        return adapter_of_class(found)
    if not callable(found):
        raise ValueError(f"environment '{path}' is a {type(found).__name__}; it must be a factory, a class or a Robot")
    return found if is_class else _checked(path, found)


def _checked(path: str, function: Any) -> Factory:
    """A factory that gives an environment; what cannot be called as one is not called."""

    def factory(num_envs: int, *, num_threads: int | None, seed: int | None, **cfg: Any) -> VecEnv:
        try:
            inspect.signature(function).bind(num_envs, num_threads=num_threads, seed=seed, **cfg)
        except (TypeError, ValueError) as error:  # a ValueError: it is not written in Python
            expected = "a function (num_envs, *, num_threads, seed, **settings) that gives a VecEnv"
            raise EnvironmentMistake(f"{path}() cannot be a factory; expected {expected}: {error}") from None
        made = function(num_envs, num_threads=num_threads, seed=seed, **cfg)
        if not isinstance(made, VecEnv):
            raise EnvironmentMistake(f"{path}() returned {made!r:.60}; expected a VecEnv")
        return made

    return factory


def _gymnasium(env_id: str, problem: str | None = None, others: Iterable[str] = ()) -> Factory:
    """A factory for a gymnasium id."""
    import gymnasium

    from unilab.envs.gymnasium_adapter import adapter_of_id

    if env_id in gymnasium.registry:
        return adapter_of_id(env_id)
    # An id without its version is the usual slip; difflib alone may prefer a short unrelated name.
    versions = [known for known in gymnasium.registry if known.rpartition("-v")[0].lower() == env_id.lower()]
    known = [*names(), *others, *gymnasium.registry]
    by_lower = {one.lower(): one for one in known}
    close = versions[-1:] or [by_lower[m] for m in difflib.get_close_matches(env_id.lower(), by_lower, n=1)]
    remedy = f"did you mean '{close[0]}'?" if close else nearest(env_id, names())
    raise ValueError(
        f"unknown environment {problem or repr(env_id)}; {remedy} "
        "(names of this project, module:attribute and gymnasium ids are known)"
    )

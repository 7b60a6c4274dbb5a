"""From what a call of ``OffPolicyRunner`` states to settings that a run can have, and its threads."""

from collections.abc import Mapping
from typing import Any

from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.learner import OffPolicyLearner
from unilab.algos.torch.offpolicy.networks.policies import build_actor
from unilab.envs import env_dims
from unilab.machine.devices import Threads, split_threads
from unilab.settings import SettingsError, changed, combine, flatten, nearest, split_arguments

RENAMED = {
    "env_name": "env",
    "env_cfg_override": "env_cfg",
    "device": "learner_device",
    "policy_frequency": "algorithm.policy_frequency",
    "use_layer_norm": "network.layer_norm",
}
"""arguments that have other names than their settings"""
BUILT_IN = ("batch_size", "learner_device", "learner_dtype", "obs_normalization", "network.", "algorithm.")
"""settings, or groups of them, that a learner cannot change once it is built"""


def settle(
    call: Any,
    algo_type: str,
    arguments: Mapping[str, Any],
    rl_cfg: Mapping[str, Any],
    learner: OffPolicyConfig | None,
) -> OffPolicyConfig:
    """The configuration that a call of ``OffPolicyRunner`` means.

    Args:
        call: the class, for the defaults in its signature.
        algo_type: sac or td3.
        arguments: all others that stand for settings, by name.
        rl_cfg: nested or dotted.
        learner: the configuration of the caller's learner.

    Raises:
        SettingsError: an unknown or impossible setting; or two of these say different things.
    """
    if algo_type not in CONFIGS:
        raise SettingsError("algo_type", f"unknown algorithm '{algo_type}'; {nearest(algo_type, CONFIGS)}")
    kind = CONFIGS[algo_type]
    if learner is not None and not isinstance(learner, kind):
        theirs = next(name for name, cls in CONFIGS.items() if isinstance(learner, cls))
        raise SettingsError("algo_type", f"is {algo_type}, and the learner's is {theirs}; use the same")
    stated, unstated = split_arguments(call, arguments)
    sources: dict[str, Mapping[str, Any]] = {
        f"the argument {name}": _settings(name, value) for name, value in stated.items()
    }
    sources["rl_cfg"] = rl_cfg
    if learner is None:
        defaults: dict[str, Any] = {}
        for name, value in unstated.items():
            defaults |= _settings(name, value)
        width = arguments["actor_hidden_dim"]
        defaults["network.critic"] = (width, width)
    else:
        defaults = flatten(learner)
        fixed = {name: value for name, value in defaults.items() if name.startswith(BUILT_IN)}
        sources["the learner's configuration"] = changed(learner) | fixed
    num_envs = combine(kind, sources, defaults).num_envs
    capacity = {"replay_capacity": num_envs * arguments["replay_buffer_n"]}
    if "replay_buffer_n" in stated:
        sources["the argument replay_buffer_n"] = capacity
    elif learner is None:
        defaults |= capacity
    return combine(kind, sources, defaults)


def _settings(name: str, value: Any) -> dict[str, Any]:
    """What an argument says, by dotted names; ``replay_buffer_n`` says something only together with ``num_envs``."""
    match name:
        case "actor_hidden_dim":
            return {"network.actor": (value, value)}
        case "actor_kwargs":
            return {f"network.{key}": inner for key, inner in (value or {}).items()}
        case "replay_buffer_n":
            return {}
        case _:
            return {} if value is None else {RENAMED.get(name, name): value}


def check_learner(learner: OffPolicyLearner, config: OffPolicyConfig) -> None:
    """Refuse a learner that was made for an environment of other sizes.

    Raises:
        ValueError: naming the actor's first parameter that differs.
    """
    dims = env_dims(config.env, config.sim_backend, config.env_cfg)
    wanted = build_actor(config, dims.obs, dims.action).state_dict()
    found = learner.actor.state_dict()
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            shape = list(found[name].shape) if name in found else "missing"
            raise ValueError(
                f"OffPolicyRunner: the learner's actor has {name} {shape}, '{config.env}' needs {list(value.shape)}"
            )


def check_workers(config: OffPolicyConfig) -> None:
    """Refuse settings that workers cannot have.

    Raises:
        SettingsError: with the setting to change.
    """
    workers = config.workers
    if workers.kind == "collector":
        return
    by = f"workers.kind: {workers.kind}"
    if config.num_envs % workers.count:
        raise SettingsError(
            "workers.count",
            f"{config.num_envs} environments cannot be divided among {workers.count} workers; change num_envs or "
            "workers.count so that each has as many",
        )
    if config.algorithm.n_step > 1:
        raise SettingsError(
            "algorithm.n_step", f"is {config.algorithm.n_step}; workers store single steps: use 1, or the collector"
        )
    if config.stagger_episodes:
        raise SettingsError("stagger_episodes", f"with {by} all first episodes start at their beginning; use false")
    if config.collector_device != "cpu":
        raise SettingsError("collector_device", f"is {config.collector_device}; with {by} policies act on the cpu")
    if workers.kind == "sequential" and not config.sync_collection:
        raise SettingsError("sync_collection", f"is false; {by} works in turns with the learner: use true")
    if workers.kind != "ray" and workers.ray_address is not None:
        raise SettingsError("workers.ray_address", f"is {workers.ray_address!r}; it needs workers.kind: ray")


def divide_threads(config: OffPolicyConfig, cores: int) -> Threads:
    """Threads of the physics of the collector, or of each worker, of its policy and of the learner.

    Worker processes share what a collector would have; workers of a Ray cluster have a core each; those in the
    learner's process take turns. A worker's policy has one thread.
    """
    threads = split_threads(config, cores)
    if config.workers.kind == "collector":
        return threads
    shares = {"sequential": threads.env, "processes": threads.env // config.workers.count, "ray": 1}
    return Threads(config.env_threads or max(1, shares[config.workers.kind]), 1, threads.learner)

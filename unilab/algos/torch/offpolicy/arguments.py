"""What the arguments of ``OffPolicyRunner`` say of its settings, and who decides where others say it too."""

from collections.abc import Mapping
from typing import Any

from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
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

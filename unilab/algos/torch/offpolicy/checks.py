"""What is refused before a run of SAC or TD3 begins."""

from unilab.algos.torch.offpolicy.config import OffPolicyConfig
from unilab.algos.torch.offpolicy.learner import OffPolicyLearner
from unilab.algos.torch.offpolicy.networks.policies import build_actor
from unilab.envs import env_dims
from unilab.settings import SettingsError


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

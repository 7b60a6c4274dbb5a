"""How a run of SAC or TD3 divides this machine's cores."""

from unilab.algos.torch.offpolicy.config import OffPolicyConfig
from unilab.machine.devices import Threads, split_threads


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

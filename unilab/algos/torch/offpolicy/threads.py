"""How a run of SAC or TD3 divides this machine's cores."""

from unilab.algos.torch.offpolicy.config import OffPolicyConfig
from unilab.training.devices import Threads, split_threads


def divide_threads(config: OffPolicyConfig, cores: int) -> Threads:
    """Threads of the physics of the collector, or of each worker, of its policy and of the learner.

    Worker processes share what a collector would have; workers in the learner's process take turns. A worker's policy
    has one thread.
    """
    threads = split_threads(config, cores)
    if config.workers.kind == "collector":
        return threads
    share = threads.env if config.workers.kind == "sequential" else threads.env // config.workers.count
    return Threads(config.env_threads or max(1, share), 1, threads.learner)

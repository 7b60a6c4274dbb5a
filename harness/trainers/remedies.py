"""Which settings of our trainers move which limit of the throughput, the most promising first."""

from collections.abc import Mapping, Sequence

from harness.trainers.rounds import Limit, Remedy

DTYPE = Remedy("learner_dtype", "{}=bfloat16", unless=("bfloat16",))
LEARNER_THREADS = Remedy("learner_threads", "more {}", threads=True)
LEARNER_DEVICE = Remedy("learner_device", "another {}", device=True)
ENV_THREADS = Remedy("env_threads", "more {}", threads=True)
FEWER_THREADS = (
    Remedy("learner_threads", "fewer {}", unless=(1,)),
    Remedy("env_threads", "fewer {}", unless=(1,)),
    Remedy("learner_cores", "another split of the cores by {}"),
)
COMPILE = Remedy("algorithm.enable_compile", "{}=true", unless=(True,))
MORE_ENVS = Remedy("num_envs", "more {}")
NETWORKS = Remedy("network.actor", "narrower {}")

EPOCHS = Remedy("algorithm.num_learning_epochs", "fewer {}", unless=(1,))
MINIBATCHES = Remedy("algorithm.num_mini_batches", "fewer {} (larger minibatches)", unless=(1,))
LONGER = Remedy("steps_per_env", "more {}")

APPO: Mapping[Limit, Sequence[Remedy]] = {
    "learner": (EPOCHS, LEARNER_THREADS, DTYPE, MINIBATCHES, NETWORKS, LEARNER_DEVICE),
    "collector": (ENV_THREADS, MORE_ENVS, Remedy("algorithm.num_learning_epochs", "more {} on each rollout")),
    "launch": (COMPILE, MINIBATCHES, LEARNER_DEVICE),
    "device": (DTYPE, COMPILE, EPOCHS, NETWORKS, LEARNER_DEVICE),
    "cores": (EPOCHS, DTYPE, NETWORKS, MORE_ENVS, LEARNER_DEVICE),
    "threads": FEWER_THREADS,
    "quota": FEWER_THREADS,
    "turns": (Remedy("mode", "{}=async", unless=("async",)),),
    "transfer": (LONGER, MORE_ENVS),
    "drop": (Remedy("when_full", "{}=wait", unless=("wait",)), EPOCHS, DTYPE),
    "waiting": (LONGER, MORE_ENVS, Remedy("num_slots", "more {}")),
}

ACTOR_DELAY = Remedy("algorithm.policy_frequency", "higher {} (fewer updates of the actor)")
FREE = Remedy("sync_collection", "{}=false (the collector runs freely)", unless=(False,))
UPDATES = Remedy("updates_per_step", "more {} before new data is taken")

OFF_POLICY: Mapping[Limit, Sequence[Remedy]] = {
    "learner": (Remedy("updates_per_step", "fewer {}", unless=(1,)), ACTOR_DELAY, LEARNER_THREADS, DTYPE, NETWORKS,
                LEARNER_DEVICE),
    "collector": (ENV_THREADS, MORE_ENVS, Remedy("env_steps_per_sync", "fewer {}", unless=(1,)), FREE),
    "launch": (Remedy("algorithm.cuda_graphs", "{}=true", unless=(True,)), COMPILE, Remedy("batch_size", "more {}"),
               LEARNER_DEVICE),
    "device": (DTYPE, COMPILE, Remedy("updates_per_step", "fewer {}", unless=(1,)), NETWORKS, LEARNER_DEVICE),
    "cores": (Remedy("batch_size", "another {}"), ACTOR_DELAY, DTYPE, NETWORKS, LEARNER_DEVICE),
    "threads": FEWER_THREADS,
    "quota": FEWER_THREADS,
    "transfer": (Remedy("pipeline", "{}=prefetch", unless=("prefetch", "device")), UPDATES),
    "waiting": (UPDATES, Remedy("env_steps_per_sync", "more {}"), MORE_ENVS, FREE),
}  # fmt: skip

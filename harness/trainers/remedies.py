"""Which settings of our trainers move which limit of the throughput, the most promising first."""

from collections.abc import Mapping, Sequence

from harness.trainers.rounds import Lever, Limit

DTYPE = Lever("learner_dtype", "{}=bfloat16", unless=("bfloat16",))
LEARNER_THREADS = Lever("learner_threads", "more {}", threads=True)
LEARNER_DEVICE = Lever("learner_device", "another {}", device=True)
ENV_THREADS = Lever("env_threads", "more {}", threads=True)
FEWER_THREADS = (
    Lever("learner_threads", "fewer {}", unless=(1,)),
    Lever("env_threads", "fewer {}", unless=(1,)),
    Lever("learner_cores", "another split of the cores by {}"),
)
COMPILE = Lever("algorithm.enable_compile", "{}=true", unless=(True,))
MORE_ENVS = Lever("num_envs", "more {}")
NETWORKS = Lever("network.actor", "narrower {}")

EPOCHS = Lever("algorithm.num_learning_epochs", "fewer {}", unless=(1,))
MINIBATCHES = Lever("algorithm.num_mini_batches", "fewer {} (larger minibatches)", unless=(1,))
LONGER = Lever("steps_per_env", "more {}")

APPO: Mapping[Limit, Sequence[Lever]] = {
    "learner": (EPOCHS, LEARNER_THREADS, DTYPE, MINIBATCHES, NETWORKS, LEARNER_DEVICE),
    "collector": (ENV_THREADS, MORE_ENVS, Lever("algorithm.num_learning_epochs", "more {} on each rollout")),
    "launch": (COMPILE, MINIBATCHES, LEARNER_DEVICE),
    "device": (DTYPE, COMPILE, EPOCHS, NETWORKS, LEARNER_DEVICE),
    "cores": (EPOCHS, DTYPE, NETWORKS, MORE_ENVS, LEARNER_DEVICE),
    "threads": FEWER_THREADS,
    "quota": FEWER_THREADS,
    "turns": (Lever("mode", "{}=async", unless=("async",)),),
    "transfer": (LONGER, MORE_ENVS),
    "drop": (Lever("when_full", "{}=wait", unless=("wait",)), EPOCHS, DTYPE),
    "waiting": (LONGER, MORE_ENVS, Lever("num_slots", "more {}")),
}

ACTOR_DELAY = Lever("algorithm.policy_frequency", "higher {} (fewer updates of the actor)")
FREE = Lever("sync_collection", "{}=false (the collector runs freely)", unless=(False,))
UPDATES = Lever("updates_per_step", "more {} between two looks at new data")

OFF_POLICY: Mapping[Limit, Sequence[Lever]] = {
    "learner": (Lever("updates_per_step", "fewer {}", unless=(1,)), ACTOR_DELAY, LEARNER_THREADS, DTYPE, NETWORKS,
                LEARNER_DEVICE),
    "collector": (ENV_THREADS, MORE_ENVS, Lever("env_steps_per_sync", "fewer {}", unless=(1,)), FREE),
    "launch": (Lever("algorithm.cuda_graphs", "{}=true", unless=(True,)), COMPILE, Lever("batch_size", "more {}"),
               LEARNER_DEVICE),
    "device": (DTYPE, COMPILE, Lever("updates_per_step", "fewer {}", unless=(1,)), NETWORKS, LEARNER_DEVICE),
    "cores": (Lever("batch_size", "another {}"), ACTOR_DELAY, DTYPE, NETWORKS, LEARNER_DEVICE),
    "threads": FEWER_THREADS,
    "quota": FEWER_THREADS,
    "transfer": (Lever("pipeline", "{}=prefetch", unless=("prefetch", "device")), UPDATES),
    "waiting": (UPDATES, Lever("env_steps_per_sync", "more {}"), MORE_ENVS, FREE),
}  # fmt: skip

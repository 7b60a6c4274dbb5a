"""The parts of a round of SAC or TD3: steps of all environments, batches, updates of critics and actor, weights."""

import dataclasses
from contextlib import ExitStack, closing
from typing import Any

import torch

from harness.trainers.costs.appo import NETWORKS, at_once, chosen, moved_weights
from harness.trainers.costs.timing import timed
from harness.trainers.rounds import Cost, Course, Part, Workload
from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig, divide_threads
from unilab.algos.torch.offpolicy.networks.policies import build_actor
from unilab.algos.torch.offpolicy.runner import build_learner
from unilab.algos.torch.offpolicy.worker import ExploringPolicy, acting_loop
from unilab.envs import env_dims, make
from unilab.ipc import ReplayBuffer
from unilab.ipc.replay_pipelines import build_pipeline
from unilab.settings import parse

STEPS = 8
"""env steps at a time that the collector is measured with"""
ROWS = 50_000
"""transitions in the replay buffer that batches are sampled from"""
NEVER = 2**31
"""critic updates for each update of the actor, so that there is none"""
ALGORITHM = ("algorithm.n_step", "algorithm.num_critics", "algorithm.num_atoms", "algorithm.target_reduction",
             "algorithm.enable_compile", "algorithm.cuda_graphs")  # fmt: skip
COLLECTOR = (*NETWORKS, "collector_device", "algorithm.n_step")
LEARNER = (*NETWORKS, "learner_device", "learner_dtype", *ALGORITHM)


def workload(config: OffPolicyConfig, cores: int) -> Workload:
    """One iteration: ``updates_per_step`` updates, while the collector makes ``env_steps_per_sync`` steps."""
    threads = at_once(divide_threads(config, cores), config)
    count = 1 if config.workers.kind in ("collector", "sequential") else config.workers.count  # at the same time
    acting = chosen(config, COLLECTOR) | {
        "env_threads": count * threads.env,
        "inference_threads": threads.inference,
    }
    learning = chosen(config, LEARNER) | {"learner_threads": threads.learner}
    moved = chosen(config, NETWORKS) | {"learner_device": config.learner_device}
    kind = "direct" if config.pipeline == "auto" and config.learner_device == "cpu" else config.pipeline
    sampled = moved | {"pipeline": kind, "algorithm.n_step": config.algorithm.n_step}
    updates, batch = config.updates_per_step, config.batch_size
    whole = updates / config.algorithm.policy_frequency
    parts = [
        Part("collector", "env_step", config.num_envs, acting, config.env_steps_per_sync),
        Part("learner", "update", batch, learning, whole),
        Part("transfer", "batch", batch, sampled, updates, background=kind == "prefetch"),
        Part("transfer", "weights", 1, moved),
    ]
    if whole < updates:
        parts.append(Part("learner", "critic_update", batch, learning, updates - whole))
    course: Course = "turns" if config.alternates else "lockstep" if config.sync_collection else "free"
    return Workload(
        tuple(parts), course,
        config.num_envs * config.env_steps_per_sync, updates, updates * batch,
        yields=config.learner_device == "cpu" and count * threads.env + threads.learner > cores,
    )  # fmt: skip


def measure(part: Part, algo_type: str) -> Cost:
    """The cost of one execution of ``part``."""
    size_of = {"env_step": "num_envs", "weights": "env_steps_per_sync"}
    sized = {size_of.get(part.kind, "batch_size"): part.size}
    room = {"replay_capacity": 2 * max(ROWS, part.size), "learning_starts": 0}
    config: Any = parse(CONFIGS[algo_type], {**part.settings, **sized, **room})
    dims = env_dims(config.env, config.sim_backend, config.env_cfg)
    torch.set_num_threads(config.inference_threads or 1)
    with ExitStack() as opened:
        if part.kind == "weights":  # of the actor, from the learner's device to the collector
            return moved_weights(lambda: [build_actor(config, dims.obs, dims.action)], config.learner_device)

        replay = ReplayBuffer(
            config.replay_capacity, dims.obs, dims.action, config.learner_device, critic_dim=dims.critic,
            multi_step=config.algorithm.n_step > 1,
        )  # fmt: skip
        opened.callback(replay.cleanup)
        if part.kind == "env_step":  # of all environments, inference and the replay buffer included
            policy, threads = ExploringPolicy(config, dims).to(config.collector_device), config.env_threads
            env = opened.enter_context(
                make(config.env, config.num_envs, config.sim_backend, config.env_cfg, 0, threads)
            )
            loop = acting_loop(config, env, policy, replay, seed=0)
            return timed(lambda: loop.run(STEPS), count=STEPS)

        # Numbers in the shape of transitions: what they are does not change what an update costs.
        rows = ROWS if part.kind == "batch" else config.batch_size
        torch.manual_seed(0)
        fields: dict[str, Any] = {
            "obs": torch.randn(rows, dims.obs), "actions": torch.rand(rows, dims.action) * 2 - 1,
            "rewards": torch.randn(rows), "next_obs": torch.randn(rows, dims.obs), "dones": torch.zeros(rows),
            "truncated": torch.zeros(rows),
        }  # fmt: skip
        if dims.critic:
            fields |= {"critic": torch.randn(rows, dims.critic), "next_critic": torch.randn(rows, dims.critic)}
        if "steps" in replay.columns:
            fields["steps"] = torch.ones(rows)
        replay.add(**fields)
        if part.kind == "batch":  # sampled and brought to the learner's device
            pipeline = build_pipeline(config.pipeline, replay, config.batch_size, config.learner_device)
            return timed(opened.enter_context(closing(pipeline)).next_batch)

        # an update with the actor's part, or one of the critics alone
        frequency = {"update": 1, "critic_update": NEVER}[part.kind]
        algorithm = dataclasses.replace(config.algorithm, policy_frequency=frequency)
        learner = build_learner(dataclasses.replace(config, algorithm=algorithm), dims)
        opened.enter_context(closing(learner))
        sampled = replay.sample(config.batch_size)
        batch = {name: field.clone().to(config.learner_device) for name, field in sampled.items()}

        def finish() -> None:
            learner.update(batch)
            if learner.device.type == "cuda":
                torch.cuda.synchronize(learner.device)

        return timed(finish)

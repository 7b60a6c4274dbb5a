"""The parts of an APPO round: steps of all environments, the preparation of a rollout, gradients, copies, weights."""

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from typing import Any

import numpy as np
import torch

from harness.trainers.costs.timing import SECONDS, fastest, now, timed
from harness.trainers.rounds import Cost, Course, Part, Workload
from unilab.algos.torch.appo.actor_critic import build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.runner import build_learner
from unilab.algos.torch.appo.worker import acting_loop
from unilab.envs import env_dims, make
from unilab.ipc import RolloutRingBuffer, SharedWeightSync, slot_fields
from unilab.machine.devices import Threads, cores_of_sides, split_threads
from unilab.settings import flatten, parse

STEPS = 8
"""env steps of the rollouts that the collector is measured with"""
EPOCHS, MINIBATCHES = 2, 4
"""of a measured update: a minibatch is gathered from a rollout larger than itself, which caches hold less well"""
NETWORKS = ("env", "env_cfg", "sim_backend", "obs_normalization", "network.")
COLLECTOR = (*NETWORKS, "collector_device")
LEARNER = (*NETWORKS, "learner_device", "learner_dtype", "algorithm.optimizer", "algorithm.use_clipped_value_loss",
           "algorithm.enable_compile")  # fmt: skip


def workload(config: APPOConfig, cores: int) -> Workload:
    """One rollout and what is learned from it."""
    threads = at_once(split_threads(config, cores), config)
    acting = chosen(config, COLLECTOR) | {
        "env_threads": threads.env,
        "inference_threads": threads.inference,
    }
    learning = chosen(config, LEARNER) | {"learner_threads": threads.learner, "inference_threads": threads.inference}
    rows, algorithm = config.num_envs * config.steps_per_env, config.algorithm
    minibatches = min(algorithm.num_mini_batches, rows)
    gradients = algorithm.num_learning_epochs * minibatches
    parts = [
        Part("collector", "env_step", config.num_envs, acting, config.steps_per_env),
        Part("learner", "prepare", rows, learning),
        Part("learner", "gradient", -(-rows // minibatches), learning, gradients),
    ]
    if config.mode == "async":
        moved = chosen(config, NETWORKS) | {"learner_device": config.learner_device}
        parts += [Part("transfer", "copy", rows, moved), Part("transfer", "weights", 1, moved)]
    course: Course = "turns" if config.mode == "sync" else "drop" if config.when_full == "drop_oldest" else "wait"
    return Workload(
        tuple(parts), course, rows, gradients, rows * algorithm.num_learning_epochs,
        yields=config.mode == "async" and config.learner_device == "cpu" and threads.env + threads.learner > cores,
    )  # fmt: skip


def chosen(config: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The settings of these names, and those whose names begin with one that ends in a dot."""
    prefixes = tuple(name for name in names if name.endswith("."))
    flat = flatten(config).items()
    values = {name: value for name, value in flat if name in names or name.startswith(prefixes)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def at_once(threads: Threads, config: Any) -> Threads:
    """The threads that run at the same time: of each side at most as many as it has cores."""
    collector, learner = cores_of_sides(config)
    env, updating = min(threads.env, collector or threads.env), min(threads.learner, learner or threads.learner)
    return Threads(env, threads.inference, updating)


def moved_weights(build: Callable[[], Iterable[torch.nn.Module]], learner_device: str) -> Cost:
    """The cost of bringing the weights of networks from the learner's device to the collector."""
    states = [network.to(learner_device).state_dict() for network in build()]
    theirs = [network.state_dict() for network in build()]
    with ExitStack() as opened:
        syncs = [SharedWeightSync.from_state_dict(state) for state in states]
        for sync in syncs:
            opened.callback(sync.cleanup)

        def publish() -> None:
            for sync, state, read in zip(syncs, states, theirs, strict=True):
                sync.write_weights(state)
                sync.read_weights_into(read)

        return timed(publish)


class _Prepared(Exception):
    """Ends an update before its first optimizer step."""


def measure(part: Part) -> Cost:
    """The cost of one execution of ``part``."""
    config, size = parse(APPOConfig, part.settings), part.size
    dims = env_dims(config.env, config.sim_backend, config.env_cfg)
    torch.set_num_threads(config.inference_threads or 1)
    with ExitStack() as opened:
        if part.kind == "env_step":  # of all environments, with the policy's inference and the writing of the rollout
            actor, critic = build_networks(config, dims)
            device, threads = config.collector_device, config.env_threads
            env = opened.enter_context(make(config.env, size, config.sim_backend, config.env_cfg, 0, threads))
            loop, sink = acting_loop(config, env, actor.to(device), critic.to(device), seed=0)
            shapes = slot_fields(size, STEPS, dims.obs, dims.action, dims.critic)
            sink.arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            return timed(lambda: loop.run(STEPS), count=STEPS)

        if part.kind == "weights":  # of both networks, from the learner's device to the collector
            return moved_weights(lambda: build_networks(config, dims), config.learner_device)

        steps = min(16, size)
        if part.kind == "copy":  # of a rollout from shared memory to the learner's device
            num_envs = max(1, size // steps)
            ring = RolloutRingBuffer(num_envs, steps, dims.obs, dims.action, critic_dim=dims.critic, num_slots=1)
            opened.callback(ring.cleanup)
            copied = {
                name: torch.zeros(shape, device=config.learner_device) for name, shape in ring.slot_shapes.items()
            }

            def through() -> None:
                ring.signal_write_done()
                ring.copy_read_slot_to_torch(copied)
                ring.advance_read()

            return timed(through)

        # Numbers in the shape of a rollout: what they are does not change what an update costs.
        rows = size if part.kind == "prepare" else MINIBATCHES * size
        steps = min(16, rows)
        torch.manual_seed(0)
        shapes = slot_fields(max(1, rows // steps), steps, dims.obs, dims.action, dims.critic)
        fields = {name: torch.randn(shape) for name, shape in shapes.items()}
        fields |= {name: (fields[name] > 2.5).float() for name in ("dones", "truncated")}
        fields["log_probs"].sub_(9.0)
        if dims.num_actions:
            fields["actions"] = torch.randint(dims.num_actions, fields["actions"].shape).float()
        rollout = {name: field.to(config.learner_device) for name, field in fields.items()}
        learner = opened.enter_context(closing(build_learner(config, dims)))

        if part.kind == "prepare":  # what an update does before its first optimizer step

            def stop() -> None:
                raise _Prepared

            def until_prepared() -> None:
                with suppress(_Prepared):
                    learner.update(rollout, on_minibatch=stop)

            return timed(until_prepared)

        assert part.kind == "gradient"  # an optimizer step with a minibatch
        learner.algorithm = dataclasses.replace(
            learner.algorithm, num_learning_epochs=EPOCHS, num_mini_batches=MINIBATCHES
        )
        learner.update(rollout)
        series: list[list[tuple[float, float]]] = []
        while not series or series[-1][-1][0] - series[0][0][0] < SECONDS:
            series.append([])
            learner.update(rollout, on_minibatch=lambda: series[-1].append(now()))
        return fastest(*series)

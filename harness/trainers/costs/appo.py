"""The parts of an APPO round: steps of all environments, the preparation of a rollout, gradients, copies, weights."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import numpy as np
import torch

from harness.trainers.costs.timing import SECONDS, fastest, now, timed
from harness.trainers.rounds import Cost, Course, Part, Workload
from unilab.algos.torch.appo.actor_critic import build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.learner import APPOLearner
from unilab.algos.torch.appo.runner import build_learner
from unilab.algos.torch.appo.worker import acting_loop
from unilab.envs import EnvDims, env_dims, make
from unilab.ipc import RolloutRingBuffer, SharedWeightSync
from unilab.ipc.rollout_ring_buffer import slot_fields
from unilab.machine.devices import split_threads
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
    threads = split_threads(config, cores)
    acting = chosen(config, COLLECTOR) | {"env_threads": threads.env, "inference_threads": threads.inference}
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


def measure(part: Part) -> Cost:
    """The cost of one execution of ``part``."""
    config = parse(APPOConfig, part.settings)
    dims = env_dims(config.env, config.sim_backend, config.env_cfg)
    torch.set_num_threads(config.inference_threads or 1)
    measures: dict[str, Callable[[APPOConfig, EnvDims, int], Cost]] = {
        "env_step": _env_step, "prepare": _prepare, "gradient": _gradient, "copy": _copy, "weights": _weights,
    }  # fmt: skip
    return measures[part.kind](config, dims, part.size)


def _env_step(config: APPOConfig, dims: EnvDims, num_envs: int) -> Cost:
    """One step of all environments, the policy's inference and the writing of the rollout included."""
    actor, critic = build_networks(config, dims)
    device = config.collector_device
    with make(config.env, num_envs, config.sim_backend, config.env_cfg, 0, config.env_threads) as env:
        loop, sink = acting_loop(config, env, actor.to(device), critic.to(device), seed=0)
        sink.arrays = {name: np.zeros(shape, np.float32) for name, shape in _shapes(dims, num_envs, STEPS).items()}
        return timed(lambda: loop.run(STEPS), count=STEPS)


def _shapes(dims: EnvDims, num_envs: int, steps: int) -> dict[str, tuple[int, ...]]:
    return slot_fields(num_envs, steps, dims.obs, dims.action, dims.critic)


class _Prepared(Exception):
    """Ends an update before its first optimizer step."""


def _prepare(config: APPOConfig, dims: EnvDims, rows: int) -> Cost:
    """What an update does before its first optimizer step."""

    def until_prepared() -> None:
        try:
            learner.update(rollout, on_minibatch=_stop)
        except _Prepared:
            return

    rollout = _rollout(dims, rows, config.learner_device)
    with closing(build_learner(config, dims)) as learner:
        return timed(until_prepared)


def _stop() -> None:
    raise _Prepared


def _gradient(config: APPOConfig, dims: EnvDims, rows: int) -> Cost:
    """One optimizer step, with a minibatch of ``rows``."""
    rollout = _rollout(dims, MINIBATCHES * rows, config.learner_device)
    with closing(build_learner(config, dims)) as learner:
        algorithm = learner.algorithm
        learner.algorithm = dataclasses.replace(algorithm, num_learning_epochs=EPOCHS, num_mini_batches=MINIBATCHES)
        learner.update(rollout)
        series = [_stamps(learner, rollout)]
        while series[-1][-1][0] - series[0][0][0] < SECONDS:
            series.append(_stamps(learner, rollout))
        return fastest(*series)


def _stamps(learner: APPOLearner, rollout: Mapping[str, torch.Tensor]) -> list[tuple[float, float]]:
    stamps: list[tuple[float, float]] = []
    learner.update(rollout, on_minibatch=lambda: stamps.append(now()))
    return stamps


def _rollout(dims: EnvDims, rows: int, device: str) -> dict[str, torch.Tensor]:
    """Numbers of a rollout's shape: what they are does not change what an update costs."""
    steps = min(16, rows)
    torch.manual_seed(0)
    fields = {name: torch.randn(shape) for name, shape in _shapes(dims, max(1, rows // steps), steps).items()}
    fields |= {name: (fields[name] > 2.5).float() for name in ("dones", "truncated")}
    fields["log_probs"].sub_(9.0)
    if dims.num_actions:
        fields["actions"] = torch.randint(dims.num_actions, fields["actions"].shape).float()
    return {name: field.to(device) for name, field in fields.items()}


def _copy(config: APPOConfig, dims: EnvDims, rows: int) -> Cost:
    """A rollout from shared memory to the learner's device."""
    steps = min(16, rows)
    ring = RolloutRingBuffer(max(1, rows // steps), steps, dims.obs, dims.action, critic_dim=dims.critic, num_slots=1)
    try:
        fields = {name: torch.zeros(shape, device=config.learner_device) for name, shape in ring.slot_shapes.items()}

        def through() -> None:
            ring.signal_write_done()
            ring.copy_read_slot_to_torch(fields)
            ring.advance_read()

        return timed(through)
    finally:
        ring.cleanup()


def _weights(config: APPOConfig, dims: EnvDims, _: int) -> Cost:
    """The weights of both networks from the learner's device to the collector."""
    networks = build_networks(config, dims)
    theirs = build_networks(config, dims)
    states = [network.to(config.learner_device).state_dict() for network in networks]
    syncs = [SharedWeightSync.from_state_dict(state) for state in states]
    try:

        def publish() -> None:
            for sync, state, reader in zip(syncs, states, theirs, strict=True):
                sync.write_weights(state)
                sync.read_weights_into(reader.state_dict())

        return timed(publish)
    finally:
        for sync in syncs:
            sync.cleanup()

"""Where the learner's rollouts come from: a collector in this process, or one in a process of its own."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unilab.algos.torch.appo.actor_critic import Actor, Critic, build_networks
from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.worker import acting_loop, appo_collector_fn
from unilab.algos.torch.networks.sizes import published_bytes
from unilab.envs import EnvDims, make
from unilab.ipc import AsyncRunner, LatestValue, RolloutRingBuffer, SharedWeightSync
from unilab.ipc.memory_budget import HOST, MIB, SHM, BudgetItem, pages, place_of
from unilab.ipc.rollout_ring_buffer import ring_bytes, slot_fields
from unilab.run.progress import CollectorCounters
from unilab.run.seeding import derive_seed
from unilab.tracing.spans import span

Weights = Mapping[str, Mapping[str, Tensor]]
"""of ``actor`` and ``critic``, each by the names of its state dict"""


class InProcessSource:
    """Collects and learns in turn: repeatable bit for bit with one seed, and resumed bit for bit.

    ``publish`` comes before the first ``next_rollout``, as with the other source. The states of simulation faults go
    to the file ``faults``.
    """

    def __init__(self, config: APPOConfig, state: Mapping[str, Any] | None, faults: Path | None) -> None:
        seed = derive_seed(config.seed, "environment")
        self._env = make(config.env, config.num_envs, config.sim_backend, config.env_cfg, seed, config.env_threads)
        dims = self._env.dims
        actor, critic = build_networks(config, dims)
        self._networks = {"actor": actor.to(config.collector_device), "critic": critic.to(config.collector_device)}
        self._loop, sink = acting_loop(config, self._env, actor, critic, seed=config.seed, faults=faults)
        shapes = slot_fields(config.num_envs, config.steps_per_env, dims.obs, dims.action, dims.critic)
        self._fields = sink.arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        self._config = config
        self._version = 0
        self._busy_seconds = 0.0
        if state is not None:
            self._loop.load_state_dict(state["collector"])
            self._version = state["version"]
            self._busy_seconds = state["busy_seconds"]

    def publish(self, weights: Weights) -> int:
        """Copy the weights into the networks that act; returns their version."""
        for name, network in self._networks.items():
            network.load_state_dict(weights[name])
        self._version += 1
        return self._version

    def next_rollout(self, check: Callable[[], None]) -> tuple[dict[str, Tensor], int]:
        """Collect one rollout now; it is on the learner's device, with the version of the weights that acted."""
        check()
        started = time.monotonic()
        with span("collect"):
            self._loop.run(self._config.steps_per_env)
        self._busy_seconds += time.monotonic() - started
        device = self._config.learner_device
        fields = {name: torch.from_numpy(array).to(device) for name, array in self._fields.items()}
        return fields, self._version

    def counters(self) -> CollectorCounters:
        """The loop's counters; this source never waits for a slot."""
        return CollectorCounters.of(self._loop.metrics() | {"busy_seconds": self._busy_seconds})

    def state_dict(self) -> dict[str, Any]:
        """The whole state of environments and acting loop."""
        return {
            "collector": self._loop.state_dict(),
            "version": self._version - 1,  # the resumed run publishes the same weights once more
            "busy_seconds": self._busy_seconds,
        }

    def close(self) -> None:
        """Close the environments."""
        self._env.close()


class CollectorSource:
    """A spawned collector that fills a ring in shared memory while the learner learns.

    Its output goes to the file ``log`` (None: to this process' output), the states of simulation faults to ``faults``.

    The state of its environments is not saved: a resumed run starts new episodes with random streams of their own, and
    goes on counting where the old one stopped.
    """

    def __init__(
        self,
        runner: AsyncRunner,
        config: APPOConfig,
        dims: EnvDims,
        weights: Weights,
        state: Mapping[str, Any] | None,
        log: Path | None,
        faults: Path | None,
    ) -> None:
        self._before = CollectorCounters.of(state["counters"]) if state is not None else CollectorCounters()
        self._newest: dict[str, Any] = {}
        self._started = False
        self._runner = runner
        self._log = log
        self._ring = RolloutRingBuffer(
            config.num_envs,
            config.steps_per_env,
            dims.obs,
            dims.action,
            critic_dim=dims.critic,
            num_slots=config.num_slots,
        )
        self._weights = {key: SharedWeightSync.from_state_dict(weights[key]) for key in ("actor", "critic")}
        self._metrics = LatestValue()
        self._fields = {
            name: torch.zeros(shape, device=config.learner_device) for name, shape in self._ring.slot_shapes.items()
        }
        seed = config.seed if state is None else derive_seed(config.seed, f"resumed at {self._before.env_steps}")
        actor, critic = self._weights["actor"], self._weights["critic"]
        self._arguments: dict[str, Any] = {
            "stop_event": runner.stop_event,
            "env_name": config.env,
            "rl_cfg": asdict(config),
            "num_envs": config.num_envs,
            "steps_per_env": config.steps_per_env,
            "shm_rollout_ring_buffer_name": self._ring.name,
            "sync_primitives": self._ring.sync_primitives,
            "obs_dim": dims.obs,
            "action_dim": dims.action,
            "critic_dim": dims.critic,
            "actor_weight_sync_name": actor.name,
            "actor_weight_param_shapes": actor.param_shapes,
            "critic_weight_sync_name": critic.name,
            "critic_weight_param_shapes": critic.param_shapes,
            "metrics_queue": self._metrics,
            "collector_device": config.collector_device,
            "sim_backend": config.sim_backend,
            "env_cfg_override": config.env_cfg,
            "seed": seed,
            "faults": faults,
            "env_steps_before": self._before.env_steps,
        }

    def publish(self, weights: Weights) -> int:
        """Write the weights to shared memory; the collector takes them before its next step."""
        self._weights["critic"].write_weights(weights["critic"])
        version = self._weights["actor"].write_weights(weights["actor"])
        if not self._started:
            self._runner.start_collector(appo_collector_fn, kwargs=self._arguments, name="collector", log=self._log)
            self._started = True
        return version

    def next_rollout(self, check: Callable[[], None]) -> tuple[dict[str, Tensor], int]:
        """Wait for the collector's next rollout, copy it to the learner's device, and say which weights acted.

        ``check`` is called while waiting and may raise.
        """
        with span("wait"):
            while not self._ring.wait_for_data(unless=self._runner.interrupt):
                check()
        with span("copy"):
            version = self._ring.copy_read_slot_to_torch(self._fields)
        self._ring.advance_read()
        return self._fields, version

    def counters(self) -> CollectorCounters:
        """The newest counters that the collector has sent, on top of those of the run that was resumed."""
        self._newest = self._metrics.get() or self._newest
        now = self._newest | {"dropped_rollouts": self._ring.dropped}
        return CollectorCounters.of(now).after(self._before)

    def state_dict(self) -> dict[str, Any]:
        """The counters."""
        return {"counters": asdict(self.counters())}

    def close(self) -> None:
        """Stop the collector and free the shared memory."""
        self._runner.stop_collectors()
        for sync in self._weights.values():
            sync.cleanup()
        self._metrics.cleanup()
        self._ring.cleanup()


def exchange_items(config: APPOConfig, dims: EnvDims, actor: Actor, critic: Critic) -> list[BudgetItem]:
    """The memory of what passes between collector and learner."""
    shape, learner = (config.num_envs, config.steps_per_env, dims.obs, dims.action), place_of(config.learner_device)
    rollout = 4 * sum(math.prod(field) for field in slot_fields(*shape, dims.critic).values())
    if config.mode == "sync":
        items = [BudgetItem("rollout", HOST, rollout, f"{config.steps_per_env} x {config.num_envs} transitions")]
        return items if learner == HOST else [*items, BudgetItem("staging", learner, rollout, "the rollout")]
    ring = ring_bytes(*shape, critic_dim=dims.critic, num_slots=config.num_slots)
    weights = [published_bytes(network.state_dict()) for network in (actor, critic)]
    return [
        BudgetItem("ring", SHM, pages(ring), f"{config.num_slots} + 2 slots of {rollout / MIB:,.1f} MiB"),
        BudgetItem("weight sync", SHM, pages(*weights), "3 buffers of actor and of critic"),
        BudgetItem("staging", learner, rollout, "the rollout that is learned from"),
    ]

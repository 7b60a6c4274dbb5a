"""Where the learner's transitions come from when workers collect: from rollouts of several environments at a time."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unilab.algos.torch.networks.sizes import published_bytes
from unilab.algos.torch.offpolicy.config import OffPolicyConfig
from unilab.algos.torch.offpolicy.networks.policies import BoundedActor
from unilab.algos.torch.offpolicy.transition_source import TransitionSource
from unilab.algos.torch.offpolicy.worker import ExploringPolicy, inference_bytes
from unilab.distributed import (
    BaseDistributedWorkersWithBuffer,
    ProcessWorkers,
    RayWorkers,
    Rollout,
    RolloutLayout,
    SequentialWorkers,
)
from unilab.distributed.processes import VERSION
from unilab.envs import EnvDims, make
from unilab.envs.sizes import EnvSizes
from unilab.envs.unit_actions import UnitActions
from unilab.ipc import AsyncRunner, SharedFlag
from unilab.ipc.memory_budget import HOST, SHM, BudgetItem, pages
from unilab.ipc.rollout_ring_buffer import ring_bytes
from unilab.run.acting import EpisodeCounter
from unilab.run.loop import Check
from unilab.run.progress import CollectorCounters
from unilab.run.seeding import derive_seed

WORKERS: dict[str, Callable[..., BaseDistributedWorkersWithBuffer]] = {
    "sequential": SequentialWorkers,
    "processes": ProcessWorkers,
    "ray": RayWorkers,
}
"""the implementation of each ``workers.kind``"""
QUEUE_SIZE = 2
"""finished rollouts of a worker that may wait to be stored"""
KEPT_WEIGHTS = 6
"""versions at most that workers on a cluster know of and may not have fetched, with the first and the newest"""
STOP_SECONDS = 1.0
"""for the thread that stores rollouts to notice that everything is to end"""


class WorkerSource(TransitionSource):
    """Workers that each step their share of the environments.

    In lock step they make a rollout of ``env_steps_per_sync`` steps each after ``proceed``, and ``take`` stores them;
    what is stored depends on the seed alone, whatever the kind of workers. Running freely, a thread stores what they
    have made. Their environments are not saved: a resumed run starts new episodes, and goes on counting.
    """

    def __init__(
        self, runner: AsyncRunner, config: OffPolicyConfig, dims: EnvDims, state: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(runner, config, dims, state)
        self._ordered: int | None = None
        # A policy that has learned explores no more at random.
        self._random_steps = config.learning_starts * config.num_envs if state is None else 0
        self._counting = threading.Lock()
        self._started: float | None = None
        self._busy_seconds = 0.0
        self._episodes = EpisodeCounter()
        self._env_steps = self._faults = 0
        self._metrics: dict[int, Mapping[str, float]] = {}
        """of each worker's newest rollout"""
        seed = config.seed if state is None else derive_seed(config.seed, f"resumed at {self._before.env_steps}")
        count, kind = config.workers.count, config.workers.kind
        rows, threads = config.num_envs // count, config.env_threads or 1
        steps_before = self._before.env_steps / config.num_envs
        on_cluster = {"ray_address": config.workers.ray_address, "worker_resources": {"CPU": threads}}
        self._workers = WORKERS[kind](
            partial(unit_environments, config.env, rows, config.sim_backend, config.env_cfg, threads, steps_before),
            ExploringPolicy(config, dims),
            config.env_steps_per_sync,
            count,
            config.batch_size,
            count if config.sync_collection else 1,
            True,
            [derive_seed(seed, f"worker {worker}") for worker in range(count)],
            self.replay,
            in_step=config.sync_collection,
            queue_size=QUEUE_SIZE,
            max_restarts=config.workers.max_restarts,
            hang_seconds=config.workers.hang_seconds,
            on_stored=self._count,
            **(on_cluster if kind == "ray" else {}),
        )
        self._filler = None if config.sync_collection else _Filler(self._workers, self.bell)

    def publish(self, weights: Mapping[str, Tensor]) -> int:
        named = ExploringPolicy.weights(weights, exploring=self._env_steps < self._random_steps)
        if self._filler is not None:
            return self._filler.publish(named)
        self._workers.broadcast_updated_policy(named)
        return self._workers.policy_version

    def proceed(self) -> None:
        self._started = self._started or time.monotonic()
        if self._filler is not None:
            self._filler.ensure_running()
        elif self._ordered is None:
            self._ordered = self._workers.rollouts + self._workers.rollouts_per_iteration
            self._workers.request_rollouts()

    def _count(self, rollout: Rollout) -> None:
        """A rollout was stored, by whichever thread stores them."""
        with self._counting:
            self._env_steps += rollout.env_steps
            self._faults += rollout.faults
            self._busy_seconds += rollout.seconds / self._workers.n_workers
            self._episodes.add(rollout.episodes.tolist())
            self._metrics[rollout.worker] = rollout.metrics

    def counters(self) -> CollectorCounters:
        """Busy and waiting seconds are those of a worker, the mean over all; so are the environment's own numbers."""
        with self._counting:
            told = list(self._metrics.values())
            names = set.intersection(*map(set, told)) if told else ()
            since_start = 0.0 if self._started is None else time.monotonic() - self._started
            now = CollectorCounters(
                env_steps=self._env_steps,
                episodes=self._episodes.finished,
                episode_return=self._episodes.mean_return,
                episode_length=self._episodes.mean_length,
                busy_seconds=self._busy_seconds,
                wait_seconds=max(0.0, since_start - self._busy_seconds),
                fault_count=self._faults,
                environment={name: sum(one[name] for one in told) / len(told) for name in sorted(names)},
            )
        return now.after(self._before)

    def close(self) -> None:
        if self._filler is not None:
            self._filler.stop()
        self._workers.stop()
        self._runner.stop_collectors()  # there are none, but a signal has set what interrupts the next run's waits
        self.replay.cleanup()

    def _finish(self, check: Check) -> None:
        interrupt = self._runner.interrupt
        while self._ordered is not None:
            self._workers.collect_rollouts(unless=interrupt)
            if self._workers.rollouts == self._ordered:
                self.acted_version = self._workers.acted_version
                self._ordered, self._fresh = None, True
            check()
            if interrupt.is_set():  # a signal has asked for the end: workers that hang are not waited for
                return

    def _catch_up(self) -> None:
        assert self._filler is not None
        self._filler.check()
        self.acted_version = self._filler.acted_version

    def _state(self, check: Check) -> None:
        self._finish(check)


class _Filler:
    """Stores what free-running workers make, in a thread of its own, through which all calls to them go."""

    def __init__(self, workers: BaseDistributedWorkersWithBuffer, bell: SharedFlag) -> None:
        self._bell = bell  # set when something was stored, and when the thread has failed
        self.acted_version = 0
        """as ``publish`` counted, of the weights that acted in the newest rollout"""
        self._workers = workers
        self._thread = threading.Thread(target=self._run, name="filler", daemon=True)
        self._stopping = SharedFlag()
        self._lock = threading.Lock()
        self._published = 0
        self._pending: dict[str, Tensor] | None = None
        self._error: Exception | None = None

    def publish(self, weights: Mapping[str, Tensor]) -> int:
        """Leave weights for the thread, which gives the newest ones to the workers; returns their version."""
        copies = {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}
        with self._lock:
            self._pending, self._published = copies, self._published + 1
            return self._published

    def ensure_running(self) -> None:
        if not self._thread.ident:
            self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End it; idempotent."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                with self._lock:
                    weights, version, self._pending = self._pending, self._published, None
                if weights is not None:
                    # what was published and replaced meanwhile counts as well
                    self._workers.policy_version = version - 1
                    self._workers.broadcast_updated_policy(weights)
                self._workers.collect_rollouts(unless=self._stopping)
                self.acted_version = self._workers.acted_version
                self._bell.set()
        except Exception as error:  # noqa: BLE001 - check() raises it in the learner's thread
            self._error = error
            self._bell.set()


def unit_environments(
    env: str, rows: int, sim_backend: str, env_cfg: Mapping[str, Any], threads: int, steps_before: float = 0
) -> UnitActions:
    """A worker's share of the environments, which take actions in [-1, 1]."""
    made = make(env, rows, sim_backend, env_cfg, 0, threads)
    made.steps_before = steps_before
    return UnitActions(made)


def worker_items(config: OffPolicyConfig, actor: BoundedActor, sizes: EnvSizes, threads: int) -> list[BudgetItem]:
    """The memory of workers: their policies, environments and rollouts.

    Args:
        threads: of the physics of each worker.
    """
    here, count, kind, dims = config.workers.here, config.workers.count, config.workers.kind, sizes.dims
    rows = config.num_envs // count
    layout = RolloutLayout(config.env_steps_per_sync, rows, dims.obs, dims.action, dims.critic)
    rollout = sum(array.nbytes for array in layout.allocate().values())
    weights = ExploringPolicy.weights(actor.state_dict(), exploring=True)
    policy = sum(value.nbytes for value in weights.values())
    copies = 2 * here + 3  # of each worker: the one that acts and the newest; of the learner: first, newest, next
    transitions = (2 * 4 + 1) * layout.num_steps * rows * (2 * dims.obs + dims.action + 3)
    items = [
        BudgetItem("workers' models", HOST, copies * policy, f"actor, {here} workers and the learner"),
        BudgetItem("inference", HOST, here * inference_bytes(rows, actor, dims), "noise and activations of a step"),
        BudgetItem("transitions", HOST, transitions, "of a rollout on its way to the replay buffer"),
        *dataclasses.replace(sizes, model_bytes=here * sizes.model_bytes).items(rows * here, here * threads),
    ]
    if kind == "sequential":
        return [*items, BudgetItem("rollouts", HOST, rollout, f"one of {layout.num_steps} steps")]
    if kind == "ray":
        size = 2 * count * rollout + KEPT_WEIGHTS * policy
        return [*items, BudgetItem("object store", SHM, pages(size), "rollouts on their way and the newest weights")]
    ring = ring_bytes(
        rows, layout.num_steps, dims.obs, dims.action, critic_dim=dims.critic, num_slots=QUEUE_SIZE,
        fields=layout.fields(),
    )  # fmt: skip
    sync = published_bytes(weights | {VERSION: torch.zeros((), dtype=torch.int64)})
    return [
        *items,
        BudgetItem("rollouts", SHM, count * pages(ring), f"room for {QUEUE_SIZE + 2} of each worker"),
        BudgetItem("weight sync", SHM, pages(sync), "3 buffers of the actor"),
    ]

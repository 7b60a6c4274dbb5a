"""What rollouts, weights, insertions and updates cost on this machine: the constants of ``scaling_model``.

All are processor time of the thread that does the work, medians over many executions, so that what else goes on in the
machine hardly changes them.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scaling_model import Costs

from harness.trainers.costs.offpolicy import measure, workload
from unilab.algos.torch.offpolicy.config import CONFIGS, OffPolicyConfig
from unilab.algos.torch.offpolicy.worker import ExploringPolicy
from unilab.algos.torch.offpolicy.worker_source import WORKERS, unit_environments
from unilab.distributed import BaseDistributedWorkersWithBuffer, RolloutWorker
from unilab.envs import EnvDims, env_dims
from unilab.ipc import ReplayBuffer
from unilab.machine.devices import usable_cores
from unilab.settings import parse

CAPACITY = 200_000
"""transitions of the replay buffer that is inserted into"""
TIMES = 60
"""executions of what is measured alone"""


@dataclass(frozen=True)
class Setting:
    """What workers do."""

    algorithm: str = "sac"
    env: str = "HalfCheetah"
    rows: int = 16
    """environments of a worker"""
    steps: int = 32
    """of a rollout"""
    batch_size: int = 256

    @property
    def config(self) -> OffPolicyConfig:
        """The run that this is a part of, on one thread."""
        threads = {"env_threads": 1, "inference_threads": 1, "learner_threads": 1}
        given: dict[str, Any] = {"env": self.env, "num_envs": self.rows, "batch_size": self.batch_size, **threads}
        return parse(CONFIGS[self.algorithm], given | {"learning_starts": 0, "algorithm.policy_frequency": 1})

    @property
    def dims(self) -> EnvDims:
        return env_dims(self.env)

    def policy(self) -> ExploringPolicy:
        """The policy that explores as it has learned to, not at random."""
        torch.manual_seed(0)
        policy = ExploringPolicy(self.config, self.dims)
        policy.exploring.fill_(False)
        return policy


@contextlib.contextmanager
def running(
    setting: Setting, kind: str, count: int, rollouts_per_iteration: int
) -> Iterator[BaseDistributedWorkersWithBuffer]:
    """So many free-running workers with a replay buffer of their own; they have made their first rollouts."""
    config, dims = setting.config, setting.dims
    replay = ReplayBuffer(CAPACITY, dims.obs, dims.action, "cpu", critic_dim=dims.critic)
    share = partial(unit_environments, setting.env, setting.rows, config.sim_backend, {}, 1)
    # All of them are to fit on this machine's cores, whose speed they share.
    room = {"ray_address": "local", "worker_resources": {"CPU": min(1.0, usable_cores() / count)}}
    try:
        with WORKERS[kind](
            share, setting.policy(), setting.steps, count, setting.batch_size, rollouts_per_iteration, True,
            range(count), replay, in_step=False, **(room if kind == "ray" else {}),
        ) as workers:  # fmt: skip
            for _ in range(2 * count):
                workers.collect_rollouts()
            yield workers
    finally:
        replay.cleanup()


def costs_of(setting: Setting, kind: str) -> Costs:
    """The costs of one kind of workers."""
    config, policy = setting.config, setting.policy()
    share = partial(unit_environments, setting.env, setting.rows, config.sim_backend, {}, 1)
    with contextlib.closing(RolloutWorker(share(), policy, setting.steps, seed=0)) as worker:
        layout = worker.layout
        written = layout.allocate()
        rollouts = spent(lambda: worker.rollout(written))
        weights = {name: value.clone() for name, value in policy.state_dict().items()}
        load = statistics.median(spent(lambda: worker.take_policy(weights, 1)))
        transitions = worker.rollout().transitions()
    insert, insert_bytes = insertion(setting, transitions)
    with running(setting, kind, 1, 1) as workers:
        taken = statistics.median(spent(workers.collect_rollouts))
        publish = statistics.median(spent(lambda: workers.broadcast_updated_policy(weights)))
    return Costs(
        env_steps=setting.rows * setting.steps,
        rollout_seconds=statistics.mean(rollouts),
        send_seconds=send_seconds(kind, written),
        receive_seconds=max(0.0, taken - insert),
        insert_seconds=insert,
        publish_seconds=publish,
        load_seconds=load,
        update_seconds=update_seconds(setting),
        rollout_bytes=sum(array.nbytes for array in written.values()),
        insert_bytes=insert_bytes,
        weight_bytes=sum(value.nbytes for value in weights.values()),
        spread=statistics.stdev(rollouts) / statistics.mean(rollouts),
    )


def insertion(setting: Setting, transitions: dict[str, Any]) -> tuple[float, int]:
    """Seconds and bytes of putting a rollout's transitions into a replay buffer."""
    dims = setting.dims
    replay = ReplayBuffer(CAPACITY, dims.obs, dims.action, "cpu", critic_dim=dims.critic)
    try:
        seconds = statistics.median(spent(lambda: replay.add(**transitions)))
        return seconds, 4 * replay.width * len(transitions["rewards"])
    finally:
        replay.cleanup()


def send_seconds(kind: str, written: dict[str, Any]) -> float:
    """Of a worker for handing a rollout over; in shared memory it is written where it is read."""
    if kind != "ray":
        return 0.0
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    try:
        return statistics.median(spent(lambda: ray.put(written)))
    finally:
        ray.shutdown()


def update_seconds(setting: Setting) -> float:
    """Of one update on one thread, the actor's share included."""
    config = setting.config
    parts = [part for part in workload(config, 1).parts if part.side == "learner"]
    return sum(measure(part, setting.algorithm).core_seconds * part.count for part in parts) / config.updates_per_step


def spent(work: Callable[[], object], times: int = TIMES) -> list[float]:
    """Seconds of processor time of this thread of each of so many executions, the first ones left out."""
    seconds = []
    for turn in range(-3, times):
        before = time.thread_time()
        work()
        if turn >= 0:
            seconds.append(time.thread_time() - before)
    return seconds


def throughput(setting: Setting, kind: str, count: int, rollouts_per_iteration: int, seconds: float) -> float:
    """Env steps a second that workers fill a replay buffer with, weights broadcast after every iteration."""
    weights = setting.policy().state_dict()
    with running(setting, kind, count, rollouts_per_iteration) as workers:
        before, began = workers.env_steps, time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            workers.collect_rollouts()
            workers.broadcast_updated_policy(weights)
        return (workers.env_steps - before) / passed

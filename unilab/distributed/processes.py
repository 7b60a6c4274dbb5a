"""Workers in processes of their own on this machine: rollouts and weights go through shared memory."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from unilab.distributed.remote import LOOK_SECONDS, Member, RemoteWorkers
from unilab.distributed.rollout import Rollout, RolloutLayout
from unilab.distributed.worker import RolloutWorker, WorkerPolicy
from unilab.envs import VecEnv
from unilab.ipc import CollectorError, RolloutRingBuffer, SharedFlag, SharedWeightSync
from unilab.ipc.process.group import CollectorGroup
from unilab.ipc.rollout_ring_buffer import WhenFull
from unilab.ipc.shared_memory.wakeup import Deadline
from unilab.run.acting import ActingStopped

VERSION = "version of the policy"
"""name of the tensor that travels with the weights"""

_STOP_SECONDS = 3.0
"""for all workers together to end when they are asked; those that have not are killed"""


@dataclass(frozen=True)
class Job:
    """What every worker process does."""

    env_factory: Callable[[], VecEnv]
    policy: WorkerPolicy
    num_steps: int
    seeds: tuple[int, ...]
    when_full: WhenFull


@dataclass(kw_only=True)
class _Process(Member):
    """One worker; the ring outlives the processes that write it."""

    ring: RolloutRingBuffer
    group: CollectorGroup | None = None
    orders: Connection | None = None


class ProcessWorkers(RemoteWorkers[_Process]):
    """Workers that are spawned processes, started by the first order.

    ``env_factory`` and ``worker_policy`` must be picklable. The factory is called once more in this process, for the
    sizes. Each worker's finished rollouts wait in a ring in shared memory, where a worker that dies leaves none half
    written and holds no lock. In step, weights that are broadcast while an order is under way wait until it is done.

    Raises:
        TypeError: something is not picklable.
        SharedMemoryFullError: /dev/shm is too small for the rings.
    """

    def _open(self) -> None:
        self._members: list[_Process] = []
        self._pending: dict[str, Tensor] | None = None
        self._dropped = 0
        weights = {**self._policy.state_dict(), VERSION: torch.zeros((), dtype=torch.int64)}
        self._weights = SharedWeightSync.from_state_dict(weights)
        seeds = self.env_instance_seeds
        self._job = _pickled(Job(self.env_factory, self._policy, self.n_rollout_steps, seeds, self.when_full))
        with self.env_factory() as env:
            self._layout = RolloutLayout.of(env, self.n_rollout_steps)
        self._bell = SharedFlag(get_context("spawn"))
        for index in range(self.n_workers):
            self._members.append(_Process(index=index, ring=self._ring()))

    def _ring(self) -> RolloutRingBuffer:
        layout = self._layout
        ring = RolloutRingBuffer(
            layout.num_envs,
            layout.num_steps,
            layout.obs_dim,
            layout.action_dim,
            critic_dim=layout.critic_dim,
            num_slots=self.queue_size,
            fields=layout.fields(),
        )
        ring.attach_sync_primitives(self._bell, ring.sync_primitives[1])  # one bell says that any worker has finished
        return ring

    def broadcast_updated_policy(self, state_dict: Mapping[str, Tensor]) -> None:
        self._check()
        weights = self._checked_weights(state_dict)
        self.policy_version += 1
        self._pending = weights | {VERSION: torch.tensor(self.policy_version)}
        self._tell_weights()

    @property
    def dropped(self) -> int:
        return self._dropped if self._stopped else sum(worker.ring.dropped for worker in self._members)

    def _tell_weights(self) -> None:
        """Unless an order is under way that was made before these."""
        if self._pending is not None and self._ordered <= self.rollouts:
            self._weights.write_weights(self._pending)
            self._pending = None

    def _waiting(self) -> int:
        return sum(worker.ring.available() for worker in self._members)

    def _has_rollout(self, worker: _Process) -> bool:
        return worker.ring.available() > 0

    def _take_rollout(self, worker: _Process) -> None:
        views, version = worker.ring.read_numpy_views(), worker.ring.read_policy_version
        self._store(Rollout.of_arrays(views, self._layout.event_names, version))
        worker.ring.advance_read()

    def _wait_for_news(self, unless: SharedFlag | None) -> None:
        flags = [self._bell, *(worker.group.interrupt for worker in self._members if worker.group is not None)]
        connection.wait([flag.fileno() for flag in (*flags, *filter(None, [unless]))], LOOK_SECONDS)
        self._bell.clear()
        self._supervise()

    # Processes

    def _start(self) -> None:
        for worker in self._members:
            self._launch(worker)

    def _supervise(self) -> None:
        passed = self._since_last_look()
        for worker in self._members:
            group = worker.group
            if group is None:
                continue
            if not group.failed:  # one that hangs is killed, which is noticed like every other death
                waiting = worker.ring.available()
                has_room = self.when_full != "wait" or waiting < self.queue_size
                working = has_room and (not self.in_step or worker.owed > waiting)
                env_steps = group.last_step()
                worker.stalled = worker.stalled + passed if working and env_steps == worker.env_steps else 0.0
                worker.env_steps = env_steps
                if worker.stalled >= (patience := self._patience(worker)):
                    worker.stalled = 0.0
                    group.kill_collectors(f"made no env step in {patience:g} s, and was killed by the learner,")
            if group.failed:  # what it had finished stays in its ring
                try:
                    group.check_collectors()
                except CollectorError as error:
                    self._restart(worker.index, str(error), error.traceback_text, error.__cause__)
                group.stop_collectors()
                if worker.orders is not None:
                    worker.orders.close()
                self._launch(worker)

    def _order(self, counts: list[int]) -> None:
        for worker, count in zip(self._members, counts, strict=True):
            worker.owed += count
            _send(worker, count)

    def _launch(self, worker: _Process) -> None:
        """Start its process, and in step order what it owes and its ring does not hold."""
        worker.renew()
        worker.group = CollectorGroup()
        orders = None
        if self.in_step:
            orders, worker.orders = worker.group.ctx.Pipe(duplex=False)
        arguments = (worker.group.stop_event, self._job, worker.ring, self._weights, orders)
        identity = (worker.index, worker.incarnation)
        worker.group.start_collector(work, (*arguments, *identity), name=f"worker-{worker.index}")
        if orders is not None:
            orders.close()  # so that the end of the process ends the pipe
            _send(worker, worker.owed - worker.ring.available())

    def _close(self) -> None:
        self._dropped = sum(worker.ring.dropped for worker in self._members)
        groups = [worker.group for worker in self._members if worker.group is not None]
        for group in groups:
            group.stop_event.set()
        deadline = Deadline(_STOP_SECONDS)
        for group in groups:
            group.stop_collectors(deadline.left())
        for worker in self._members:
            if worker.orders is not None:
                worker.orders.close()
            worker.ring.cleanup()
        self._weights.cleanup()


def _pickled(job: Job) -> bytes:
    """By plain pickle: torch's own way between processes would make all workers share one policy's memory."""
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"env_factory and worker_policy go to other processes, so they must be picklable: {error}; use functions "
            "and classes at the top level of a module, and functools.partial for arguments"
        ) from error


def _send(worker: _Process, count: int) -> None:
    """Order so many rollouts; if the process has just died, the one in its place gets the order."""
    if worker.orders is not None and count > 0:
        with suppress(ConnectionError):
            worker.orders.send(count)


def work(
    stop: SharedFlag,
    job: bytes,
    ring: RolloutRingBuffer,
    weights: SharedWeightSync,
    orders: Connection | None,
    index: int,
    incarnation: int,
) -> None:
    """A worker process: makes rollouts until it is told to stop.

    Args:
        stop: ends it.
        job: a pickled ``Job``.
        ring: where its rollouts go.
        weights: of the policy, with its version.
        orders: in step, how many rollouts to make; None: as many as fit.
        index, incarnation: which worker it is, and how often it was restarted.
    """
    task: Job = pickle.loads(job)
    newest = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in weights.param_shapes.items()}
    taken = 0
    env = task.env_factory()
    with (
        closing(ring),
        closing(weights),
        suppress(ActingStopped),
        RolloutWorker(
            env, task.policy, task.num_steps, task.seeds[index], worker=index, incarnation=incarnation
        ) as worker,
    ):
        for _ in _turns(ring, task.when_full, orders, stop):
            if weights.version != taken:
                taken = weights.read_weights_into(newest)
                version = int(newest[VERSION])
                worker.take_policy({name: value for name, value in newest.items() if name != VERSION}, version)
            rollout = worker.rollout(ring.write_buffer, stopped=stop.is_set)
            ring.policy_version = rollout.policy_version
            ring.signal_write_done()


def _turns(ring: RolloutRingBuffer, when_full: WhenFull, orders: Connection | None, stop: SharedFlag) -> Iterator[None]:
    """One after the other, when a rollout is wanted and there is room for it, until told to stop."""
    ordered = 0
    while not stop.is_set():
        if orders is not None and ordered == 0:
            connection.wait([orders, stop.fileno()])
            if stop.is_set():
                return
            ordered = orders.recv()
        elif when_full == "drop_oldest" or ring.wait_for_space(unless=stop):
            ordered -= 1
            yield

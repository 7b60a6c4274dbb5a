"""Workers in processes of their own on this machine: rollouts and weights go through shared memory."""

import pickle
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from unilab.distributed.rollout import Rollout, RolloutLayout
from unilab.distributed.supervision import LOOK_SECONDS, Fault, Member, SupervisedWorkers
from unilab.distributed.worker import RolloutWorker
from unilab.ipc import CollectorError, RolloutRingBuffer, SharedFlag, SharedWeightSync
from unilab.ipc.process.group import CollectorGroup
from unilab.ipc.shared_memory.wakeup import Deadline
from unilab.run.acting import ActingStopped

VERSION = "version of the policy"
"""name of the tensor that travels with the weights"""

_STOP_SECONDS = 3.0
"""for all workers together to end when they are asked; those that remain are killed"""


@dataclass(kw_only=True)
class _Process(Member):
    """One worker; the ring outlives the processes that write it."""

    ring: RolloutRingBuffer
    group: CollectorGroup | None = None
    orders: Connection | None = None


class ProcessWorkers(SupervisedWorkers[_Process]):
    """Workers that are spawned processes, started by the first order.

    ``env_factory`` and ``worker_policy`` must be picklable. The factory is called once more in this process, for the
    sizes. Each worker's finished rollouts wait in a ring in shared memory, where a worker that dies leaves none half
    written and holds no lock.

    Raises:
        TypeError: something is not picklable.
        SharedMemoryFullError: /dev/shm is too small for the rings.
    """

    def _open(self) -> None:
        self._members = []
        self._shared = ExitStack()
        weights = {**self._policy.state_dict(), VERSION: torch.zeros((), dtype=torch.int64)}
        self._weights = SharedWeightSync.from_state_dict(weights)
        self._shared.callback(self._weights.cleanup)
        try:  # by plain pickle: torch's own way between processes would make all workers share one policy's memory
            self._pickled = pickle.dumps((self.env_factory, self._policy))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"env_factory and worker_policy go to other processes, so they must be picklable: {error}; use "
                "functions and classes at the top level of a module, and functools.partial for arguments"
            ) from error
        with self.env_factory() as env:
            layout = RolloutLayout.of(env, self.n_rollout_steps)
        self._bell = SharedFlag()
        for index in range(self.n_workers):
            ring = RolloutRingBuffer(
                layout.num_envs,
                layout.num_steps,
                layout.obs_dim,
                layout.action_dim,
                critic_dim=layout.critic_dim,
                num_slots=self.queue_size,
                fields=layout.fields(),
            )
            self._shared.callback(ring.cleanup)
            ring.attach_sync_primitives(self._bell, ring.sync_primitives[1])  # one bell: any worker has finished
            self._members.append(_Process(index=index, ring=ring))

    def _publish(self, version: int, weights: dict[str, Tensor]) -> None:
        self._weights.write_weights(weights | {VERSION: torch.tensor(version)})

    def _launch(self, member: _Process) -> None:
        member.group = CollectorGroup()
        orders, member.orders = member.group.ctx.Pipe(duplex=False)
        arguments = (member.group.stop_event, self._pickled, self._job(member), member.ring, self._weights, orders)
        member.group.start_collector(work, arguments, name=f"worker-{member.index}")
        orders.close()  # so that the end of the process ends the pipe

    def _order(self, member: _Process, count: int) -> None:
        assert member.orders is not None
        with suppress(ConnectionError):  # it has just died; the one in its place gets the order
            for _ in range(count):
                member.orders.send(None)

    def _wait(self, unless: SharedFlag | None) -> None:
        flags = [self._bell, *(member.group.interrupt for member in self._members if member.group is not None)]
        connection.wait([flag.fileno() for flag in (*flags, *filter(None, [unless]))], LOOK_SECONDS)
        self._bell.clear()

    def _look(self) -> None:
        for member in self._members:
            member.waiting = member.ring.available()
            if member.group is not None:
                member.env_steps = member.group.last_step() or 0
                try:
                    member.group.check_collectors()
                except CollectorError as error:
                    member.fault = Fault(str(error), error.traceback_text, error.__cause__)

    def _take(self, member: _Process) -> None:
        views, version = member.ring.read_numpy_views(), member.ring.read_policy_version
        self._store(Rollout.of_arrays(views, version))
        member.ring.advance_read()
        member.waiting = member.ring.available()

    def _kill(self, member: _Process, patience: float) -> None:
        if member.group is not None:
            member.group.kill_collectors(f"made no env step in {patience:g} s, and was killed by the learner,")

    def _end(self, member: _Process) -> None:
        if member.group is not None:
            member.group.stop_collectors()
            member.group = None
        if member.orders is not None:
            member.orders.close()
            member.orders = None
        member.waiting = member.ring.available()

    def _close(self) -> None:
        groups = [member.group for member in self._members if member.group is not None]
        for group in groups:
            group.stop_event.set()
        deadline = Deadline(_STOP_SECONDS)
        for group in groups:
            group.stop_collectors(deadline.left())
        for member in self._members:
            self._end(member)
        self._shared.close()


def work(
    stop: SharedFlag,
    pickled: bytes,
    job: dict[str, Any],
    ring: RolloutRingBuffer,
    weights: SharedWeightSync,
    orders: Connection,
) -> None:
    """A worker process: makes rollouts until it is told to stop.

    Args:
        pickled: the factory of its environment, and its policy.
        job: further arguments of its ``RolloutWorker``.
        orders: one for each rollout; never more than the ring has room for.
    """
    env_factory, policy = pickle.loads(pickled)
    newest = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in weights.param_shapes.items()}
    taken = 0
    with closing(ring), closing(weights), closing(RolloutWorker(env_factory(), policy, **job)) as worker:
        while connection.wait([orders, stop.fileno()]) and not stop.is_set():
            try:
                orders.recv()
            except EOFError:  # the learner has died: the watchdog frees what it shared, then ends this process
                stop.wait()
                break
            if weights.version != taken:
                taken = weights.read_weights_into(newest)
                acting = {name: value for name, value in newest.items() if name != VERSION}
                worker.take_policy(acting, int(newest[VERSION]))
            with suppress(ActingStopped):
                rollout = worker.rollout(ring.write_buffer, stopped=stop.is_set)
                ring.policy_version = rollout.policy_version
                ring.signal_write_done()

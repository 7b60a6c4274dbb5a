"""Workers that are Ray actors, on this machine or on many."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from unilab.distributed.ray.actor import Delivery, RolloutActor
from unilab.distributed.ray.connection import RayConnection
from unilab.distributed.rollout import Rollout
from unilab.distributed.supervision import LOOK_SECONDS, Fault, Member, SupervisedWorkers
from unilab.ipc import SharedFlag
from unilab.ipc.shared_memory.wakeup import Deadline

logger = logging.getLogger(__name__)

_CONCURRENT_CALLS = 8
"""calls that an actor carries out at once: the one that counts, some that it ends, and questions"""

_ANSWER_SECONDS = 60.0
"""in which a worker answers even if it has no finished rollout, which shows that it lives"""

_UNREACHABLE_SECONDS = 10.0
"""for which every call to a worker may fail before it counts as dead, unless Ray says so earlier"""

_STOP_SECONDS = 2.0
"""for all workers to close their environments"""

_KILL_SECONDS = 1.0
"""for Ray to say that the workers are dead"""


@dataclass
class _Member(Member):
    """One worker, wherever it is."""

    actor: Any = None
    call: Any = None
    """reference to the answer to the newest call; None: it is not needed before its last rollout is stored"""
    replaced: Any = None
    """reference to the answer to the call that the newest one replaced"""
    has_started: bool = False
    """this incarnation has answered"""
    arrived: list[Rollout] = field(default_factory=list)
    taken: int = 0
    """sequence of this incarnation's next rollout that has not arrived"""
    unreachable: Deadline | None = None
    """by which a call must succeed; None: the last one did"""


class RayWorkers(SupervisedWorkers[_Member]):
    """Workers that are Ray actors, spread over the machines of a cluster, started by the first order.

    ``unilab`` and what ``env_factory`` and ``worker_policy`` are made of must be importable on all machines; a
    ``runtime_env`` goes to a ``ray.init`` of the caller's own, before this. Weights travel to each machine once a
    broadcast, and act in the rollouts that a freely running worker begins after they have arrived. A finished rollout
    stays with its worker until it is stored here. What has not arrived here when a worker dies is lost with it, and
    made again where it was ordered. Each worker has one call under way, which waits for its next rollout. New weights
    go with another call, which takes its place. A call is repeated if it failed and may not have been carried out.

    Args:
        ray_address: of the cluster, as for ``RayConnection``. If this process is connected already, that is used, and
            left connected by ``stop()``.
        worker_resources: what Ray sets aside for each worker, by its names, such as ``{"CPU": 4, "my_resource": 1}``;
            CPU is 1 by default. It limits nobody: the environment's own threads are to fit in.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: the cluster cannot be reached.
    """

    _room = 1  # what else has been finished waits where it was made

    def __init__(
        self,
        *args: Any,
        ray_address: str | None = None,
        worker_resources: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.ray_address = ray_address
        self.worker_resources = {"CPU": 1.0, **(worker_resources or {})}
        self._connection: RayConnection | None = None
        self._members = []
        super().__init__(*args, **kwargs)

    def _open(self) -> None:
        self._members = [_Member(index) for index in range(self.n_workers)]
        self._calls = 0
        self._version, self._weights = 0, None
        self._connection = RayConnection(self.ray_address)
        self._ray = self._connection.ray
        self._common = self._ray.put(self.env_factory), self._ray.put(self._policy)
        own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # Ray's names have options of their own
        options = {own[name]: amount for name, amount in self.worker_resources.items() if name in own}
        self._actor_class = self._ray.remote(RolloutActor).options(
            **options,
            resources={name: amount for name, amount in self.worker_resources.items() if name not in own},
            max_concurrency=_CONCURRENT_CALLS,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )

    def _publish(self, version: int, weights: dict[str, Tensor]) -> None:
        self._version, self._weights = version, self._ray.put(weights)
        for member in self._members:
            if self.in_step or member.call is None or not member.has_started:
                continue  # its next call tells it
            if member.replaced is None or self._answered([member.replaced], 0.0):
                member.replaced = member.call
                self._call(member)  # else it is too far behind, and every call keeps weights in memory

    def _launch(self, member: _Member) -> None:
        """Start its actor, wherever Ray finds room."""
        member.taken, member.has_started, member.unreachable = 0, False, None
        member.actor = self._actor_class.remote(*self._common, self._job(member), self.queue_size)

    def _order(self, member: _Member, count: int) -> None:
        self._call(member)

    def _call(self, member: _Member) -> None:
        """Send a worker its orders and weights, and ask for its next rollout."""
        until = member.taken + member.owed - len(member.arrived) if self.in_step else None
        seconds = min(_ANSWER_SECONDS, self.hang_seconds / 2) if member.has_started else 0.0
        self._calls += 1
        member.call = member.actor.exchange.remote(
            self._calls, member.taken, until, self._version, self._weights, seconds
        )

    def _wait(self, unless: SharedFlag | None) -> None:
        calls = [member.call for member in self._members if member.call is not None]
        self._ray.wait(calls, num_returns=1, timeout=LOOK_SECONDS)

    def _look(self) -> None:
        callers = {member.call: member for member in self._members if member.call is not None}
        for call in self._answered(list(callers), 0.0):
            self._receive(callers[call], call)

    def _receive(self, member: _Member, call: Any) -> None:
        errors = self._ray.exceptions
        member.call = None
        try:
            delivery: Delivery = self._ray.get(call)
        except errors.ActorUnavailableError as error:
            member.unreachable = member.unreachable or Deadline(_UNREACHABLE_SECONDS)
            if member.unreachable.left():
                self._call(member)
            else:
                what = f"It could not be reached for {_UNREACHABLE_SECONDS:g} s: {error}"
                member.fault = Fault(what, None, error)
            return
        except errors.RayActorError as error:
            if member.has_started or error.actor_init_failed:
                member.fault = Fault(str(error), None, error)
            else:
                logger.warning("worker %d lost its place before it started, and gets another: %s", member.index, error)
                self._end(member)
                self._launch(member)
                self._call(member)
            return
        except errors.ObjectLostError as error:
            member.fault = Fault(str(error), None, error)
            return
        member.has_started, member.unreachable = True, None
        member.env_steps = delivery.env_steps
        if delivery.rollout is not None:
            member.arrived.append(delivery.rollout)
            member.waiting = len(member.arrived)
            member.taken = delivery.rollout.sequence + 1
        elif delivery.failure is not None:
            member.fault = Fault.raised(delivery.failure.traceback_text, delivery.failure.cause())
        else:
            self._call(member)

    def _take(self, member: _Member) -> None:
        self._store(member.arrived.pop(0))
        member.waiting = len(member.arrived)
        if member.call is None:
            self._call(member)

    def _kill(self, member: _Member, patience: float) -> None:
        what = f"It made no env step in {patience:g} s."
        if not member.has_started:
            what = (
                f"It did not start within {patience:g} s. It needs {self.worker_resources}; the cluster has "
                f"{_amounts(self._ray.cluster_resources())}, of which {_amounts(self._ray.available_resources())} are "
                f"free, for {self.n_workers} workers: add machines, ask for less, or use fewer workers"
            )
        member.fault = Fault(what)

    def _end(self, member: _Member) -> None:
        self._ray.kill(member.actor)
        member.actor = member.call = member.replaced = None

    def _close(self) -> None:
        """Let them close their environments, then end them, and wait until Ray says that they are dead."""
        if self._connection is None:
            return
        if self._ray.is_initialized():
            alive = [member for member in self._members if member.actor is not None]
            self._answered([member.actor.close.remote() for member in alive if member.has_started], _STOP_SECONDS)
            for member in alive:
                self._ray.kill(member.actor)
            self._answered([member.actor.__ray_ready__.remote() for member in alive], _KILL_SECONDS)
        self._connection.close()

    def _answered(self, calls: list[Any], seconds: float) -> list[Any]:
        """Wait for the answers to all of these calls, so long at most; those that are there."""
        return self._ray.wait(calls, num_returns=len(calls), timeout=seconds)[0] if calls else []


def _amounts(resources: Mapping[str, float]) -> dict[str, float]:
    return {
        name: amount for name, amount in sorted(resources.items()) if not name.startswith(("node:", "object_store"))
    }

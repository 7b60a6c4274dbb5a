"""Workers that are Ray actors, on this machine or on many."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from unilab.distributed.base import WorkerError
from unilab.distributed.ray.actor import Delivery, Job, RolloutActor
from unilab.distributed.ray.connection import RayConnection
from unilab.distributed.remote import LOOK_SECONDS, Member, RemoteWorkers
from unilab.distributed.rollout import Rollout
from unilab.ipc import SharedFlag
from unilab.ipc.shared_memory.wakeup import Deadline

logger = logging.getLogger(__name__)

_CONCURRENT_CALLS = 8
"""calls that an actor carries out at once: one that waits for a rollout, those that tell it something, repeated ones"""

_CALLS_UNDER_WAY = 4
"""calls to one worker that tell it something and have not been answered; with so many, later news wait"""

_UNREACHABLE_SECONDS = 10.0
"""for which every call to a worker may fail before it counts as dead, unless Ray says so earlier"""

_STOP_SECONDS = 2.0
"""for all workers to close their environments"""

_KILL_SECONDS = 1.0
"""for Ray to say that the workers are dead"""

_COUNT_SECONDS = 1.0
"""for all workers to say how many finished rollouts they have"""


@dataclass
class _Member(Member):
    """One worker, wherever it is."""

    actor: Any = None
    deadline: Deadline | None = None
    """by which it must have started; None: it has"""
    delivery: Any = None
    """reference to the answer to the one call that takes its next rollout"""
    arrived: Rollout | None = None
    taken: int = 0
    """sequence of this incarnation's next rollout that the learner does not have"""
    told: tuple[int | None, int] = (0, -1)
    """what it was told last: how many rollouts to make, and the version of the weights"""
    calls: list[Any] = field(default_factory=list)
    """references to the answers that are due"""
    made: int = 0
    """in step: rollouts of this incarnation that were stored"""
    unreachable: Deadline | None = None
    """by which a call must succeed; None: the last one did"""
    dropped: int = 0
    dropped_before: int = 0
    """by earlier incarnations"""


class RayWorkers(RemoteWorkers[_Member]):
    """Workers that are Ray actors, spread over the machines of a cluster, started by the first order.

    ``unilab`` and what ``env_factory`` and ``worker_policy`` are made of must be importable on all machines; a
    ``runtime_env`` goes to a ``ray.init`` of the caller's own, before this. Weights travel to each machine once a
    broadcast, and act in the rollouts that a freely running worker begins after they have arrived. A finished rollout
    stays with its worker until it is stored here. What has not arrived here when a worker dies is lost with it, and
    made again where it was ordered. A call that failed without saying whether it was carried out is repeated, and a
    rollout that arrives twice is stored once.

    With ``when_full="drop_oldest"`` the rollout that is already on its way here is not given up.

    Args:
        ray_address: of the cluster, as for ``RayConnection``. If this process is connected already, that is used, and
            left connected by ``stop()``.
        worker_resources: what Ray sets aside for each worker, by its names, such as ``{"CPU": 4, "my_resource": 1}``;
            CPU is 1 by default. It limits nobody: the environment's own threads are to fit in.
        start_seconds: for a worker to find its place and to start.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: the cluster cannot be reached.
    """

    def __init__(
        self,
        *args: Any,
        ray_address: str | None = None,
        worker_resources: Mapping[str, float] | None = None,
        start_seconds: float = 120.0,
        **kwargs: Any,
    ) -> None:
        self.ray_address = ray_address
        self.worker_resources = {"CPU": 1.0, **(worker_resources or {})}
        self.start_seconds = start_seconds
        self._connection: RayConnection | None = None
        self._members: list[_Member] = []
        super().__init__(*args, **kwargs)

    def _open(self) -> None:
        self._members = [_Member(index) for index in range(self.n_workers)]
        self._newest_weights: tuple[int, Any] = (0, None)
        self._ordered_weights: tuple[int, Any] = (0, None)
        self._connection = RayConnection(self.ray_address)
        self._ray = self._connection.ray
        self._common = self._ray.put(self.env_factory), self._ray.put(self._policy)
        self._actor_class = self._ray.remote(RolloutActor).options(
            **_actor_options(self.worker_resources),
            max_concurrency=_CONCURRENT_CALLS,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )

    def broadcast_updated_policy(self, state_dict: Mapping[str, Tensor]) -> None:
        self._check()
        weights = self._ray.put(self._checked_weights(state_dict))
        self.policy_version += 1
        self._newest_weights = (self.policy_version, weights)
        self._tell_weights()

    @property
    def dropped(self) -> int:
        return sum(member.dropped_before + member.dropped for member in self._members)

    # Rollouts

    def _order(self, counts: list[int]) -> None:
        self._ordered_weights = self._newest_weights
        for member, count in zip(self._members, counts, strict=True):
            member.owed += count
        self._tell_weights()

    def _has_rollout(self, member: _Member) -> bool:
        return member.arrived is not None

    def _take_rollout(self, member: _Member) -> None:
        rollout, member.arrived = member.arrived, None
        assert rollout is not None
        self._store(rollout)
        if rollout.incarnation == member.incarnation:
            member.made += 1
            member.taken = rollout.sequence + 1
        if member.delivery is None and member.actor is not None:
            self._take(member)

    def _wait_for_news(self, unless: SharedFlag | None) -> None:
        self._gather(wait=True)

    def _waiting(self) -> int:
        """Finished rollouts that wait; of workers that do not answer at once, those that have arrived."""
        answers = {member.actor.waiting.remote(): member for member in self._running()}
        counts = [0 if member.arrived is None else 1 for member in self._members]
        for answer in self._wait_for(list(answers), _COUNT_SECONDS):
            with suppress(self._ray.exceptions.RayActorError):  # it is noticed by the call that takes its rollouts
                index = answers[answer].index
                counts[index] = max(counts[index], self._ray.get(answer))
        return sum(counts)

    # Workers

    def _start(self) -> None:
        for member in self._members:
            self._place(member, Deadline(self.start_seconds))

    def _supervise(self) -> None:
        self._gather(wait=False)
        self._tell_weights()

    def _place(self, member: _Member, deadline: Deadline) -> None:
        """Start the actor of a worker that has none, wherever Ray finds room."""
        member.renew()
        member.taken = member.made = 0
        member.told = (0, -1)
        member.unreachable = None
        member.deadline = deadline
        job = Job(
            self.n_rollout_steps,
            self.env_instance_seeds[member.index],
            member.index,
            member.incarnation,
            self.queue_size,
            self.when_full,
        )
        member.actor = self._actor_class.remote(*self._common, job)
        self._tell(member)
        if member.arrived is None:
            self._take(member)

    def _tell_weights(self) -> None:
        for member in self._members:
            if member.actor is not None:
                self._tell(member)

    def _tell(self, member: _Member) -> None:
        """Tell a worker how many rollouts to make with which weights, unless it knows or is too far behind."""
        version, weights = self._ordered_weights if self.in_step else self._newest_weights
        arrived = member.arrived is not None and member.arrived.incarnation < member.incarnation
        until = member.made + member.owed - arrived if self.in_step else None
        if member.told != (until, version) and len(member.calls) < _CALLS_UNDER_WAY:
            member.calls.append(member.actor.go_on.remote(until, version, weights))
            member.told = (until, version)

    def _take(self, member: _Member) -> None:
        member.delivery = member.actor.take.remote(member.taken)

    def _gather(self, *, wait: bool) -> None:
        """Receive the answers that have arrived; ``wait``: for one to arrive, but not longer than LOOK_SECONDS."""
        pending: dict[Any, _Member] = {}
        for member in self._members:
            pending |= dict.fromkeys([*member.calls, *filter(None, [member.delivery])], member)
        if not pending:
            return
        starting = [member for member in self._members if member.deadline is not None]
        references = list(pending)
        if wait:
            limits = [member.deadline.left() for member in starting if member.deadline]
            self._ray.wait(references, num_returns=1, timeout=min([LOOK_SECONDS, *limits]))
        for reference in self._wait_for(references, 0.0):
            member = pending[reference]
            if reference is member.delivery or reference in member.calls:  # and not of an actor replaced meanwhile
                self._receive(member, reference)
        for member in starting:
            if member.deadline is not None and not member.deadline.left():
                self._not_started(member)
        passed = self._since_last_look()
        for member in self._running():
            self._look_at(member, passed)

    def _look_at(self, member: _Member, passed: float) -> None:
        """Replace a worker that hangs. It is asked for its env steps only when it should have delivered long since."""
        working = member.delivery is not None and (not self.in_step or member.owed > 0)
        member.stalled = member.stalled + passed if working else 0.0
        if member.stalled < (patience := self._patience(member)):
            return
        member.stalled = 0.0
        answer, before = member.actor.env_steps.remote(), member.env_steps or 0
        with suppress(self._ray.exceptions.RayActorError):  # it is noticed by the call that takes its rollouts
            if self._wait_for([answer], _COUNT_SECONDS):
                member.env_steps = self._ray.get(answer)
            if (member.env_steps or 0) == before:
                self._replace(member, f"It made no env step in {patience:g} s.", None, None)

    def _receive(self, member: _Member, reference: Any) -> None:
        """Take one answer; if the worker died instead, replace it."""
        errors = self._ray.exceptions
        told = reference is not member.delivery
        try:
            answer = self._ray.get(reference)
        except errors.ActorUnavailableError as error:
            member.unreachable = member.unreachable or Deadline(_UNREACHABLE_SECONDS)
            if not member.unreachable.left():
                self._replace(member, f"It could not be reached for {_UNREACHABLE_SECONDS:g} s: {error}", None, error)
            else:
                self._repeat(member, reference, told=told)
            return
        except errors.RayActorError as error:
            if member.deadline is None or error.actor_init_failed:
                self._replace(member, str(error), None, error)
            else:
                logger.warning("worker %d lost its place before it started, and gets another: %s", member.index, error)
                self._end(member)
                self._place(member, member.deadline)
            return
        except errors.ObjectLostError as error:
            self._replace(member, str(error), None, error)
            return
        member.deadline = member.unreachable = None
        if told:
            member.calls.remove(reference)
        else:
            self._accept(member, answer)

    def _repeat(self, member: _Member, reference: Any, *, told: bool) -> None:
        """Call again: the first call may or may not have been carried out."""
        if told:
            member.calls.remove(reference)
            member.told = (0, -1)
            self._tell(member)
        else:
            self._take(member)

    def _accept(self, member: _Member, delivery: Delivery) -> None:
        member.delivery = None
        member.dropped = delivery.dropped
        if delivery.rollout is not None:
            member.arrived = delivery.rollout
            member.env_steps, member.stalled = max(1, member.env_steps or 0), 0.0
        elif delivery.failure is not None:
            text = delivery.failure.traceback_text
            self._replace(member, f"Its traceback:\n{text.rstrip()}", text, delivery.failure.cause())

    def _replace(self, member: _Member, what: str, text: str | None, cause: BaseException | None) -> None:
        self._end(member)
        self._restart(member.index, what, text, cause)
        self._place(member, Deadline(self.start_seconds))

    def _end(self, member: _Member) -> None:
        self._ray.kill(member.actor)
        member.actor = member.delivery = None
        member.calls = []
        member.dropped_before, member.dropped = member.dropped_before + member.dropped, 0

    def _not_started(self, member: _Member) -> None:
        self._failure = WorkerError(
            member.index,
            self.restarts,
            f"It did not start within {self.start_seconds:g} s. It needs {self.worker_resources}; the cluster has "
            f"{_amounts(self._ray.cluster_resources())}, of which {_amounts(self._ray.available_resources())} are "
            f"free, for {self.n_workers} workers: add machines, ask for less, or use fewer workers",
        )
        raise self._failure

    def _close(self) -> None:
        if self._connection is None:
            return
        if self._ray.is_initialized():
            self._end_actors()
        self._connection.close()

    def _end_actors(self) -> None:
        """Let them close their environments, then end them, and wait until Ray says that they are dead."""
        self._wait_for([member.actor.close.remote() for member in self._running()], _STOP_SECONDS)
        actors = [member.actor for member in self._members if member.actor is not None]
        for actor in actors:
            self._ray.kill(actor)
        self._wait_for([actor.waiting.remote() for actor in actors], _KILL_SECONDS)

    def _running(self) -> list[_Member]:
        """The workers that have started."""
        return [member for member in self._members if member.actor is not None and member.deadline is None]

    def _wait_for(self, references: list[Any], seconds: float) -> list[Any]:
        """Wait for all of these answers, so long at most; those that have arrived."""
        return self._ray.wait(references, num_returns=len(references), timeout=seconds)[0] if references else []


def _actor_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Ray's own names have options of their own."""
    others = {name: amount for name, amount in resources.items() if name not in ("CPU", "GPU", "memory")}
    known = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0), "resources": others}
    return known | ({"memory": resources["memory"]} if "memory" in resources else {})


def _amounts(resources: Mapping[str, float]) -> dict[str, float]:
    return {
        name: amount for name, amount in sorted(resources.items()) if not name.startswith(("node:", "object_store"))
    }

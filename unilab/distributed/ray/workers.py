"""Workers that are Ray actors, on this machine or on many."""

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from unilab.distributed.ray.actor import RolloutActor
from unilab.distributed.ray.connection import connect
from unilab.distributed.rollout import Rollout
from unilab.distributed.supervision import LOOK_SECONDS, Fault, Member, SupervisedWorkers
from unilab.ipc import SharedFlag
from unilab.ipc.process.child import Failure
from unilab.ipc.shared_memory.wakeup import Deadline

logger = logging.getLogger(__name__)

_OTHER_CALLS = 8
"""that an actor carries out at once besides those for rollouts: reports, weights, and calls that were repeated"""

_REPORT_SECONDS = 60.0
"""between two reports of a worker, at most; they show that it lives"""

_UNREACHABLE_SECONDS = 10.0
"""for which every call to a worker may fail before it counts as dead, unless Ray says so earlier"""

_STOP_SECONDS = 2.0
"""for all workers to close their environments"""

_KILL_SECONDS = 1.0
"""for Ray to say that the workers are dead"""


@dataclass
class _Member(Member):
    """One worker, wherever it is."""

    arrived: list[Rollout] = field(default_factory=list)
    actor: Any = None
    has_started: bool = False
    """this incarnation has answered"""
    calls: list[Any] = field(default_factory=list)
    """references to the rollouts that come next, in their order"""
    expected: int = 0
    """sequence of this incarnation's rollout that comes next"""
    report: Any = None
    """reference to the env steps that it has made when it has taken the weights; None: no such call is under way"""
    told: int = -1
    """version of the newest weights that it was given to take"""
    report_due: Deadline | None = None
    unreachable: Deadline | None = None
    """by which a call must succeed; None: the last one did"""


class RayWorkers(SupervisedWorkers[_Member]):
    """Workers that are Ray actors, spread over the machines of a cluster, started by the first order.

    ``unilab`` and what ``env_factory`` and ``worker_policy`` are made of must be importable on all machines; a
    ``runtime_env`` goes to a ``ray.init`` of the caller's own, before this. Weights travel to each machine once a
    broadcast, and act in the rollouts that a freely running worker begins after they have arrived. A finished rollout
    travels here when the learner waits for it, at the latest. What has not arrived here when a worker dies is lost with
    it, and made again where it was ordered. A worker has a call under way for each rollout that it is to make. A call
    is repeated if it failed and may not have been carried out.

    Args:
        ray_address: of the cluster, as for ``connect``. If this process is connected already, that is used, and
            left connected by ``stop()``.
        worker_resources: what Ray sets aside for each worker, by its names, such as ``{"CPU": 4, "my_resource": 1}``;
            CPU is 1 by default. It limits nobody: the environment's own threads are to fit in.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: the cluster cannot be reached.
    """

    def __init__(
        self,
        *args: Any,
        ray_address: str | None = None,
        worker_resources: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.ray_address = ray_address
        self.worker_resources = {"CPU": 1.0, **(worker_resources or {})}
        self._disconnect: Callable[[], object] | None = None
        self._members = []
        super().__init__(*args, **kwargs)

    def _open(self) -> None:
        self._members = [_Member(index) for index in range(self.n_workers)]
        self._version, self._weights = 0, None
        self._disconnect = connect(self.ray_address)
        self._ray = importlib.import_module("ray")
        self._common = self._ray.put(self.env_factory), self._ray.put(self._policy)
        own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # Ray's names have options of their own
        options = {own[name]: amount for name, amount in self.worker_resources.items() if name in own}
        self._actor_class = self._ray.remote(RolloutActor).options(
            **options,
            resources={name: amount for name, amount in self.worker_resources.items() if name not in own},
            max_concurrency=self.queue_size + _OTHER_CALLS,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )

    def _publish(self, version: int, weights: dict[str, Tensor]) -> None:
        self._version, self._weights = version, self._ray.put(weights)
        for member in self._members:
            if member.actor is not None:
                self._ask(member)

    def _launch(self, member: _Member) -> None:
        """Start its actor, wherever Ray finds room."""
        member.actor = self._actor_class.remote(*self._common, self._job(member))
        member.has_started, member.expected, member.told, member.unreachable = False, 0, -1, None
        self._ask(member)

    def _ask(self, member: _Member) -> None:
        """Give it newer weights, or ask for a report that is due; once at a time, as each call keeps its weights."""
        is_due = member.report_due is None or not member.report_due.left()
        if member.report is None and (is_due or member.told < self._version):
            member.report = member.actor.take_policy.remote(self._version, self._weights)
            member.told = self._version
            member.report_due = Deadline(min(_REPORT_SECONDS, self.hang_seconds / 2))

    def _order(self, member: _Member, count: int) -> None:
        for _ in range(count):
            member.calls.append(self._call(member, member.expected + len(member.calls)))

    def _call(self, member: _Member, sequence: int) -> Any:
        return member.actor.rollout.remote(sequence, member.expected, self._version)

    def _wait(self, unless: SharedFlag | None) -> None:
        # not for calls behind these, whose answers cannot be stored yet
        calls = [call for one in self._members for call in (*one.calls[:1], one.report) if call is not None]
        self._ray.wait(calls, num_returns=1, timeout=LOOK_SECONDS)

    def _look(self) -> None:
        calls = [call for one in self._members for call in (*one.calls, one.report) if call is not None]
        answered = set(self._answered(calls, 0.0))
        for member in self._members:
            while member.fault is None and member.calls and member.calls[0] in answered:
                rollout = self._answer(member, member.calls[0])
                if isinstance(rollout, Rollout):
                    member.calls.pop(0)
                    member.arrived.append(rollout)
                    member.expected += 1
                    member.env_steps = max(member.env_steps, member.expected * rollout.env_steps)
                elif isinstance(rollout, Failure):
                    member.fault = Fault.raised(rollout.traceback_text, rollout.cause())
                elif member.fault is None:
                    member.calls[0] = self._call(member, member.expected)
            if member.fault is None and member.report in answered:
                env_steps = self._answer(member, member.report)
                if env_steps is None:
                    member.told = -1
                else:
                    member.env_steps = max(env_steps, member.env_steps)
                member.report = None
            member.waiting = len(member.arrived)
            if member.actor is not None:
                self._ask(member)

    def _answer(self, member: _Member, call: Any) -> Any:
        """What a worker answered; None: nothing, and the call is to be made again unless the worker has a fault."""
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(call)
        except errors.ActorUnavailableError as error:
            member.unreachable = member.unreachable or Deadline(_UNREACHABLE_SECONDS)
            if not member.unreachable.left():
                what = f"It could not be reached for {_UNREACHABLE_SECONDS:g} s: {error}"
                member.fault = Fault(what, None, error)
        except errors.RayError as error:  # of an actor that Ray's memory monitor has killed it is no RayActorError
            if member.has_started or not isinstance(error, errors.RayActorError) or error.actor_init_failed:
                member.fault = Fault(str(error), None, error)
            else:
                logger.warning("worker %d lost its place before it started, and gets another: %s", member.index, error)
                self._end(member)
                self._launch(member)
                self._order(member, member.ordered - member.waiting)
        else:
            member.has_started, member.unreachable = True, None
            return answer
        return None

    def _take(self, member: _Member) -> None:
        self._store(member.arrived.pop(0))
        member.waiting = len(member.arrived)

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
        member.actor = member.report = member.report_due = None
        member.calls.clear()

    def _close(self) -> None:
        """Let them close their environments, then end them, and wait until Ray says that they are dead."""
        if self._disconnect is None:
            return
        if self._ray.is_initialized():
            alive = [member for member in self._members if member.actor is not None]
            self._answered([member.actor.close.remote() for member in alive if member.has_started], _STOP_SECONDS)
            for member in alive:
                self._ray.kill(member.actor)
            self._answered([member.actor.__ray_ready__.remote() for member in alive], _KILL_SECONDS)
        self._disconnect()

    def _answered(self, calls: list[Any], seconds: float) -> list[Any]:
        """Wait for the answers to all of these calls, so long at most; those that are there."""
        return self._ray.wait(calls, num_returns=len(calls), timeout=seconds)[0] if calls else []


def _amounts(resources: Mapping[str, float]) -> dict[str, float]:
    return {
        name: amount for name, amount in sorted(resources.items()) if not name.startswith(("node:", "object_store"))
    }

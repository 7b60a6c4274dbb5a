"""Workers in the learner's own process, one after the other: the reference for the other kinds."""

import copy
import traceback
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unilab.distributed.rollout import Rollout
from unilab.distributed.supervision import Fault, Member, SupervisedWorkers
from unilab.distributed.worker import RolloutWorker
from unilab.ipc import SharedFlag


@dataclass
class _Local(Member):
    worker: RolloutWorker | None = None
    made: Rollout | None = None


class SequentialWorkers(SupervisedWorkers[_Local]):
    """Workers that take turns in this process; always in step.

    An order is carried out by ``collect_rollouts()``, with the weights of the moment of the order. Nothing ever waits
    to be collected.
    """

    runs_freely: ClassVar[bool] = False

    def _open(self) -> None:
        self._members = [_Local(index) for index in range(self.n_workers)]
        self._version, self._weights = 0, dict[str, Tensor]()

    def _publish(self, version: int, weights: dict[str, Tensor]) -> None:
        self._version, self._weights = version, weights

    def _wait(self, unless: SharedFlag | None) -> None:
        """Make the rollout that is stored next."""
        member = self._members[self._due]
        try:
            if member.worker is None:
                member.worker = RolloutWorker(self.env_factory(), copy.deepcopy(self._policy), **self._job(member))
            if member.worker.policy_version != self._version:
                member.worker.take_policy(self._weights, self._version)
            member.made, member.waiting = member.worker.rollout(), 1
        except Exception as error:  # noqa: BLE001 - whatever environment or policy raise ends the worker
            member.fault = Fault.raised("".join(traceback.format_exception(error)), error)

    def _take(self, member: _Local) -> None:
        assert member.made is not None
        self._store(member.made)
        member.waiting = 0

    def _end(self, member: _Local) -> None:
        if member.worker is not None:
            member.worker.close()
            member.worker = None

    def _close(self) -> None:
        for member in self._members:
            self._end(member)

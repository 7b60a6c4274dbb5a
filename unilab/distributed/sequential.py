"""Workers in the learner's own process, one after the other: the oracle that the other kinds are measured by."""

import copy
import time
import traceback
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from unilab.distributed.base import BaseDistributedWorkersWithBuffer
from unilab.distributed.rollout import Rollout
from unilab.distributed.worker import RolloutWorker
from unilab.ipc import SharedFlag


class SequentialWorkers(BaseDistributedWorkersWithBuffer):
    """Workers that take turns in this process; always in step.

    An order is carried out by ``collect_rollouts()``, with the weights of the moment of the order. Nothing ever waits
    to be collected, so ``queue_size`` bounds nothing.
    """

    runs_freely: ClassVar[bool] = False

    def _open(self) -> None:
        self._workers: dict[int, RolloutWorker] = {}
        self._incarnations = [0] * self.n_workers
        self._weights: tuple[dict[str, Tensor], int] | None = None
        self._ordered_weights: tuple[dict[str, Tensor], int] | None = None

    def broadcast_updated_policy(self, state_dict: Mapping[str, Tensor]) -> None:
        self._check()
        weights = self._checked_weights(state_dict)
        self.policy_version += 1
        self._weights = (weights, self.policy_version)

    def collect_rollouts(self, *, unless: SharedFlag | None = None) -> tuple[int, int, float]:
        began = time.monotonic()
        self.request_rollouts()
        while self.rollouts < self._ordered and not (unless and unless.is_set()):
            self._store(self._made(self._turn))
        return 0, 0, time.monotonic() - began

    def _order(self, counts: list[int]) -> None:
        self._ordered_weights = self._weights

    def _made(self, index: int) -> Rollout:
        """The worker's next rollout; if it raises, that of the worker in its place."""
        while True:
            try:
                return self._worker(index).rollout()
            except Exception as error:  # noqa: BLE001 - whatever environment or policy raise ends the worker
                self._discard(index)
                text = "".join(traceback.format_exception(error))
                self._restart(index, f"Its traceback:\n{text.rstrip()}", text, error)
                self._incarnations[index] += 1

    def _worker(self, index: int) -> RolloutWorker:
        if index not in self._workers:
            self._workers[index] = RolloutWorker(
                self.env_factory(),
                copy.deepcopy(self._policy),
                self.n_rollout_steps,
                self.env_instance_seeds[index],
                worker=index,
                incarnation=self._incarnations[index],
            )
        worker = self._workers[index]
        if self._ordered_weights is not None and self._ordered_weights[1] != worker.policy_version:
            worker.take_policy(*self._ordered_weights)
        return worker

    def _discard(self, index: int) -> None:
        if index in self._workers:
            self._workers.pop(index).close()

    def _close(self) -> None:
        for index in list(self._workers):
            self._discard(index)

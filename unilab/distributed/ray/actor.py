"""A worker behind calls that may be lost or repeated, as those between machines are."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from unilab.distributed.rollout import Rollout
from unilab.distributed.worker import RolloutWorker, WorkerPolicy
from unilab.envs import VecEnv
from unilab.ipc.process.child import Failure
from unilab.run.acting import ActingStopped


@dataclass(frozen=True)
class Delivery:
    """The answer to ``RolloutActor.exchange``."""

    rollout: Rollout | None
    """None: there is none yet, or there are none any more"""
    failure: Failure | None
    """why there are none any more; None: there may be more, or it was told to stop"""
    env_steps: int
    """that it has made, by which the learner sees whether it hangs"""


class RolloutActor:
    """Makes rollouts in a thread and keeps each until the learner says that it has it.

    A learner that does not know whether its call arrived calls again, under a higher number. Calls may overtake each
    other; the one with the highest number counts.

    Args:
        env_factory: makes the environment.
        policy: the worker's own.
        job: further arguments of its ``RolloutWorker``.
        queue_size: as for all workers.
    """

    def __init__(
        self, env_factory: Callable[[], VecEnv], policy: WorkerPolicy, job: Mapping[str, int], queue_size: int
    ) -> None:
        self._changed = threading.Condition()
        self._call = -1
        self._until: int | None = 0
        self._version = 0
        self._weights: Mapping[str, Tensor] | None = None
        self._made = 0
        self._finished: deque[Rollout] = deque()
        self._stopping = self._over = False
        self._worker: RolloutWorker | None = None
        self._failure: Failure | None = None

        def make() -> RolloutWorker:
            return RolloutWorker(env_factory(), policy, **job)

        self._thread = threading.Thread(target=self._run, args=(make, queue_size), name="rollouts", daemon=True)
        self._thread.start()

    def exchange(
        self,
        call: int,
        taken: int,
        until: int | None,
        version: int,
        weights: Mapping[str, Tensor] | None,
        seconds: float,
    ) -> Delivery:
        """Take the learner's orders, and wait for the oldest finished rollout that the learner does not have.

        Args:
            call: number of this call; a call with a higher one ends its wait, and makes it say nothing.
            taken: the learner has the rollouts with a smaller ``sequence``.
            until: rollouts to make since the beginning; None: without end.
            version, weights: what acts from the next rollout on; None: the policy's first weights.
            seconds: to wait at most.
        """
        with self._changed:
            if call > self._call:
                self._call, self._until = call, until
                self._version, self._weights = version, weights
                while self._finished and self._finished[0].sequence < taken:
                    self._finished.popleft()
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._finished or self._over or self._call > call, seconds)
            rollout, failure = None, None
            if self._call == call and self._finished:
                rollout = self._finished[0]
            elif self._call == call and self._over:
                failure = self._failure
            env_steps = 0 if self._worker is None else self._worker.env_steps
            return Delivery(rollout, failure, env_steps)

    def close(self) -> None:
        """Stop within an env step and close the environment."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self, make: Callable[[], RolloutWorker], queue_size: int) -> None:
        def may_go_on() -> bool:
            wanted = self._until is None or self._made < self._until
            return self._stopping or (wanted and len(self._finished) < queue_size)

        try:
            with closing(make()) as worker:
                self._worker = worker
                while True:
                    with self._changed:
                        self._changed.wait_for(may_go_on)
                        version, weights = self._version, self._weights
                    if self._stopping:
                        break
                    if weights is not None and version != worker.policy_version:
                        worker.take_policy(weights, version)
                    rollout = worker.rollout(stopped=lambda: self._stopping)
                    with self._changed:
                        self._made += 1
                        self._finished.append(rollout)
                        self._changed.notify_all()
        except ActingStopped:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the learner and is raised there
            self._failure = Failure.of(error)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

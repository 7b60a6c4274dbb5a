"""A worker behind calls that may be lost or repeated, as those between machines are."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from unilab.distributed.rollout import Rollout
from unilab.distributed.worker import RolloutWorker, WorkerPolicy
from unilab.envs import VecEnv
from unilab.ipc.process.child import Failure
from unilab.ipc.rollout_ring_buffer import WhenFull
from unilab.run.acting import ActingStopped


@dataclass(frozen=True)
class Job:
    """What a worker does, in which incarnation."""

    num_steps: int
    seed: int
    worker: int
    incarnation: int
    queue_size: int
    when_full: WhenFull


@dataclass(frozen=True)
class Delivery:
    """The answer to ``RolloutActor.take``."""

    rollout: Rollout | None
    """None: there are none any more"""
    failure: Failure | None
    """why there are none any more; None: it was told to stop"""
    dropped: int
    """finished rollouts that were given up so far"""


class RolloutActor:
    """Makes rollouts in a thread and keeps each until the learner says that it has it.

    Every method may be called again with the same arguments, by a learner that does not know whether its call arrived.
    Calls may overtake each other.
    """

    def __init__(self, env_factory: Callable[[], VecEnv], policy: WorkerPolicy, job: Job) -> None:
        self._env_factory = env_factory
        self._policy = policy
        self._job = job
        self._changed = threading.Condition()
        self._weights: Mapping[str, Tensor] | None = None
        self._version = 0
        self._until: int | None = 0
        self._made = 0
        self._finished: deque[Rollout] = deque()
        self._taken = 0
        self._delivered = -1
        self._dropped = 0
        self._stopping = self._over = False
        self._worker: RolloutWorker | None = None
        self._failure: Failure | None = None
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()

    def go_on(self, until: int | None, version: int, weights: Mapping[str, Tensor] | None) -> None:
        """Make rollouts until there were so many (None: for ever), from the next one on with these weights.

        Args:
            until: rollouts since the beginning.
            version: of the weights; older ones than it has are ignored.
            weights: None with version 0: the policy's first ones.
        """
        with self._changed:
            if version > self._version:
                self._weights, self._version = weights, version
            if until is None or self._until is None:
                self._until = None
            else:
                self._until = max(until, self._until)
            self._changed.notify_all()

    def take(self, taken: int) -> Delivery:
        """Wait for the oldest finished rollout that the learner does not have.

        Args:
            taken: the learner has those with a smaller ``sequence``.
        """
        with self._changed:
            self._taken = max(self._taken, taken)
            while self._finished and self._finished[0].sequence < self._taken:
                self._finished.popleft()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._finished or self._over)
            if not self._finished:
                return Delivery(None, self._failure, self._dropped)
            self._delivered = self._finished[0].sequence
            return Delivery(self._finished[0], None, self._dropped)

    def waiting(self) -> int:
        """Finished rollouts that the learner has not said to have."""
        with self._changed:
            return len(self._finished)

    def env_steps(self) -> int:
        """Env steps that it has made, of which the learner sees whether it gets on."""
        return 0 if self._worker is None else self._worker.env_steps

    def close(self) -> None:
        """Stop within an env step and close the environment."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        job = self._job
        try:
            with RolloutWorker(
                self._env_factory(),
                self._policy,
                job.num_steps,
                job.seed,
                worker=job.worker,
                incarnation=job.incarnation,
            ) as worker:
                self._worker = worker
                while True:
                    with self._changed:
                        self._changed.wait_for(self._may_go_on)
                        weights, version = self._weights, self._version
                    if self._stopping:
                        break
                    if weights is not None and version != worker.policy_version:
                        worker.take_policy(weights, version)
                    self._finish(worker.rollout(stopped=lambda: self._stopping))
        except ActingStopped:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the learner and is raised there
            self._failure = Failure.of(error)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _may_go_on(self) -> bool:
        """Whether a rollout is wanted and there is room for it, or it is to stop."""
        wanted = self._until is None or self._made < self._until
        has_room = self._job.when_full == "drop_oldest" or len(self._finished) < self._job.queue_size
        return self._stopping or (wanted and has_room)

    def _finish(self, rollout: Rollout) -> None:
        """Keep a rollout. Where that makes too many, the oldest goes that is not on its way to the learner."""
        with self._changed:
            self._made += 1
            self._finished.append(rollout)
            if len(self._finished) > self._job.queue_size:
                del self._finished[1 if self._finished[0].sequence <= self._delivered else 0]
                self._dropped += 1
            self._changed.notify_all()

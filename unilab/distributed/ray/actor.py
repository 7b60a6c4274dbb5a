"""A worker behind calls that may be lost or repeated, as those between machines are."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from unilab.distributed.rollout import Rollout
from unilab.distributed.worker import RolloutWorker, WorkerPolicy
from unilab.envs import VecEnv
from unilab.ipc.process.child import Failure
from unilab.run.acting import ActingStopped


class RolloutActor:
    """Makes each rollout when it is first asked for, and keeps it until the learner has it.

    A learner that does not know whether a call was carried out makes it again. Calls may run at the same time, and
    overtake each other: rollouts are made in their order, and the newest weights act. One thread makes the
    environment, steps and closes it, as some environments demand.

    Args:
        env_factory: makes the environment, at the first call for a rollout.
        policy: the worker's own.
        job: further arguments of its ``RolloutWorker``.
    """

    def __init__(self, env_factory: Callable[[], VecEnv], policy: WorkerPolicy, job: Mapping[str, int]) -> None:
        self._env_factory = env_factory
        self._policy = policy
        self._job = job
        self._worker: RolloutWorker | None = None
        self._failure: Failure | None = None
        self._made = 0
        self._kept: dict[int, Rollout] = {}
        self._newest: tuple[int, Mapping[str, Tensor] | None] = (0, None)
        self._maker = ThreadPoolExecutor(1)
        self._has_news = threading.Condition()
        self._stopping = threading.Event()

    def rollout(self, sequence: int, arrived: int, version: int) -> Rollout | Failure | None:
        """One rollout; or why there are no more. None: it was told to stop, or the learner has this rollout.

        Args:
            sequence: of the rollout.
            arrived: the learner has the rollouts before this one.
            version: of weights that must be there before it is made.
        """
        with self._has_news:
            self._has_news.wait_for(lambda: self._newest[0] >= version or self._stopping.is_set())
        return self._maker.submit(self._make, sequence, arrived).result()

    def _make(self, sequence: int, arrived: int) -> Rollout | Failure | None:
        self._kept = {number: rollout for number, rollout in self._kept.items() if number >= arrived}
        try:
            try:
                while self._made <= sequence and self._failure is None and not self._stopping.is_set():
                    if self._worker is None:
                        self._worker = RolloutWorker(self._env_factory(), self._policy, **self._job)
                    version, weights = self._newest
                    if weights is not None and version != self._worker.policy_version:
                        self._worker.take_policy(weights, version)
                    self._kept[self._made] = self._worker.rollout(stopped=self._stopping.is_set)
                    self._made += 1
            except BaseException:
                self._close_worker()  # now: the learner kills an actor that has failed
                raise
        except ActingStopped:
            return None
        except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the learner and is raised there
            self._failure = Failure.of(error)
        return self._kept.get(sequence, self._failure)

    def _close_worker(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def take_policy(self, version: int, weights: Mapping[str, Tensor] | None) -> int:
        """Act with these weights from the next rollout on, unless newer ones are there.

        Returns:
            env steps that it has made, by which the learner sees whether it hangs.
        """
        with self._has_news:
            if version > self._newest[0]:
                self._newest = version, weights
                self._has_news.notify_all()
        return 0 if self._worker is None else self._worker.env_steps

    def close(self) -> None:
        """Stop within an env step and close the environment."""
        self._stopping.set()
        with self._has_news:
            self._has_news.notify_all()
        self._maker.submit(self._close_worker).result()

"""Workers that fill a replay buffer: what all kinds of them promise, and what they have in common."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from unilab.distributed.buffers import NotEnoughEntriesError, RolloutBuffer, TransitionBuffer
from unilab.distributed.rollout import Rollout
from unilab.distributed.statistics import EpochStatistics, StatsLevel
from unilab.distributed.worker import WorkerPolicy
from unilab.envs import VecEnv
from unilab.ipc import SharedFlag
from unilab.ipc.collector_error import ProcessFailure
from unilab.machine.devices import check_device
from unilab.tracing.spans import span

_FRUITLESS_COLLECTIONS = 100
"""times in a row that prefill() collects without adding anything before it gives up"""


class WorkerError(ProcessFailure):
    """A worker died or raised, and may not be restarted (any more).

    Its message has the original traceback; where the exception itself arrived it is ``__cause__``.

    Attributes:
        worker: which one, 0 to n_workers - 1.
        restarts: how often workers were restarted before.
        traceback_text: the original traceback, or None if it raised nothing.
    """

    def __init__(self, worker: int, restarts: int, what: str, traceback_text: str | None = None) -> None:
        self.worker = worker
        self.restarts = restarts
        self.what = what
        self.traceback_text = traceback_text
        super().__init__(
            f"worker {worker} failed after {restarts} restarts, which is all that max_restarts allows. {what}"
        )

    @property
    def where(self) -> str:
        return f"in worker {self.worker}"

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerError, (self.worker, self.restarts, self.what, self.traceback_text)


class BaseDistributedWorkersWithBuffer(ABC):
    """Workers that act in environments of their own and fill a replay buffer in the learner's process.

    The learner's loop::

        with ProcessWorkers(make_env, policy, 32, 4, 256, 4, True, range(4), replay) as workers:
            workers.prefill(10_000)
            while True:
                workers.request_rollouts()                      # optional: the workers go on while the learner learns
                learner.update(workers.sample_batch("cpu"))
                workers.broadcast_updated_policy(policy.state_dict())
                workers.collect_rollouts()

    A rollout has exactly T = ``n_rollout_steps`` steps of the N rows of one worker's environment, and goes on across
    the ends of episodes. A worker takes the newest weights before a rollout, never inside one; each rollout carries
    their version. It is stored once, as a whole.

    In step (``in_step=True``) ``request_rollouts()``, or else ``collect_rollouts()``, orders rollouts. The k-th rollout
    ever is that of worker k % ``n_workers``, and they are stored in this order. The newest weights at the moment of the
    order act; what is broadcast later acts in the next order. So what is stored depends on the seeds alone, bit for bit
    the same in all implementations on one machine, also after restarts of workers that raised. (After one that was
    killed it depends on what it had finished by then.) Freely (``in_step=False``) workers make rollouts without orders,
    up to ``queue_size`` ahead, and then wait.

    A call that waits notices at once when a worker dies or raises; every other method that talks to workers, or
    samples, notices it when it is called. A process that hangs is noticed while it is waited for, and killed. As long
    as ``max_restarts`` allows, the worker is restarted, with new episodes and a warning in the log. Otherwise all these
    methods raise WorkerError from then on.

    One thread at a time may use it.

    Args:
        env_factory: makes one environment; each worker calls it once in its own process, and resets it with its seed.
            Actions of the policy go to it and into the buffer as they are.
        worker_policy: each worker acts with a copy of its own, on the CPU and one thread, and draws its random numbers
            from a stream of its own, derived from its seed.
        n_rollout_steps: T.
        n_workers: number of workers.
        batch_size: B, entries that ``sample_batch`` draws.
        rollouts_per_iteration: rollouts that one ``collect_rollouts()`` stores, of all workers together.
        split_rollouts_into_transitions: whether entries are transitions, or else sequences of T steps (N a rollout).
        env_instance_seeds: one seed for each worker.
        replay_buffer: a ``TransitionBuffer`` or a ``RolloutBuffer``, accordingly. It stays the caller's to close.
        in_step: make rollouts when they are ordered, or freely.
        queue_size: finished rollouts of each worker that may wait to be collected.
        max_restarts: of all workers together.
        hang_seconds: a worker in a process of its own hangs if it makes no env step for so long although it should;
            its first step may take two minutes. On a Ray cluster that is noticed after twice as long at most.
        on_stored: called with each rollout that was stored, by whoever collects; it must not keep its arrays.

    Raises:
        ValueError: an impossible number, another number of seeds than of workers, a batch larger than the buffer, a
            policy that is not on the CPU.
        TypeError: the buffer is of the wrong kind.
    """

    runs_freely: ClassVar[bool] = True
    """whether ``in_step=False`` is possible"""

    def __init__(
        self,
        env_factory: Callable[[], VecEnv],
        worker_policy: WorkerPolicy,
        n_rollout_steps: int,
        n_workers: int,
        batch_size: int,
        rollouts_per_iteration: int,
        split_rollouts_into_transitions: bool,
        env_instance_seeds: Sequence[int],
        replay_buffer: TransitionBuffer | RolloutBuffer,
        *,
        in_step: bool = True,
        queue_size: int = 2,
        max_restarts: int = 0,
        hang_seconds: float = 120.0,
        on_stored: Callable[[Rollout], None] | None = None,
    ) -> None:
        self.env_factory = env_factory
        self.n_rollout_steps = n_rollout_steps
        self.n_workers = n_workers
        self.batch_size = batch_size
        self.rollouts_per_iteration = rollouts_per_iteration
        self.env_instance_seeds = tuple(int(seed) for seed in env_instance_seeds)
        self.in_step = in_step
        self.queue_size = queue_size
        self.max_restarts = max_restarts
        self.hang_seconds = hang_seconds
        self._on_stored = on_stored
        self.replay_buffer = replay_buffer
        self.split_rollouts_into_transitions = split_rollouts_into_transitions
        self._check_arguments()
        self.policy_version = 0
        """version of the newest weights that were broadcast; 0: none were. The next version is one more; a caller that
        counts versions which it does not broadcast may raise it"""
        self.acted_version = 0
        """version of the weights that acted in the newest rollout that was stored"""
        self.env_steps = 0
        """env steps of the rollouts that were stored"""
        self.rollouts = 0
        """rollouts that were stored"""
        self.fault_count = 0
        """steps that failed numerically in the rollouts that were stored"""
        self.restarts = 0
        """how often a worker was restarted"""
        self._policy = copy.deepcopy(worker_policy)  # the learner may go on to change the one that it gave
        for name, value in self._policy.state_dict().items():
            if value.device.type != "cpu":
                raise ValueError(
                    f"worker_policy has {name} on {value.device}, and workers act on the CPU: pass a copy that is "
                    "there; what is broadcast may be on any device"
                )
        self._expected_weights = _layout(self._policy.state_dict())
        self._statistics = EpochStatistics()
        self._failure: WorkerError | None = None
        self._stopped = False
        try:
            self._open()
        except BaseException:
            self.stop()
            raise

    # The contract

    @abstractmethod
    def broadcast_updated_policy(self, state_dict: Mapping[str, Tensor]) -> None:
        """Give these weights to the workers, as the next version; they are copied before it returns.

        Raises:
            ValueError: they are not the policy's in names, shapes or dtypes; nothing is broadcast.
            WorkerError: a worker died and may not be restarted.
        """

    @abstractmethod
    def collect_rollouts(self, *, unless: SharedFlag | None = None) -> tuple[int, int, float]:
        """Wait for ``rollouts_per_iteration`` rollouts, as long as it takes, and store them.

        Args:
            unless: a flag that ends the wait when it is set. In step, the next call goes on with what is missing.

        Returns:
            finished rollouts that were waiting before and after (of workers on a Ray cluster, those that had arrived
            here), and the seconds until all of these were stored.

        Raises:
            WorkerError: a worker died and may not be restarted. What was stored before stays; finished rollouts that
                still waited are lost.
        """

    def request_rollouts(self) -> None:
        """Start the workers, unless they run. In step, order the next iteration's rollouts, unless they are ordered.

        Raises:
            WorkerError: a worker died and may not be restarted.
        """
        self._check()

    def prefill(self, entries: int) -> None:
        """Collect until the buffer holds at least so many entries: transitions, or sequences if rollouts stay whole.

        Raises:
            ValueError: it can never hold so many.
            RuntimeError: 100 collections in a row added nothing to it.
            WorkerError: a worker died and may not be restarted.
        """
        if entries > self.replay_buffer.capacity:
            raise ValueError(
                f"prefill: {entries} entries were asked for, and the replay buffer holds at most "
                f"{self.replay_buffer.capacity}: ask for fewer, or make a larger one"
            )
        fruitless = 0
        while (before := len(self.replay_buffer)) < entries:
            self.collect_rollouts()
            fruitless = 0 if len(self.replay_buffer) > before else fruitless + 1
            if fruitless == _FRUITLESS_COLLECTIONS:
                raise RuntimeError(
                    f"prefill: the replay buffer still holds {before} of {entries} entries after {fruitless} further "
                    f"collections; {self.fault_count} of {self.env_steps} env steps failed numerically and are left "
                    "out: see the log for the environment's faults"
                )

    def sample_batch(self, learner_device: torch.device | str) -> dict[str, Tensor]:
        """A random batch: name to tensor on ``learner_device``, [B, ...] or, if rollouts stay whole, [T, B, ...].

        The names are those of ``ReplayBuffer.sample`` or of ``RolloutBuffer.sample``.

        Raises:
            NotEnoughEntriesError: the buffer holds fewer than ``batch_size`` entries.
            DeviceError: there is no such device.
            WorkerError: a worker died and may not be restarted.
        """
        device = check_device(str(learner_device), "learner_device")
        if not self._stopped:
            self._check()
        if len(self.replay_buffer) < self.batch_size:
            raise NotEnoughEntriesError(
                f"sample_batch: the replay buffer holds {len(self.replay_buffer)} entries, a batch has "
                f"{self.batch_size}: call prefill({self.batch_size}) or collect_rollouts() first"
            )
        return {name: value.to(device) for name, value in self.replay_buffer.sample(self.batch_size).items()}

    def get_epoch_stats_aggregator(self) -> EpochStatistics:
        """Statistics of the episodes that ended in stored rollouts; ``reduce()`` of it ends an epoch."""
        return self._statistics

    def get_stats_value(self, event: str, level: StatsLevel | str, name: str | None = None) -> float:
        """One statistic; the same as ``value`` of the aggregator, with its errors."""
        return self._statistics.value(event, level, name)

    def stop(self) -> None:
        """End the workers and free all that they shared (idempotent). What was stored stays, and can be sampled."""
        if not self._stopped:
            self._stopped = True
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What an implementation provides

    def _open(self) -> None:  # noqa: B027 - not every kind has something to do here
        """Make what is needed before the first broadcast; the constructor's last act. No worker starts here."""

    def _supervise(self) -> None:  # noqa: B027 - not every kind has something to do here
        """Restart workers that died, or set ``_failure`` and raise it; do not wait for anything."""

    def _close(self) -> None:  # noqa: B027 - not every kind has something to do here
        """End and free everything; called once."""

    # What an implementation uses

    def _check(self) -> None:
        """Raise what is wrong with the workers; every method that talks to them begins with this."""
        if self._stopped:
            raise RuntimeError(f"{type(self).__name__} was stopped; make a new one")
        if self._failure is not None:
            raise self._failure
        self._supervise()

    def _checked_weights(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Detached copies of the weights on the CPU, in the order of the policy's own.

        Raises:
            ValueError: they are not the policy's in names, shapes or dtypes.
        """
        found = _layout(state_dict)
        if found != self._expected_weights:
            names = sorted(
                name
                for name in found.keys() | self._expected_weights.keys()
                if found.get(name) != self._expected_weights.get(name)
            )
            raise ValueError(
                f"broadcast_updated_policy: the weights are not those of worker_policy: {', '.join(names[:4])} differ "
                "in presence, shape or dtype; pass the state_dict() of a policy built like it"
            )
        return {name: state_dict[name].detach().to("cpu", copy=True) for name in self._expected_weights}

    def _store(self, rollout: Rollout) -> None:
        """Store a whole rollout."""
        if isinstance(self.replay_buffer, RolloutBuffer):
            self.replay_buffer.add_rollout(rollout)
        else:
            with span("replay_add"):
                self.replay_buffer.add(**rollout.transitions())
        self._statistics.record(rollout.episodes)
        self.acted_version = rollout.policy_version
        self.env_steps += rollout.env_steps
        self.fault_count += rollout.faults
        self.rollouts += 1
        if self._on_stored is not None:
            self._on_stored(rollout)

    def _check_arguments(self) -> None:
        def require(condition: bool, problem: str) -> None:
            if not condition:
                raise ValueError(f"{type(self).__name__}: {problem}")

        for name in ("n_rollout_steps", "n_workers", "batch_size", "rollouts_per_iteration", "queue_size"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be positive")
        require(self.max_restarts >= 0, f"max_restarts is {self.max_restarts}; it must not be negative")
        require(self.hang_seconds > 0, f"hang_seconds is {self.hang_seconds}; it must be positive")
        seeds, workers = self.env_instance_seeds, self.n_workers
        problem = f"{len(seeds)} env_instance_seeds for {workers} workers; each worker needs a seed of its own"
        require(len(seeds) == workers, problem)
        require(min(seeds) >= 0, f"env_instance_seeds has {min(seeds)}; seeds must not be negative")
        if not (self.in_step or self.runs_freely):
            raise ValueError(f"{type(self).__name__} works in step only: leave in_step=True")
        buffer, split = self.replay_buffer, self.split_rollouts_into_transitions
        if not isinstance(buffer, TransitionBuffer if split else RolloutBuffer):
            kind = "of transitions, such as unilab.ipc.ReplayBuffer" if split else "unilab.distributed.RolloutBuffer"
            raise TypeError(
                f"replay_buffer is a {type(buffer).__name__}; with split_rollouts_into_transitions={split} it must be "
                f"a buffer {kind}"
            )
        if self.batch_size > buffer.capacity:
            raise ValueError(
                f"batch_size is {self.batch_size}, and the replay buffer holds at most {buffer.capacity} entries: make "
                "it larger, or the batch smaller"
            )


def _layout(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    layout = {name: (value.shape, value.dtype) for name, value in state_dict.items()}
    if not layout:
        raise ValueError("the policy's state_dict() is empty; it needs one tensor at least, for the workers to take")
    return layout

"""What all kinds of workers share: orders, weights, whose rollout is stored next, and who replaces those that fail."""

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from unilab.distributed.base import BaseDistributedWorkersWithBuffer, WorkerError
from unilab.ipc import SharedFlag

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
"""for a worker to find its place, to start and to make its first env step; more if ``hang_seconds`` is more"""

LOOK_SECONDS = 0.25
"""between two looks at the workers' progress. No more than this counts as time between two looks, so that workers are
not blamed for a pause of this process (Ctrl-Z, a laptop that sleeps)."""


class Fault(NamedTuple):
    """The reason to replace a worker."""

    what: str
    """for a person, with the traceback"""
    traceback_text: str | None = None
    cause: BaseException | None = None

    @classmethod
    def raised(cls, traceback_text: str, cause: BaseException | None) -> "Fault":
        """The worker raised something."""
        return cls(f"Its traceback:\n{traceback_text.rstrip()}", traceback_text, cause)


@dataclass
class Member:
    """One worker as the learner sees it."""

    index: int
    incarnation: int = 0
    """how often it was restarted"""
    ordered: int = 0
    """rollouts that it was told to make and that are not stored yet"""
    waiting: int = 0
    """finished rollouts that can be stored now"""
    env_steps: int = 0
    """of this incarnation, as it reported last"""
    fault: Fault | None = None
    seen: int = 0
    """``env_steps`` at the last look"""
    stalled: float = 0.0
    """seconds in which it should have made an env step and made none"""


AnyMember = TypeVar("AnyMember", bound=Member)


class SupervisedWorkers(BaseDistributedWorkersWithBuffer, Generic[AnyMember]):
    """Orders rollouts, stores them one after the other, and replaces workers that fail or hang.

    Each kind of workers defines how a worker is started and ended, how orders and weights reach it, and how it reports.
    """

    _members: list[AnyMember]
    _ordered = 0
    """in step: rollouts of all workers that were ordered since the beginning"""
    _next = 0
    _looked_at = 0.0
    _started = False
    _unpublished: tuple[int, dict[str, Tensor]] | None = None
    """version and weights that no worker may act with yet"""

    def broadcast_updated_policy(self, state_dict: Mapping[str, Tensor]) -> None:
        self._check()
        self._unpublished = (self.policy_version + 1, self._checked_weights(state_dict))
        self.policy_version += 1
        if not self.in_step:
            self._publish_newest()

    def request_rollouts(self) -> None:
        self._check()
        if not self._started:
            self._started = True
            for member in self._members:
                self._launch(member)
                self._order_more(member)
        if self.in_step and self._ordered == self.rollouts:
            self._publish_newest()
            self._ordered += self.rollouts_per_iteration
            for member in self._members:
                self._order_more(member)

    def collect_rollouts(self, *, unless: SharedFlag | None = None) -> tuple[int, int, float]:
        began = time.monotonic()
        self.request_rollouts()
        before = self._waiting()
        until = self._ordered if self.in_step else self.rollouts + self.rollouts_per_iteration
        while self.rollouts < until and not (unless and unless.is_set()):
            first, count = (self._due, 1) if self.in_step else (self._next, self.n_workers)
            candidates = (self._members[number % self.n_workers] for number in range(first, first + count))
            member = next((member for member in candidates if member.waiting), None)
            if member is None:
                self._wait(unless)
                self._supervise()
                continue
            self._next = member.index + 1
            self._take(member)
            member.ordered -= 1
            self._order_more(member)
        return before, self._waiting(), time.monotonic() - began

    @property
    def _due(self) -> int:
        """In step: the worker whose rollout is stored next."""
        return self.rollouts % self.n_workers

    def _publish_newest(self) -> None:
        if self._unpublished is not None:
            self._publish(*self._unpublished)
            self._unpublished = None

    def _supervise(self) -> None:
        if not self._started:
            return
        self._look()
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, LOOK_SECONDS), now
        for member in self._members:
            working = member.waiting < member.ordered
            member.stalled = member.stalled + passed if working and member.env_steps == member.seen else 0.0
            member.seen = member.env_steps
            patience = self.hang_seconds if member.env_steps else max(START_SECONDS, self.hang_seconds)
            if member.fault is None and member.stalled >= patience:
                member.stalled = 0.0
                self._kill(member, patience)
            if (fault := member.fault) is not None:
                self._end(member)
                if self.restarts >= self.max_restarts:
                    self._failure = WorkerError(member.index, self.restarts, fault.what, fault.traceback_text)
                    raise self._failure from fault.cause
                self.restarts += 1
                told = (member.index, self.restarts, self.max_restarts, fault.what)
                logger.warning("worker %d is restarted (%d of %d): %s", *told)
                member.incarnation += 1
                member.fault, member.env_steps, member.seen, member.stalled = None, 0, 0, 0.0
                self._launch(member)
                member.ordered = member.waiting
                self._order_more(member)

    def _order_more(self, member: AnyMember) -> None:
        """Let a worker make what is ordered of it, or freely any rollouts, as far as they may wait."""
        owed = self.queue_size
        if self.in_step:
            first = self.rollouts + (member.index - self.rollouts) % self.n_workers
            owed = len(range(first, self._ordered, self.n_workers))
        count = min(owed, self.queue_size) - member.ordered
        if count > 0:
            self._order(member, count)
            member.ordered += count

    def _job(self, member: Member) -> dict[str, int]:
        """Arguments of its ``RolloutWorker``, besides environment and policy."""
        seed = self.env_instance_seeds[member.index]
        identity = {"worker": member.index, "incarnation": member.incarnation}
        return {"num_steps": self.n_rollout_steps, "seed": seed} | identity

    def _waiting(self) -> int:
        """Finished rollouts that wait."""
        return sum(member.waiting for member in self._members)

    # What a kind of workers provides

    @abstractmethod
    def _publish(self, version: int, weights: dict[str, Tensor]) -> None:
        """Let all workers act with these weights from their next order on, or freely from their next rollout on."""

    @abstractmethod
    def _wait(self, unless: SharedFlag | None) -> None:
        """Wait for a rollout, a failure or the flag, but not longer than LOOK_SECONDS."""

    @abstractmethod
    def _take(self, member: AnyMember) -> None:
        """Store the oldest of its rollouts that wait."""

    @abstractmethod
    def _end(self, member: AnyMember) -> None:
        """End what is left of it; afterwards ``waiting`` has what can still be stored."""

    # What only workers outside of this process need

    def _launch(self, member: AnyMember) -> None:
        """Start the worker's present incarnation."""

    def _order(self, member: AnyMember, count: int) -> None:
        """Let it make so many more rollouts."""

    def _look(self) -> None:
        """Bring ``waiting``, ``env_steps`` and ``fault`` of the members up to date; does not wait."""

    def _kill(self, member: AnyMember, patience: float) -> None:
        """Give a worker that made no env step for so many seconds a ``fault``, to be found at the next look."""

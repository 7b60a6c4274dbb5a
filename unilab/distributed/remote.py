"""Workers that run elsewhere, in processes or on a cluster: whose turn it is, and which of them hangs."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from unilab.distributed.base import BaseDistributedWorkersWithBuffer
from unilab.ipc import SharedFlag

START_SECONDS = 120.0
"""for a worker to start and make its first env step"""

LOOK_SECONDS = 0.25
"""between two looks at whether workers get on; of the time between two looks no more counts, so that a pause of this
process (Ctrl-Z, a laptop that sleeps) is no fault of theirs"""


@dataclass
class Member:
    """One worker as the learner sees it."""

    index: int
    incarnation: int = -1
    """how often it was restarted; -1: it was not started yet"""
    owed: int = 0
    """in step: rollouts that were ordered and not stored yet"""
    env_steps: int | None = None
    """that it had made when it was looked at last; None: it is not known to have made one"""
    stalled: float = 0.0
    """seconds for which it should have got on and did not"""

    def renew(self) -> None:
        """Another incarnation begins."""
        self.incarnation += 1
        self.env_steps, self.stalled = None, 0.0


AnyMember = TypeVar("AnyMember", bound=Member)


class RemoteWorkers(BaseDistributedWorkersWithBuffer, Generic[AnyMember]):
    """Waits for rollouts, stores them in turns, and watches who makes them."""

    _members: Sequence[AnyMember] = ()
    _last_turn = -1
    _looked_at = 0.0

    def collect_rollouts(self, *, unless: SharedFlag | None = None) -> tuple[int, int, float]:
        began = time.monotonic()
        self._check()
        before = self._waiting()
        self.request_rollouts()
        until = self._ordered if self.in_step else self.rollouts + self.rollouts_per_iteration
        while self.rollouts < until and (member := self._ready(unless)) is not None:
            self._last_turn = member.index
            self._take_rollout(member)
            if self.in_step:
                member.owed -= 1
        self._tell_weights()
        return before, self._waiting(), time.monotonic() - began

    def _ready(self, unless: SharedFlag | None) -> AnyMember | None:
        """Wait for a worker whose rollout can be stored: in step the one whose turn it is, else they take turns.

        None: ``unless`` is set.
        """
        while not (unless and unless.is_set()):
            first = self._turn if self.in_step else self._last_turn + 1
            for number in range(first, first + (1 if self.in_step else self.n_workers)):
                member = self._members[number % self.n_workers]
                if self._has_rollout(member):
                    return member
            self._wait_for_news(unless)
        return None

    def _since_last_look(self) -> float:
        """Seconds that count against workers which make no env step; to be asked once a look."""
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, LOOK_SECONDS), now
        return passed

    def _patience(self, member: Member) -> float:
        """Seconds that it may take for an env step; its first may take longer."""
        return self.hang_seconds if member.env_steps else max(START_SECONDS, self.hang_seconds)

    @abstractmethod
    def _waiting(self) -> int:
        """Finished rollouts that wait."""

    @abstractmethod
    def _has_rollout(self, member: AnyMember) -> bool:
        """Whether a rollout of this worker can be stored now."""

    @abstractmethod
    def _take_rollout(self, member: AnyMember) -> None:
        """Store that rollout."""

    @abstractmethod
    def _wait_for_news(self, unless: SharedFlag | None) -> None:
        """Wait for a rollout or a failure, but not longer than LOOK_SECONDS; replace workers that failed."""

    @abstractmethod
    def _tell_weights(self) -> None:
        """Give the workers the newest weights that they are to act with, as far as they have not got them."""

"""A worker behind calls that are repeated, lost or late, without Ray."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.distributed.workload import SEEDS, STEPS, NoisyPolicy, carts
from unilab.distributed.ray.actor import Delivery, RolloutActor

SECONDS = 60.0


class Caller:
    """Calls an actor; each call has a number of its own, a higher one each time."""

    def __init__(self, **env: Any) -> None:
        job = {"num_steps": STEPS, "seed": SEEDS[0]}
        self.actor = RolloutActor(carts(**env), NoisyPolicy(), job, queue_size=2)
        self.calls = 0

    def exchange(
        self, taken: int, until: int | None = None, version: int = 0, *, call: int | None = None, seconds: float = 60.0
    ) -> Delivery:
        self.calls += 1
        weights = NoisyPolicy(version).state_dict() if version else None
        return self.actor.exchange(call or self.calls, taken, until, version, weights, seconds)

    def take(self, taken: int, until: int | None = None) -> int:
        rollout = self.exchange(taken, until).rollout
        assert rollout is not None
        return rollout.sequence

    def until_made(self, rollouts: int) -> None:
        with self.actor._changed:
            assert self.actor._changed.wait_for(lambda: self.actor._made >= rollouts, SECONDS)


@pytest.fixture
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Of an actor with room for two rollouts; a parameter changes its environment."""
    caller = Caller(**getattr(request, "param", {}))
    yield caller
    caller.actor.close()
    assert not caller.actor._thread.is_alive()


def test_calls_that_are_repeated_or_late_change_nothing(caller: Caller) -> None:
    assert [caller.take(taken, 2) for taken in (0, 0, 1, 1)] == [0, 0, 1, 1]
    assert caller.exchange(0, 9, 6, call=2).rollout is None, "it was overtaken"
    last = caller.exchange(2, 3, 7).rollout
    assert last is not None
    assert (last.sequence, last.policy_version) == (2, 7)
    nothing = caller.exchange(3, 3, 7, seconds=0.1)
    assert (nothing.rollout, nothing.failure, nothing.env_steps) == (None, None, 3 * STEPS * 2)
    assert caller.actor._made == 3, "no more than ordered"


def test_a_call_ends_the_wait_of_the_one_before(caller: Caller) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(caller.exchange, 0, 0)
        with caller.actor._changed:
            assert caller.actor._changed.wait_for(lambda: caller.actor._call == 1, SECONDS)
        assert caller.take(0, 1) == 0
        assert waiting.result(SECONDS).rollout is None


def test_a_full_queue_makes_it_wait_until_the_learner_has_one(caller: Caller) -> None:
    caller.take(0)
    caller.until_made(2)
    assert [caller.take(0), len(caller.actor._finished), caller.actor._made] == [0, 2, 2], "taking is not having"
    for number in range(1, 6):
        assert caller.take(number) == number
        caller.until_made(number + 2)
        assert len(caller.actor._finished) == 2


@pytest.mark.parametrize("caller", [{"fail_seed": SEEDS[0], "fail_at": STEPS + 7}], indirect=True)
def test_a_failure_comes_after_what_was_finished_before(caller: Caller) -> None:
    assert [caller.take(0), caller.take(0)] == [0, 0]
    for _ in range(2):
        delivery = caller.exchange(1)
        assert delivery.rollout is None
        assert delivery.failure is not None
        assert "raise UnpicklableError(1, 2)" in delivery.failure.traceback_text
        assert delivery.failure.cause() is None

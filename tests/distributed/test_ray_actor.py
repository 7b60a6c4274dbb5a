"""A worker behind calls that are repeated, lost or late, without Ray."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.distributed.workload import SEEDS, STEPS, NoisyPolicy, carts
from unilab.distributed.ray.actor import Job, RolloutActor

SECONDS = 60.0


@pytest.fixture
def actor(request: pytest.FixtureRequest) -> Iterator[RolloutActor]:
    """One with room for two rollouts; a parameter changes its job."""
    options: dict[str, Any] = {"queue_size": 2, "when_full": "wait", **getattr(request, "param", {})}
    env = options.pop("env", {})
    actor = RolloutActor(carts(**env), NoisyPolicy(), Job(STEPS, SEEDS[0], 0, 0, **options))
    yield actor
    actor.close()
    assert not actor._thread.is_alive()


def until_made(actor: RolloutActor, rollouts: int) -> None:
    with actor._changed:
        assert actor._changed.wait_for(lambda: actor._made >= rollouts, SECONDS)


def take(actor: RolloutActor, taken: int) -> int:
    rollout = actor.take(taken).rollout
    assert rollout is not None
    return rollout.sequence


def test_calls_that_are_repeated_or_late_change_nothing(actor: RolloutActor) -> None:
    for _ in range(2):
        actor.go_on(2, 0, None)
    assert [take(actor, taken) for taken in (0, 0, 1, 0, 1)] == [0, 0, 1, 1, 1]
    actor.go_on(3, 7, NoisyPolicy(7).state_dict())
    actor.go_on(2, 6, NoisyPolicy(6).state_dict())
    last = actor.take(2).rollout
    assert last is not None
    assert (last.sequence, last.policy_version) == (2, 7)
    assert actor._made == 3, "no more than ordered"


def test_a_full_queue_makes_it_wait_until_the_learner_has_one(actor: RolloutActor) -> None:
    actor.go_on(None, 0, None)
    until_made(actor, 2)
    assert [take(actor, 0), actor.waiting(), actor._made] == [0, 2, 2], "taking is not having"
    for number in range(1, 6):
        assert take(actor, number) == number
        until_made(actor, number + 2)
        assert actor.waiting() == 2


@pytest.mark.parametrize("actor", [{"when_full": "drop_oldest"}], indirect=True)
def test_the_oldest_is_dropped_but_not_while_it_is_on_its_way(actor: RolloutActor) -> None:
    actor.go_on(None, 0, None)
    until_made(actor, 5)
    first = take(actor, 0)
    assert first >= 3
    until_made(actor, first + 7)
    assert take(actor, 0) == first
    delivery = actor.take(first + 1)
    assert delivery.rollout is not None
    assert delivery.rollout.sequence >= first + 5
    assert delivery.dropped == delivery.rollout.sequence - 1, "all before but the one that was taken"
    assert actor.waiting() <= 2


@pytest.mark.parametrize("actor", [{"env": {"fail_seed": SEEDS[0], "fail_at": STEPS + 7}}], indirect=True)
def test_a_failure_comes_after_what_was_finished_before(actor: RolloutActor) -> None:
    actor.go_on(None, 0, None)
    assert [take(actor, 0), take(actor, 0)] == [0, 0]
    for _ in range(2):
        delivery = actor.take(1)
        assert delivery.rollout is None
        assert delivery.failure is not None
        assert "raise UnpicklableError(1, 2)" in delivery.failure.traceback_text
        assert delivery.failure.cause() is None

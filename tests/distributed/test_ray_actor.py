"""A worker behind calls that are repeated, lost or late, without Ray."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.distributed.workload import SEEDS, STEPS, FailingCart, NoisyPolicy
from unilab.distributed import Rollout
from unilab.distributed.ray.actor import RolloutActor
from unilab.envs import StepResult
from unilab.envs.vec_env import FloatArray
from unilab.ipc.process.child import Failure

Uses = list[tuple[str, int]]


class WatchedCart(FailingCart):
    """A cart that tells what is done with it, and in which thread."""

    def __init__(self, uses: Uses, **settings: Any) -> None:
        self._uses = uses
        uses.append(("make", threading.get_ident()))
        super().__init__(2, num_threads=1, seed=None, **settings)

    def step(self, actions: FloatArray) -> StepResult:
        self._uses.append(("step", threading.get_ident()))
        return super().step(actions)

    def close(self) -> None:
        self._uses.append(("close", threading.get_ident()))
        super().close()


@pytest.fixture
def uses() -> Uses:
    """What was done with the actor's environment."""
    return []


@pytest.fixture
def actor(request: pytest.FixtureRequest, uses: Uses) -> Iterator[RolloutActor]:
    """A parameter changes its environment."""
    job, settings = {"num_steps": STEPS, "seed": SEEDS[0]}, getattr(request, "param", {})
    actor = RolloutActor(lambda: WatchedCart(uses, **settings), NoisyPolicy(), job)
    yield actor
    actor.close()


def take(actor: RolloutActor, sequence: int, arrived: int = 0, version: int = 0) -> tuple[int, int]:
    """Sequence and version of the rollout that it answers with."""
    rollout = actor.rollout(sequence, arrived, version)
    assert isinstance(rollout, Rollout)
    return rollout.sequence, rollout.policy_version


def test_calls_that_are_repeated_or_overtake_each_other_make_each_rollout_once(actor: RolloutActor) -> None:
    assert [take(actor, sequence) for sequence in (0, 0, 2, 1, 2)] == [(0, 0), (0, 0), (2, 0), (1, 0), (2, 0)]
    assert actor.take_policy(0, None) == 3 * STEPS * 2
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda number: take(actor, number), (6, 4, 3, 5))) == [(n, 0) for n in (3, 4, 5, 6)]


def test_one_thread_makes_the_environment_steps_and_closes_it(actor: RolloutActor, uses: Uses) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(lambda number: take(actor, number), range(3)))) == 3
    actor.close()
    assert [what for what, _ in uses] == ["make", *["step"] * 3 * STEPS, "close"]
    assert len({thread for _, thread in uses}) == 1


def test_the_newest_weights_act_and_are_waited_for(actor: RolloutActor) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(take, actor, 0, version=2)
        actor.take_policy(1, NoisyPolicy(1).state_dict())
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        for version in (3, 2):
            actor.take_policy(version, NoisyPolicy(version).state_dict())
        assert waiting.result(60) == (0, 3)
    assert [take(actor, 1, version=1), take(actor, 0, version=2)] == [(1, 3), (0, 3)]


def test_what_the_learner_has_is_not_kept(actor: RolloutActor) -> None:
    assert [take(actor, 0), take(actor, 1), take(actor, 2, arrived=2)] == [(0, 0), (1, 0), (2, 0)]
    assert [actor.rollout(sequence, 0, 0) for sequence in (0, 1)] == [None, None]
    assert take(actor, 2) == (2, 0)
    assert actor.take_policy(0, None) == 3 * STEPS * 2, "none was made again"


def test_told_to_stop_it_makes_no_more_and_waits_for_no_weights(actor: RolloutActor) -> None:
    assert take(actor, 0) == (0, 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(actor.rollout, 1, 1, 1)
        actor.close()
        assert waiting.result(60) is None
    assert actor.rollout(1, 1, 0) is None


@pytest.mark.parametrize("actor", [{"fail_seed": SEEDS[0], "fail_at": STEPS + 7}], indirect=True)
def test_a_failure_closes_the_environment_and_comes_after_what_was_finished_before(
    actor: RolloutActor, uses: Uses
) -> None:
    for _ in range(2):
        failure = actor.rollout(1, 0, 0)
        assert isinstance(failure, Failure)
        assert "raise UnpicklableError(1, 2)" in failure.traceback_text
        assert failure.cause() is None
        assert take(actor, 0) == (0, 0)
        assert [what for what, _ in uses][-2:] == ["step", "close"]

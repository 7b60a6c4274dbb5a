"""One worker in an environment whose every number is known."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.algos.appo.counting_env import CountingEnv
from unilab.distributed import RolloutWorker
from unilab.run.acting import ActingStopped
from unilab.run.seeding import derive_seed


class Doubling:
    """Acts by a factor times the observation, and keeps what it drew."""

    def __init__(self) -> None:
        self.factor = torch.tensor(2.0)
        self.drawn: list[float] = []
        self.threads: set[int] = set()

    def state_dict(self) -> dict[str, Tensor]:
        return {"factor": self.factor}

    def load_state_dict(self, state_dict: Any) -> None:
        self.factor = state_dict["factor"]

    def compute_actions(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        self.threads.add(torch.get_num_threads())
        self.drawn.append(torch.rand((), generator=generator).item())
        return self.factor * obs


def worker(env: CountingEnv, policy: Any = None, steps: int = 5, **options: Any) -> RolloutWorker:
    return RolloutWorker(env, policy or Doubling(), steps, 7, **options)


def test_rollouts_go_on_across_the_ends_of_episodes() -> None:
    making = worker(CountingEnv(2, limit=4, critic_dim=3), worker=3, incarnation=1)
    first, second = making.rollout(), making.rollout()
    steps = first.steps
    assert {name: (array.dtype.name, array.shape) for name, array in steps.items()} == {
        "obs": ("float32", (5, 2, 1)),
        "actions": ("float32", (5, 2, 1)),
        "rewards": ("float32", (5, 2)),
        "next_obs": ("float32", (5, 2, 1)),
        "dones": ("bool", (5, 2)),
        "truncated": ("bool", (5, 2)),
        "faulty": ("bool", (5, 2)),
        "critic": ("float32", (5, 2, 3)),
        "next_critic": ("float32", (5, 2, 3)),
    }
    # The first row is cut off after 4 steps, the second one terminates after 3.
    assert steps["obs"][..., 0].T.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]
    assert steps["next_obs"][..., 0].T.tolist() == [[1, 2, 3, 4, 1], [1, 2, 3, 1, 2]], "the true final observation"
    assert steps["dones"].T.tolist() == [[0, 0, 0, 1, 0], [0, 0, 1, 0, 0]]
    assert steps["truncated"].T.tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert (steps["actions"] == 2 * steps["obs"]).all()
    assert (steps["critic"] == 10 * steps["obs"]).all()
    assert (steps["next_critic"] == 10 * steps["next_obs"]).all()
    assert (steps["rewards"] == 1).all()
    assert not steps["faulty"].any()
    assert first.episodes.tolist() == [[3, 3], [4, 4]]
    assert second.steps["obs"][..., 0].T.tolist() == [[1, 2, 3, 0, 1], [2, 0, 1, 2, 0]]
    assert second.episodes.tolist() == [[3, 3], [4, 4], [3, 3]]
    assert [(one.worker, one.incarnation, one.sequence) for one in (first, second)] == [(3, 1, 0), (3, 1, 1)]
    assert (first.num_steps, first.num_envs, first.env_steps) == (5, 2, 10)


def test_the_environments_own_numbers_may_be_numpys_and_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = CountingEnv(1)
    monkeypatch.setattr(env, "metrics", lambda: {"level": np.float32(1.5), "count": np.int64(2)})
    assert worker(env).rollout().metrics == {"level": 1.5, "count": 2}
    monkeypatch.setattr(env, "metrics", lambda: {f"{number:0100}": 0.0 for number in range(1000)})
    kept = worker(env).rollout().metrics
    assert [int(name) for name in kept] == list(range(len(kept))) and 30 < len(kept) < 41


def test_transitions_are_the_steps_in_order_without_those_that_failed() -> None:
    rollout = worker(CountingEnv(2, limit=4, explode_at=4)).rollout()
    assert rollout.steps["faulty"].T.tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    assert rollout.steps["truncated"].any() == False, "a step that is both is a termination"  # noqa: E712
    assert rollout.faults == 1
    transitions = rollout.transitions()
    assert transitions.keys() == {"obs", "actions", "rewards", "next_obs", "dones", "truncated"}
    assert transitions["obs"][:, 0].tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 1], "the first row's fourth step is left out"
    assert transitions["next_obs"][:, 0].tolist() == [1, 1, 2, 2, 3, 3, 1, 1, 2]
    assert transitions["dones"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]


def test_weights_act_from_the_next_rollout_on() -> None:
    making = worker(CountingEnv(1))
    assert making.rollout().policy_version == 0
    making.take_policy({"factor": torch.tensor(-1.0)}, 5)
    rollout = making.rollout()
    assert rollout.policy_version == 5
    assert (rollout.steps["actions"] == -rollout.steps["obs"]).all()


def test_each_incarnation_has_a_stream_of_its_own() -> None:
    drawn = []
    for incarnation in (0, 0, 1):
        policy = Doubling()
        worker(CountingEnv(1), policy, incarnation=incarnation).rollout()
        drawn.append(policy.drawn)
    assert drawn[0] == drawn[1] != drawn[2]
    generator = torch.Generator().manual_seed(derive_seed(7, "actions"))
    assert drawn[0][0] == torch.rand((), generator=generator).item()


def test_the_policy_acts_on_one_thread_and_the_caller_keeps_its_own() -> None:
    before = torch.get_num_threads()
    policy = Doubling()
    try:
        torch.set_num_threads(2)
        worker(CountingEnv(1), policy).rollout()
        assert policy.threads == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_rollout_can_be_given_up() -> None:
    answers = iter([False, False, True])
    env = CountingEnv(1)
    with pytest.raises(ActingStopped):
        worker(env).rollout(stopped=lambda: next(answers))
    assert env.steps == 2


def test_actions_of_another_shape_are_refused() -> None:
    policy = Doubling()
    policy.factor = torch.ones(1, 3)
    with pytest.raises(ValueError, match=r"compute_actions returned \[2, 3\]; this environment takes \[2, 1\]"):
        worker(CountingEnv(2), policy).rollout()

"""Transitions over several steps: known chains, and a model of one environment at a time."""

from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unilab.run.transitions import NStepReturns, Transitions

GAMMA = 0.5
GOES_ON, TERMINATED, TRUNCATED, FAILED = range(4)


class Row(NamedTuple):
    """One transition, its observations, actions and privileged observations by a number that is theirs alone."""

    start: float
    action: float
    reward: float
    end: float
    done: bool
    truncated: bool
    steps: int


def vector_step(t, rewards, ends):
    """Step ``t`` of all rows: each observation is its own number, the final one differs from the next episode's."""
    ends = np.array(ends)
    start = (100 * t + np.arange(len(ends), dtype=np.float32))[:, None]
    final = start + 100 + np.where(ends == GOES_ON, 0, 0.5)[:, None].astype(np.float32)
    return Transitions(
        np.repeat(start, 2, axis=1),
        -start,
        np.array(rewards, np.float32),
        np.repeat(final, 2, axis=1),
        ends != GOES_ON,
        ends == TRUNCATED,
        np.repeat(10 * start, 3, axis=1),
        np.repeat(10 * final, 3, axis=1),
    )


def feed(returns, t, rewards, ends):
    """What step ``t`` completes, as rows; the columns must agree with each other."""
    ends = np.array(ends)
    failed = ends == FAILED
    complete = returns.step(vector_step(t, rewards, ends), failed if failed.any() else None)
    np.testing.assert_array_equal(complete.obs[:, 0], complete.obs[:, 1])
    np.testing.assert_array_equal(complete.critic, np.repeat(10 * complete.obs[:, :1], 3, axis=1))
    np.testing.assert_array_equal(complete.next_critic, np.repeat(10 * complete.next_obs[:, :1], 3, axis=1))
    steps = np.ones(len(complete.obs), int) if complete.steps is None else complete.steps
    columns = (complete.obs[:, 0], complete.actions[:, 0], complete.rewards, complete.next_obs[:, 0])
    flags = (complete.dones, complete.truncated, steps)
    return [Row(*values) for values in zip(*(column.tolist() for column in columns + flags), strict=True)]


def chain(n, rewards, ends):
    """What each step of one row completes: (first step, reward, number of steps, done, truncated)."""
    returns = NStepReturns(n, GAMMA, 1, 2, 1, 3)
    found = []
    for t, (reward, end) in enumerate(zip(rewards, ends, strict=True)):
        rows = feed(returns, t, [reward], [end])
        found.append([(int(row.start) // 100, row.reward, row.steps, row.done, row.truncated) for row in rows])
    return found


def test_three_step_returns_of_a_chain_that_terminates():
    go, end = GOES_ON, TERMINATED
    assert chain(3, [1, 2, 4, 8, 16, 32, 64, 128], [go, go, go, go, end, go, go, go]) == [
        [],
        [],
        [(0, 1 + 2 / 2 + 4 / 4, 3, False, False)],
        [(1, 2 + 4 / 2 + 8 / 4, 3, False, False)],
        [(2, 4 + 8 / 2 + 16 / 4, 3, True, False), (3, 8 + 16 / 2, 2, True, False), (4, 16, 1, True, False)],
        [],  # nothing reaches back over the end
        [],
        [(5, 32 + 64 / 2 + 128 / 4, 3, False, False)],
    ]


def test_a_failed_step_is_left_out_and_what_was_open_ends_before_it():
    assert chain(3, [1, 2, 4, 8, 16], [GOES_ON, GOES_ON, FAILED, FAILED, TERMINATED]) == [
        [],
        [],
        [(0, 1 + 2 / 2, 2, True, True), (1, 2, 1, True, True)],
        [],
        [(4, 16, 1, True, False)],
    ]


def test_one_step_passes_through_without_a_copy():
    returns = NStepReturns(1, GAMMA, 2, 2, 1, 3)
    step = vector_step(0, [1, 2], [GOES_ON, TERMINATED])
    assert returns.step(step) is step
    returns.load_state_dict(returns.state_dict())
    kept = returns.step(step, np.array([True, False]))
    np.testing.assert_array_equal(kept.obs, step.obs[1:])
    assert kept.rewards.tolist() == [2]


def test_a_whole_vector_of_complete_returns_is_not_copied():
    returns = NStepReturns(2, GAMMA, 2, 2, 1)
    returns.step(vector_step(0, [1, 1], [GOES_ON, GOES_ON])._replace(critic=None, next_critic=None))
    step = vector_step(1, [1, 1], [GOES_ON, GOES_ON])._replace(critic=None, next_critic=None)
    complete = returns.step(step)
    assert complete.next_obs is step.next_obs
    assert complete.obs.base is not None
    assert complete.critic is None


def test_forgotten_starts_do_not_come_back():
    returns = NStepReturns(2, GAMMA, 1, 2, 1, 3)
    feed(returns, 0, [1], [GOES_ON])
    returns.forget()
    assert feed(returns, 1, [1], [GOES_ON]) == []


class OneEnvironment:
    """The definition, spelled out: open starts with all their rewards."""

    def __init__(self, n):
        self.n = n
        self.open = []

    def step(self, start, final, reward, end):
        if end == FAILED:
            found = [self._row(one, rewards, start, True, True) for one, rewards in self.open]
            self.open = []
            return found
        self.open.append((start, []))
        for _, rewards in self.open:
            rewards.append(reward)
        flags = (end != GOES_ON, end == TRUNCATED)
        complete = [one for one in self.open if end != GOES_ON or len(one[1]) == self.n]
        self.open = [one for one in self.open if one not in complete]
        return [self._row(one, rewards, final, *flags) for one, rewards in complete]

    def _row(self, start, rewards, end, done, truncated):
        total = sum(GAMMA**k * reward for k, reward in enumerate(rewards))
        return Row(start, -start, total, end, done, truncated, len(rewards))


ENDS = st.sampled_from([GOES_ON] * 6 + [TERMINATED, TRUNCATED, FAILED])


@given(n=st.integers(1, 5), rows=st.integers(1, 4), data=st.data())
def test_the_same_as_one_environment_at_a_time(n, rows, data):
    returns = NStepReturns(n, GAMMA, rows, 2, 1, 3)
    models = [OneEnvironment(n) for _ in range(rows)]
    steps = data.draw(
        st.lists(st.lists(st.tuples(st.integers(-9, 9), ENDS), min_size=rows, max_size=rows), max_size=20)
    )
    resume_at = data.draw(st.integers(0, 20))
    for t, step in enumerate(steps):
        if t == resume_at:
            state, returns = returns.state_dict(), NStepReturns(n, GAMMA, rows, 2, 1, 3)
            returns.load_state_dict(state)
        rewards, ends = zip(*step, strict=True)
        whole = vector_step(t, rewards, ends)
        wanted = [
            row
            for i, model in enumerate(models)
            for row in model.step(float(whole.obs[i, 0]), float(whole.next_obs[i, 0]), rewards[i], ends[i])
        ]
        assert feed(returns, t, rewards, ends) == sorted(wanted)

"""V-trace against the paper's formula and hand-computed numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unilab.algos.torch.appo.learner import vtrace_advantages


def reference(behavior, target, rewards, values, bootstrap, dones, gamma, clip_rho, clip_c, lam):
    """Equation 1 of Espeholt et al. 2018 as a double sum in float64, with lambda in c (remark 2)."""
    steps, envs = rewards.shape
    ratio = np.exp(target - behavior)
    rho, c = np.minimum(ratio, clip_rho), lam * np.minimum(ratio, clip_c)
    after = np.concatenate([values[1:], bootstrap[None]])
    delta = rho * (rewards + gamma * (1 - dones) * after - values)
    vs = values.copy()
    for n in range(envs):
        for s in range(steps):
            weight = 1.0
            for t in range(s, steps):
                vs[s, n] += weight * delta[t, n]
                weight *= gamma * (1 - dones[t, n]) * c[t, n]
    vs_after = np.concatenate([vs[1:], bootstrap[None]])
    mixed = after + lam * (vs_after - after)
    return vs, rho * (rewards + gamma * (1 - dones) * mixed - values)


def random_rollout(seed, steps, envs):
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    dones = (rng.random((steps, envs)) < 0.2).astype(np.float64)
    return draw((steps, envs)), draw((steps, envs)), draw((steps, envs)), draw((steps, envs)), draw(envs), dones


def as_tensors(arrays, dtype):
    return [torch.tensor(a, dtype=dtype) for a in arrays]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 12),
    envs=st.integers(1, 4),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
    clip_rho=st.floats(0.1, 3),
    clip_c=st.floats(0.1, 3),
)
def test_matches_the_papers_sum(seed, steps, envs, gamma, lam, clip_rho, clip_c):
    arrays = random_rollout(seed, steps, envs)
    wanted_vs, wanted_advantages = reference(*arrays, gamma, clip_rho, clip_c, lam)
    vs, advantages = vtrace_advantages(*as_tensors(arrays, torch.float64), gamma, clip_rho, clip_c, lam=lam)
    np.testing.assert_allclose(vs.numpy(), wanted_vs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(advantages.numpy(), wanted_advantages, rtol=1e-9, atol=1e-9)


def test_hand_computed():
    # two steps, one environment: pi/mu = (1/2, 2), so rho = c = (1/2, 1); V = (1, 2), V(x_2) = 4, gamma = 1/2
    column = lambda *numbers: torch.tensor(numbers, dtype=torch.float64)[:, None]  # noqa: E731
    vs, advantages = vtrace_advantages(
        column(0.0, 0.0),
        column(np.log(0.5), np.log(2.0)),
        column(1.0, 3.0),
        column(1.0, 2.0),
        torch.tensor([4.0], dtype=torch.float64),
        column(0.0, 0.0),
        gamma=0.5,
    )
    # delta_1 = 3 + 2 - 2 = 3; vs_1 = 5; delta_0 = (1 + 1 - 1) / 2; vs_0 = 1 + 0.5 + 0.5 * 0.5 * 3
    assert vs[:, 0].tolist() == pytest.approx([2.25, 5.0])
    # advantage_0 = (1 + 0.5 * 5 - 1) / 2; advantage_1 = 3 + 2 - 2
    assert advantages[:, 0].tolist() == pytest.approx([1.25, 3.0])

"""The running normalization of observations and of value targets."""

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from unilab.algos.torch.networks.normalizer import RunningNormalizer, ValueScale


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    shift=st.floats(-100, 100),
    scale=st.floats(0.01, 100),
    seed=st.integers(0, 1000),
)
@example(sizes=[47, 3], shift=100.0, scale=0.01, seed=0)  # 47 times the reciprocal of 47 is not 1
def test_normalizer_has_the_moments_of_all_data(sizes, shift, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = [shift + scale * torch.randn(size, 3, generator=generator) for size in sizes]
    normalizer = RunningNormalizer(3)
    for batch in batches:
        normalizer.update(batch)
    everything = torch.cat(batches).double()
    assert normalizer.count.item() == len(everything)
    torch.testing.assert_close(normalizer.mean.double(), everything.mean(0), rtol=1e-4, atol=1e-4 * scale)
    torch.testing.assert_close(
        normalizer.var.double(), everything.var(0, correction=0), rtol=1e-3, atol=1e-4 * scale**2 + 1e-5
    )


@settings(max_examples=40, deadline=None)
@given(
    shifts=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5), spread=st.floats(0.1, 1e3), seed=st.integers(0, 99)
)
def test_a_critic_keeps_its_values_when_their_scale_moves(shifts, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    body, scale = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), ValueScale()
    rows = torch.randn(16, 3, generator=generator)
    before = scale(body(rows)).detach()
    for shift in shifts:
        targets = shift + spread * torch.randn(64, generator=generator)
        scale.update(targets, body)
    largest = max(1.0, *(abs(shift) for shift in shifts)) + spread
    torch.testing.assert_close(scale(body(rows)), before, rtol=1e-3, atol=1e-4 * largest)
    torch.testing.assert_close(scale(scale.outputs(targets)), targets, rtol=1e-4, atol=1e-4 * largest)


def test_the_scale_is_that_of_the_targets():
    generator, scale, body = torch.Generator().manual_seed(0), ValueScale(), nn.Linear(1, 1)
    first = 500 + 20 * torch.randn(256, generator=generator)
    scale.update(first, body)
    assert scale.mean.item() == pytest.approx(first.mean().item())
    assert scale.std.item() == pytest.approx(first.std(correction=0).item(), rel=1e-4)
    for _ in range(500):
        scale.update(-3 + 0.5 * torch.randn(256, generator=generator), body)
    assert scale.mean.item() == pytest.approx(-3, abs=0.1)
    assert scale.std.item() == pytest.approx(0.5, rel=0.1)


def test_targets_that_are_not_finite_change_nothing():
    scale, body = ValueScale(), nn.Linear(1, 1)
    scale.update(torch.arange(4.0), body)
    before = copy.deepcopy((scale.state_dict(), body.state_dict()))
    with pytest.raises(FloatingPointError, match="look at the rewards"):
        scale.update(torch.tensor([1.0, float("nan")]), body)
    for old, now in zip(before, (scale.state_dict(), body.state_dict()), strict=True):
        assert all(torch.equal(old[name], now[name]) for name in old)


def test_a_last_layer_without_a_bias_has_to_learn_the_change():
    scale, body = ValueScale(), nn.Sequential(nn.Linear(1, 1, bias=False))
    before = copy.deepcopy(body.state_dict())
    scale.update(torch.arange(4.0), body)
    assert scale.mean.item() == 1.5 and torch.equal(body[0].weight, before["0.weight"])

"""The running normalization of observations."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unilab.algos.torch.networks.normalizer import RunningNormalizer


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

"""Gradients of several threads are those of one."""

import pytest
import torch
from torch import nn

from unilab.algos.torch.gradient import SharedGradients


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ELU(), nn.Linear(16, 1))


def gradient(threads, batch, constant=None):
    """Of the mean square of the outputs, and the mean output."""
    module = network()
    shared = SharedGradients(threads, torch.device("cpu"), "float32")
    parameters = list(module.parameters())

    def loss(rows):
        values = module(rows["rows"]).squeeze(-1)
        return values.square() + (0 if constant is None else constant), {"mean": values}

    try:
        parts = batch.tensor_split(threads)
        means = shared.differentiate(loss, parameters, lambda thread: [{"rows": parts[thread]}], len(batch))
    finally:
        shared.close()
    return torch.cat([parameter.grad.flatten() for parameter in parameters]), means["mean"]


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("threads", [2, 3])
def test_gradient_and_statistics_do_not_depend_on_the_number_of_threads(threads, rows):
    batch = torch.randn(rows, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gradient(threads, batch), gradient(1, batch))
    module = network()
    module(batch).square().mean().backward()
    wanted = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    torch.testing.assert_close(gradient(threads, batch)[0], wanted)


def test_other_parameters_are_constants():
    constant = nn.Parameter(torch.ones(()))
    gradient(2, torch.ones(4, 5), constant)
    assert constant.grad is None


@pytest.mark.parametrize("parts", [1, 2])
def test_a_gradient_lies_as_its_parameter_does(parts):
    """A fused optimizer takes both as they lie: of a transposed gradient it would move the wrong weights."""
    torch.manual_seed(0)
    weight, rows = nn.Parameter(torch.randn(4, 4)), torch.randn(8, 4)
    after = []
    for fused in (True, False):
        moved = nn.Parameter(weight.detach().clone())

        def loss(batch, moved=moved):
            return torch.einsum("bi,oi->bo", batch["rows"], moved).square().sum(-1), {}

        shared = SharedGradients(1, torch.device("cpu"), "float32")
        shared.differentiate(loss, [moved], lambda _: [{"rows": part} for part in rows.tensor_split(parts)], len(rows))
        assert moved.grad.stride() == moved.stride()
        torch.optim.AdamW([moved], fused=fused).step()
        after.append(moved.detach())
    torch.testing.assert_close(*after)

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

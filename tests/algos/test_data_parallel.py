"""Gradients of several threads are those of one."""

import pytest
import torch
from torch import nn

from unilab.algos.torch.data_parallel import DataParallelThreads


def build(threads):
    torch.manual_seed(0)
    return DataParallelThreads(nn.Sequential(nn.Linear(5, 16), nn.ELU(), nn.Linear(16, 1)), threads)


def gradient(parallel, rows):
    def loss(module, share):
        mine = rows.tensor_split(parallel.num_threads)[share]
        value = module(mine).square().sum() / len(rows)
        return value, value.detach()[None]

    statistics = parallel.backward(loss)
    return parallel.parameters.grad.clone(), statistics


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("threads", [2, 3])
def test_gradient_and_statistics_do_not_depend_on_the_number_of_threads(threads, rows):
    batch = torch.randn(rows, 5, generator=torch.Generator().manual_seed(1))
    one, many = build(1), build(threads)
    wanted, wanted_statistics = gradient(one, batch)
    found, statistics = gradient(many, batch)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(statistics, wanted_statistics)
    many.close()


def test_one_optimizer_step_moves_every_replica_and_the_module_itself():
    parallel = build(2)
    optimizer = torch.optim.SGD([parallel.parameters], lr=0.1)
    batch = torch.randn(8, 5)
    outputs = [replica(batch) for replica in parallel.replicas]
    gradient(parallel, batch)
    optimizer.step()
    after = [replica(batch) for replica in parallel.replicas]
    assert torch.equal(after[0], after[1])
    assert not torch.equal(outputs[0], after[0])
    parallel.close()


def test_an_error_in_a_thread_reaches_the_caller():
    parallel = build(2)

    def fail(module, share):
        if share == 1:
            raise FloatingPointError("second share")
        return 0

    with pytest.raises(FloatingPointError, match="second share"):
        parallel.map(fail)
    parallel.close()


def test_other_parameter_types_are_refused():
    with pytest.raises(TypeError, match="float64"):
        DataParallelThreads(nn.Linear(2, 2).double(), 1)

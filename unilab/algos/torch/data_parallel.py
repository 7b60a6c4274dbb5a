"""Gradients on several CPU threads, each working through its own share of a minibatch.

Networks of a few hundred units are too small for intra-op threads: two OpenMP threads hardly beat one. Two Python
threads with one intra-op thread each, every one with half of the rows, take half of the time, because both the
forward and the backward pass release the GIL.
"""

import copy
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from unilab.machine.thread_team import ThreadTeam

Module = TypeVar("Module", bound=nn.Module)
Result = TypeVar("Result")


class DataParallelThreads(Generic[Module]):
    """Replicas of a module that share its parameters and have gradients of their own.

    The parameters of ``module`` are moved into one flat float32 tensor, ``parameters`` [P]; replicas view the same
    storage, so one optimizer step on the flat tensor updates all of them. Every share of the rows has a fixed
    replica and gradients are summed in a fixed order: results do not depend on the scheduling of threads.

    On an accelerator one replica computes in the calling thread.
    """

    def __init__(self, module: Module, num_threads: int) -> None:
        self.num_threads = num_threads
        trainable = [p for p in module.parameters() if p.requires_grad]
        wrong = {str(p.dtype) for p in trainable if p.dtype != torch.float32}
        if wrong:
            raise TypeError(f"parameters must be float32, found {', '.join(sorted(wrong))}")
        flat = torch.cat([p.detach().reshape(-1) for p in trainable])
        self.parameters = nn.Parameter(flat)
        self._gradients = flat.new_zeros(num_threads, flat.numel())
        self.replicas: list[Module] = [module, *(copy.deepcopy(module) for _ in range(num_threads - 1))]
        for replica, gradient in zip(self.replicas, self._gradients, strict=True):
            _view_flat(replica, flat, gradient)
        _share_buffers(self.replicas)
        self._team = ThreadTeam(num_threads)

    def map(self, work: Callable[[Module, int], Result]) -> list[Result]:
        """``work(replica, share)`` for each share of the rows, at the same time; results in the order of shares."""
        return self._team.map(lambda share: work(self.replicas[share], share))

    def backward(self, loss: Callable[[Module, int], tuple[Tensor, Tensor]]) -> Tensor:
        """Sum the gradients of every share's loss into ``parameters.grad``.

        Args:
            loss: returns the share's part of the loss and a tensor of statistics.

        Returns:
            The sum of the statistics over the shares.
        """

        def differentiate(replica: Module, share: int) -> Tensor:
            value, statistics = loss(replica, share)
            value.backward()
            return statistics.detach()

        self._gradients.zero_()
        statistics = self.map(differentiate)
        self.parameters.grad = self._gradients[0] if self.num_threads == 1 else self._gradients.sum(0)
        return statistics[0] if self.num_threads == 1 else torch.stack(statistics).sum(0)

    def close(self) -> None:
        """End the threads; idempotent."""
        self._team.close()


def _view_flat(module: nn.Module, flat: Tensor, gradient: Tensor) -> None:
    start = 0
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        end = start + parameter.numel()
        parameter.data = flat[start:end].view_as(parameter)
        parameter.grad = gradient[start:end].view_as(parameter)
        start = end


def _share_buffers(replicas: list[Module]) -> None:
    """Let every replica use the first one's buffers: running statistics are the same for all."""
    for replica in replicas[1:]:
        for ours, theirs in zip(replica.modules(), replicas[0].modules(), strict=True):
            ours._buffers.update(theirs._buffers)

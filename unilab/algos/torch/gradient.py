"""Gradients of a mean loss over the rows of a batch, which the threads of a CPU share.

Networks of a few hundred units are too small for intra-op threads: two OpenMP threads hardly beat one. Two Python
threads with one intra-op thread each, every one with half of the rows, take half of the time, because both the
forward and the backward pass release the GIL.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from unilab.machine.thread_team import ThreadTeam

Batch = Mapping[str, Tensor]
"""rows [R, ...] by name"""
Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
"""of rows of a batch: their losses [R], and statistics [R] by name"""


def laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in the memory layout of its parameter: fused optimizers go through both as they lie.

    ``backward`` sees to that, ``torch.autograd.grad`` does not: a product with a transposed parameter, say, has a
    transposed gradient.
    """
    if gradient.stride() == parameter.stride() or (gradient.is_contiguous() and parameter.is_contiguous()):
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


class SharedGradients(ThreadTeam):
    """Threads that share the rows of each batch; the thread that asks is one of them.

    Every thread has fixed rows, and gradients are summed in a fixed order: results do not depend on the scheduling.

    Args:
        threads: 1 on an accelerator.
        dtype: of the matrix products; parameters and their gradients stay float32.
    """

    def __init__(self, threads: int, device: torch.device, dtype: str) -> None:
        super().__init__(threads)
        self._device, self._dtype = device.type, dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which the calling thread computes with ``dtype``."""
        if self._dtype == "float32":
            return nullcontext()
        # without a cache of converted weights, which threads would share, and a recording on CUDA keep
        return torch.autocast(self._device, dtype=getattr(torch, self._dtype), cache_enabled=False)

    def differentiate(
        self, loss: Loss, parameters: Sequence[Tensor], rows_of: Callable[[int], Iterable[Batch]], size: int
    ) -> dict[str, Tensor]:
        """Leave the gradients of the mean loss over a batch in ``parameters``, and only there.

        Args:
            loss: other parameters in it are constants.
            rows_of: the rows of a thread, in parts that it works through one after the other.
            size: rows of the batch.

        Returns:
            means of the statistics over the batch.
        """

        def of_thread(thread: int) -> tuple[list[Tensor], dict[str, Tensor]]:
            gradients: list[Tensor] = []
            sums: dict[str, Tensor] = {}
            for rows in rows_of(thread):
                with self.autocast():
                    losses, statistics = loss(rows)
                    mean = losses.sum() / size
                found = torch.autograd.grad(mean, parameters, materialize_grads=True)
                for name, values in statistics.items():
                    sums[name] = sums.get(name, 0.0) + values.detach().sum()
                if gradients:
                    torch._foreach_add_(gradients, found)
                else:
                    gradients = list(map(laid_out, found, parameters))
            return gradients, sums

        (gradients, sums), *others = self.map(of_thread)
        for more, their_sums in others:  # always in the same order
            torch._foreach_add_(gradients, more)
            sums = {name: value + their_sums[name] for name, value in sums.items()}
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return {name: value / size for name, value in sums.items()}

"""Running observation statistics for collectors that normalize by themselves."""

from collections.abc import Mapping
from multiprocessing.context import BaseContext
from typing import Any

import torch

from unilab.ipc.latest import LatestValue


class SharedObsNormStats(LatestValue):
    """A mailbox for observation statistics: the latest wins, and each reader gets it once.

    It is for trainers of one's own whose collectors normalize observations outside the policy::

        stats = SharedObsNormStats(ctx)             # in the learner; an argument of the collector's process
        stats.put((mean, std))                      # in the learner
        newest = stats.get()                        # in the collector: (mean, std), or None when there is nothing new

    In this package the statistics are part of the actor and travel with its weights, which keeps both of one version.

    Args:
        ctx: multiprocessing context of the processes that share it.
        capacity: bytes of the pickled statistics; the default holds mean and deviation of 16,000 float64 observations.
        name: attach to the mailbox of this name; None makes one.
    """

    def __init__(self, ctx: BaseContext | None, *, capacity: int = 262144, name: str | None = None) -> None:
        super().__init__(ctx, capacity=capacity, name=name)

    def put(self, stats: Any) -> None:
        """Replace the latest statistics; never blocks, however often it is called without a reader.

        Args:
            stats: a pair (mean, std), or a dict; of arrays, tensors and numbers of any shape. ``get`` returns the same,
                its tensors on the CPU.
        """
        super().put(_on_cpu(stats))


def _on_cpu(stats: Any) -> Any:
    """A copy whose tensors are on the CPU, without autograd and without the memory that they are views of."""
    if isinstance(stats, torch.Tensor):
        return stats.detach().to("cpu", copy=True)
    if isinstance(stats, Mapping):
        return {key: _on_cpu(value) for key, value in stats.items()}
    if type(stats) in (tuple, list):
        return type(stats)(_on_cpu(value) for value in stats)
    return stats

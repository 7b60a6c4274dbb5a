"""Running observation statistics for collectors that normalize by themselves."""

from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

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
        super().put(tree_map_only(torch.Tensor, lambda value: value.detach().to("cpu", copy=True), stats))

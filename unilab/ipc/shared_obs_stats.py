"""The learner's running observation statistics, for the collectors that normalise with them."""

from collections.abc import Mapping
from multiprocessing.context import BaseContext
from typing import Any

import torch

from unilab.ipc.mailbox import LatestValue


class SharedObsNormStats(LatestValue):
    """A mailbox for observation statistics: a dict of arrays, tensors and numbers of any shape; the latest wins.

    Args:
        ctx: multiprocessing context of the processes that share it.
        capacity: bytes of the pickled statistics; the default holds mean and variance of 16,000 float64 observations.

    ``get`` returns None when there is nothing new. Tensors arrive on the CPU.
    """

    def __init__(self, ctx: BaseContext | None, *, capacity: int = 262144) -> None:
        super().__init__(ctx, capacity=capacity)

    def put(self, stats: Mapping[str, Any]) -> None:
        """Replace the latest statistics; never blocks, however often it is called without a reader."""
        super().put(
            {key: value.detach().cpu() if isinstance(value, torch.Tensor) else value for key, value in stats.items()}
        )

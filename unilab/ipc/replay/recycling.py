"""Memory of batches that nobody holds any more, used again."""

import weakref

import numpy as np
import torch


class RecycledBatches:
    """Hands out tensors whose memory it takes back when the last view of them is gone.

    Fresh memory of a few MiB is unmapped when it is freed, so that each batch pays for its page faults: up to half of
    what sampling it costs.

    Args:
        most: pieces of memory that are kept; who holds more batches than this gets memory that is not.
    """

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._kept: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def take(self, rows: int, width: int) -> torch.Tensor:
        """Uninitialized float32 memory [rows, width]."""
        self._kept = [kept for kept in self._kept if kept[0].shape == (rows, width)]
        for index, (memory, held) in enumerate(self._kept):
            if held() is None:
                del self._kept[index]
                return self._hand_out(memory)
        fresh = torch.empty(rows, width)
        return fresh if len(self._kept) == self._most else self._hand_out(fresh.numpy())

    def _hand_out(self, memory: np.ndarray) -> torch.Tensor:
        view = memory.view()  # tensors of this memory hold the view, so it lives as long as the last of them
        self._kept.append((memory, weakref.ref(view)))
        return torch.from_numpy(view)

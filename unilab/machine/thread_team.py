"""A few threads that share each piece of work, the calling one among them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Leave torch's number of intra-op threads as it was before, whatever is set inside."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadTeam:
    """``num_threads`` threads with one intra-op thread each; share 0 of all work is the calling thread's.

    With one thread all work is done in the calling one, whose intra-op threads may serve.
    """

    def __init__(self, num_threads: int, name: str = "learner") -> None:
        self.num_threads = num_threads
        self._others = ThreadPoolExecutor(
            max(1, num_threads - 1), name, initializer=torch.set_num_threads, initargs=(1,)
        )
        if num_threads > 1:
            torch.set_num_threads(1)

    def map(self, work: Callable[[int], Result]) -> list[Result]:
        """``work(share)`` for each share at the same time; results in the order of shares.

        Raises:
            The error of the lowest share that failed, after all have ended.
        """
        others = [self._others.submit(work, share) for share in range(1, self.num_threads)]
        try:
            first = work(0)
        finally:
            wait(others)
        return [first, *(other.result() for other in others)]

    def close(self) -> None:
        """End the threads; idempotent."""
        self._others.shutdown()

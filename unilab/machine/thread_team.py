"""A few threads that share each piece of work, the calling one among them."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class _Answer(Generic[Result]):
    def __init__(self, result: Result | None, error: BaseException | None) -> None:
        self.result = result
        self.error = error


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

    Handing work over and back are two operations on a queue, half the cost of a future. With one thread all work is
    done in the calling one, whose intra-op threads may serve.
    """

    def __init__(self, num_threads: int, name: str = "learner") -> None:
        self.num_threads = num_threads
        self._work: list[queue.SimpleQueue[Callable[[], object] | None]] = []
        self._answers: queue.SimpleQueue[tuple[int, _Answer[object]]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        if num_threads > 1:
            torch.set_num_threads(1)
        for share in range(1, num_threads):
            work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
            thread = threading.Thread(target=self._serve, args=(share, work), name=f"{name}-{share}", daemon=True)
            thread.start()
            self._work.append(work)
            self._threads.append(thread)

    def map(self, work: Callable[[int], Result]) -> list[Result]:
        """``work(share)`` for each share at the same time; results in the order of shares.

        Raises:
            The error of the lowest share that failed, after all have ended.
        """
        for share, inbox in enumerate(self._work, start=1):
            inbox.put(lambda share=share: work(share))  # type: ignore[misc]
        answers = {0: _run(lambda: work(0))}
        for _ in self._work:
            share, answer = self._answers.get()
            answers[share] = answer  # type: ignore[assignment]
        for share in range(self.num_threads):
            error = answers[share].error
            if error is not None:
                raise error
        return [answers[share].result for share in range(self.num_threads)]  # type: ignore[misc]

    def _serve(self, share: int, inbox: "queue.SimpleQueue[Callable[[], object] | None]") -> None:
        torch.set_num_threads(1)
        while (work := inbox.get()) is not None:
            self._answers.put((share, _run(work)))

    def close(self) -> None:
        """End the threads; idempotent."""
        for inbox in self._work:
            inbox.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._work.clear()


def _run(work: Callable[[], Result]) -> _Answer[Result]:
    try:
        return _Answer(work(), None)
    except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
        return _Answer(None, error)

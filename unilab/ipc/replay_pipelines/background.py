"""One thread that does one piece of work at a time, ahead of the thread that asks for it."""

import queue
import threading
import weakref
from collections.abc import Callable

import torch

Work = Callable[[], object]


class BackgroundThread:
    """Runs what ``start`` is given while the caller goes on; ``wait`` ends it. Both belong to the caller's thread.

    A pair of queues instead of an executor: handing over and taking back costs half, and that is what remains of a
    sampling which is hidden otherwise.

    The thread uses one intra-op thread: a pool of its own would compete with the learner's for the same cores.
    """

    def __init__(self, name: str) -> None:
        self._requests: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._busy = False
        # The thread knows the queues alone: an owner that is dropped without close() can be collected, which ends it.
        thread = threading.Thread(target=_serve, args=(self._requests, self._replies), name=name, daemon=True)
        intra_op_threads = torch.get_num_threads()
        thread.start()
        self._end = weakref.finalize(self, _end, self._requests, thread)
        self._replies.get()
        # The thread's set_num_threads is its own, but threads that start later would begin with it.
        torch.set_num_threads(intra_op_threads)

    @property
    def busy(self) -> bool:
        """Work was started that wait() has not ended yet."""
        return self._busy

    @property
    def closed(self) -> bool:
        return not self._end.alive

    def start(self, work: Work) -> None:
        """Begin ``work``; nothing else may be under way."""
        if self._busy or self.closed:
            raise RuntimeError(f"background thread: {'closed' if self.closed else 'busy; wait() for it first'}")
        self._busy = True
        self._requests.put(work)

    def wait(self) -> None:
        """Until nothing is under way. Raises what the work raised, with the traceback of the thread, once."""
        if not self._busy:
            return
        error = self._replies.get()
        self._busy = False
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    def close(self) -> None:
        """Finish the work under way, its error included, and end the thread; idempotent."""
        self._end()
        self._busy = False


def _serve(requests: "queue.SimpleQueue[Work | None]", replies: "queue.SimpleQueue[BaseException | None]") -> None:
    torch.get_num_threads()  # a thread takes over the process's number when it first needs it: not after the next line
    torch.set_num_threads(1)
    replies.put(None)
    while (work := requests.get()) is not None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as caught:  # noqa: BLE001 - whatever it is, the thread that asked raises it
            error = caught
        del work  # what it refers to may be dropped while this thread waits
        replies.put(error)
        del error


def _end(requests: "queue.SimpleQueue[Work | None]", thread: threading.Thread) -> None:
    requests.put(None)
    thread.join()

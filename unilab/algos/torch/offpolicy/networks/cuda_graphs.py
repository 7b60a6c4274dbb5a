"""Recording an update on a CUDA device once, and replaying it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from unilab.machine.devices import current_device

Update = Callable[[Mapping[str, Tensor], bool], None]

WARMUP_UPDATES = 3
"""of each kind, run normally before recording, as the CUDA libraries set themselves up in the first ones"""


class CudaGraphs:
    """Calls the ``update(batch, with_actor)`` that it is given; after a few calls of a kind it replays a recording.

    A replay reads its batch from memory of its own, into which each batch is copied. The update must neither read
    anything back to the host nor allocate what outlives it.

    Everything happens on the device of ``generator``, whichever is the current one.

    The update is not kept, as it belongs to a learner that keeps this: what is on the device is freed with the last
    reference to that learner.

    Args:
        generator: a CUDA generator that it draws from.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._calls = {True: 0, False: 0}
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}
        self._batch: dict[str, Tensor] | None = None
        self._stream: torch.cuda.Stream

    def __call__(self, update: Update, batch: Mapping[str, Tensor], with_actor: bool) -> None:
        with current_device(self._generator.device):
            if self._batch is None:
                self._batch = {name: torch.empty_like(tensor).contiguous() for name, tensor in batch.items()}
                self._stream = torch.cuda.Stream()
            for name, tensor in batch.items():
                self._batch[name].copy_(tensor, non_blocking=True)
            self._calls[with_actor] += 1
            if self._calls[with_actor] <= WARMUP_UPDATES:  # on a stream of its own, as recording requires
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    update(self._batch, with_actor)
                torch.cuda.current_stream().wait_stream(self._stream)
                return
            if with_actor not in self._graphs:
                graph = torch.cuda.CUDAGraph()
                graph.register_generator_state(self._generator)
                # On the same stream: PyTorch's own for this is one for all devices, of the device that recorded first.
                # "thread_local": a prefetching thread may go on.
                try:
                    with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                        update(self._batch, with_actor)
                except RuntimeError as error:
                    error.add_note(
                        "the update could not be recorded as a CUDA graph; if a network of your own reads "
                        "back from the device or makes tensors there, set algorithm.cuda_graphs: false"
                    )
                    raise
                self._graphs[with_actor] = graph
            self._graphs[with_actor].replay()

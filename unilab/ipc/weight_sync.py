"""The learner's weights for the collectors: versions, every dtype, no waiting, never a torn set."""

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from unilab.ipc.latest import LatestVersion, latest_layout

ParamSpec = tuple[tuple[int, ...], torch.dtype]

_KIND = "weights"


def normalize_shapes(param_shapes: Mapping[str, Any]) -> dict[str, ParamSpec]:
    """Each value, a shape (then float32) or a pair (shape, dtype), as a pair."""
    specs = {}
    for key, given in param_shapes.items():
        pair = isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[1], torch.dtype)
        shape, dtype = given if pair else (given, torch.float32)
        specs[key] = (tuple(int(size) for size in shape), dtype)
    return specs


def weight_sync_bytes(param_shapes: Mapping[str, Any]) -> int:
    """Bytes of shared memory that a SharedWeightSync of these parameters takes."""
    return latest_layout(_KIND, normalize_shapes(param_shapes)).bytes


class SharedWeightSync(LatestVersion):
    """A state dict in shared memory: ``write_weights`` publishes a version, ``read_weights_into`` copies the newest.

    Args:
        param_shapes: name to shape (float32) or to (shape, dtype), in the order of the state dict; the property
            ``param_shapes`` of the creator, which is picklable, serves to attach.
        create: make the shared memory, or attach to ``shm_name``.
        shm_name: attaching: the ``name`` of the creator; creating: a name to attach by instead of a generated one.
        lock: entered around each write, for several writers that already share one. By default writers take turns by
            a file lock, which the kernel ends when its holder dies. Readers take no lock at all.

    Picklable as an argument of a process that is being started, and arrives there attached (without ``lock``).

    Raises:
        ValueError: the parameters differ from the creator's, by name.
        SharedMemoryFullError: /dev/shm is too small.
        SegmentClosedError: from any use after close().
    """

    def __init__(
        self,
        param_shapes: Mapping[str, Any],
        *,
        create: bool = True,
        shm_name: str | None = None,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._specs = normalize_shapes(param_shapes)
        if not self._specs:
            raise ValueError("SharedWeightSync: param_shapes is empty; pass the shapes of a state dict")
        if not create and shm_name is None:
            raise ValueError("SharedWeightSync: create=False needs shm_name, the name of the one to attach to")
        name = {"label" if create else "attach": shm_name}
        super().__init__(latest_layout(_KIND, self._specs), lock=lock, **name)
        self._expected = list(self._specs.values())
        # Views are made once, because a small tensor costs more to view than to copy.
        self._buffers = [
            [torch.from_numpy(arrays[key]).view(dtype).view(shape) for key, (shape, dtype) in self._specs.items()]
            for arrays in self._arrays
        ]

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor], **kwargs: Any) -> "SharedWeightSync":
        """A weight sync for tensors like these (names, shapes, dtypes), which are its first version. ``kwargs`` as for
        the class; with ``create=False`` it attaches to another one and publishes nothing."""
        sync = cls({key: (tuple(value.shape), value.dtype) for key, value in state_dict.items()}, **kwargs)
        if kwargs.get("create", True):
            sync.write_weights(state_dict)
        return sync

    @property
    def param_shapes(self) -> dict[str, ParamSpec]:
        """Name to (shape, dtype), picklable, for attaching in another process."""
        return dict(self._specs)

    def write_weights(self, state_dict: Mapping[str, torch.Tensor]) -> int:
        """Publish the tensors, from any device; their version, one more than the last.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape or dtype; nothing is published.
        """
        weights = self._checked(state_dict)
        return self._publish(lambda buffer: torch._foreach_copy_(self._buffers[buffer], weights))

    def read_weights_into(self, state_dict: Mapping[str, torch.Tensor]) -> int:
        """Copy the newest whole version into the tensors, on any device; that version, 0 if there is none yet.

        Compare ``version`` first where nothing new is common.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape or dtype.
        """
        weights = self._checked(state_dict)
        if self.version == 0:
            return 0
        return self._newest(lambda buffer: torch._foreach_copy_(weights, self._buffers[buffer]))[0]

    def _checked(self, state_dict: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The tensors in the order of the buffers, without autograd; whole lists at once, since every call does
        this."""
        self._check_open()
        weights = [state_dict[key] for key in self._specs if key in state_dict]
        if len(weights) == len(state_dict) and [(value.shape, value.dtype) for value in weights] == self._expected:
            return [value.detach() if value.requires_grad else value for value in weights]
        if state_dict.keys() != self._specs.keys():
            different = ", ".join(sorted(state_dict.keys() ^ self._specs.keys()))
            raise ValueError(f"{self.name}: missing or unknown parameters: {different}")
        different = "; ".join(
            f"{key} is {list(state_dict[key].shape)} {state_dict[key].dtype}, announced as {list(shape)} {dtype}"
            for key, (shape, dtype) in self._specs.items()
            if (state_dict[key].shape, state_dict[key].dtype) != (shape, dtype)
        )
        raise ValueError(f"{self.name}: {different}")

    def close(self) -> None:
        """Give up this handle (idempotent). The other processes are not disturbed."""
        super().close()
        self._buffers = []

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(SharedWeightSync, create=False, shm_name=self.name), (self._specs,)

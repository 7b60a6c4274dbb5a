"""The learner's weights for the collectors: versions, every dtype, no waiting, never a torn set."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from unilab.ipc.shared_memory import segments
from unilab.ipc.shared_memory.latest import LatestBuffer, latest_bytes

ParamSpec = tuple[tuple[int, ...], torch.dtype]

_PREFIX = 64
"""bytes before the text that describes the layout: its length"""


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
    specs = normalize_shapes(param_shapes)
    return _weights_offset(specs) + latest_bytes(_weights_bytes(specs))


def _bytes(spec: ParamSpec) -> int:
    shape, dtype = spec
    return torch.Size(shape).numel() * dtype.itemsize


def _weights_bytes(specs: Mapping[str, ParamSpec]) -> int:
    return sum(segments.align(_bytes(spec)) for spec in specs.values())


def _describe(specs: Mapping[str, ParamSpec]) -> bytes:
    """One line a tensor, kept in the segment so that whoever attaches can be told what differs."""
    return "\n".join(f"{list(shape)} {dtype} {key}" for key, (shape, dtype) in specs.items()).encode()


def _weights_offset(specs: Mapping[str, ParamSpec]) -> int:
    return _PREFIX + segments.align(len(_describe(specs)))


class SharedWeightSync:
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
        if create:
            self._segment = segments.create(weight_sync_bytes(self._specs), "weights", label=shm_name)
            text = _describe(self._specs)
            self._segment.memory[_PREFIX : _PREFIX + len(text)] = text
            self._segment.words(0, 1)[0] = len(text)
        else:
            if shm_name is None:
                raise ValueError("SharedWeightSync: create=False needs shm_name, the name of the one to attach to")
            self._segment = segments.attach(shm_name)
            self._check_layout()
        self._expected = list(self._specs.values())
        self._lock = self._segment.lock if lock is None else lock
        self._latest = LatestBuffer(self._segment, _weights_offset(self._specs), _weights_bytes(self._specs))
        self._buffers = [self._tensors(offset) for offset in self._latest.offsets]

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor], **kwargs: Any) -> "SharedWeightSync":
        """One for tensors like these (names, shapes, dtypes), which are its first version. ``kwargs`` as for the class;
        with ``create=False`` it attaches to another one and publishes nothing."""
        sync = cls({key: (tuple(value.shape), value.dtype) for key, value in state_dict.items()}, **kwargs)
        if kwargs.get("create", True):
            sync.write_weights(state_dict)
        return sync

    def _tensors(self, offset: int) -> list[torch.Tensor]:
        """Views of one buffer, made once, because a small tensor costs more to view than to copy."""
        views = []
        for spec in self._specs.values():
            shape, dtype = spec
            size = _bytes(spec)
            flat = torch.from_numpy(self._segment.array(offset, (size,), "uint8"))
            views.append(flat.view(dtype).view(shape))
            offset += segments.align(size)
        return views

    def _check_layout(self) -> None:
        length = self._segment.words(0, 1)[0]
        theirs = self._segment.memory[_PREFIX : _PREFIX + max(0, length)]
        mine = _describe(self._specs)
        if theirs != mine:
            different = sorted(set(theirs.split(b"\n")) ^ set(mine.split(b"\n")))
            listed = "; ".join(line.decode(errors="replace") for line in different[:4]) or "their order"
            raise ValueError(f"{self.name} holds other parameters than these; different: {listed}")

    @property
    def name(self) -> str:
        """Name of the shared memory, to attach by."""
        return self._segment.name

    @property
    def param_shapes(self) -> dict[str, ParamSpec]:
        """Name to (shape, dtype), picklable, for attaching in another process."""
        return dict(self._specs)

    @property
    def version(self) -> int:
        """The newest version that can be read; 0: nothing was written yet."""
        return self._latest.version

    def write_weights(self, state_dict: Mapping[str, torch.Tensor]) -> int:
        """Publish the tensors, from any device; their version, one more than the last.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape or dtype; nothing is published.
        """
        weights = self._checked(state_dict)
        with self._lock:
            return self._latest.write(lambda buffer: torch._foreach_copy_(self._buffers[buffer], weights))

    def read_weights_into(self, state_dict: Mapping[str, torch.Tensor]) -> int:
        """Copy the newest whole version into the tensors, on any device; that version, 0 if there is none yet.

        Compare ``version`` first where nothing new is common.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape or dtype.
        """
        weights = self._checked(state_dict)
        if self.version == 0:
            return 0
        return self._latest.read(lambda buffer: torch._foreach_copy_(weights, self._buffers[buffer]))[0]

    def _checked(self, state_dict: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The tensors in the order of the buffers, without autograd; whole lists at once, since this is every call."""
        _ = self._segment.memory
        weights = [state_dict[key] for key in self._specs if key in state_dict]
        if len(weights) != len(state_dict) or [(value.shape, value.dtype) for value in weights] != self._expected:
            raise ValueError(f"{self.name}: {self._difference(state_dict)}")
        return [value.detach() if value.requires_grad else value for value in weights]

    def _difference(self, state_dict: Mapping[str, torch.Tensor]) -> str:
        if state_dict.keys() != self._specs.keys():
            different = ", ".join(sorted(state_dict.keys() ^ self._specs.keys()))
            return f"missing or unknown parameters: {different}"
        return "; ".join(
            f"{key} is {list(state_dict[key].shape)} {state_dict[key].dtype}, announced as {list(shape)} {dtype}"
            for key, (shape, dtype) in self._specs.items()
            if state_dict[key].shape != shape or state_dict[key].dtype != dtype
        )

    def close(self) -> None:
        """Give up this handle (idempotent). The other processes are not disturbed."""
        self._segment.close()
        self._latest.close()
        self._buffers = []

    def cleanup(self) -> None:
        """Close, and free the shared memory once nobody maps it any more. The creator calls it (idempotent)."""
        self.close()
        self._segment.unlink()

    def __reduce__(self) -> tuple[Callable[..., "SharedWeightSync"], tuple[Any, ...]]:
        return _attach, (self._specs, self.name)


def _attach(specs: dict[str, ParamSpec], name: str) -> SharedWeightSync:
    return SharedWeightSync(specs, create=False, shm_name=name)

"""A ring of rollouts in shared memory: one collector writes, one learner reads, neither can stop the other.

There are ``num_slots + 2`` physical slots: besides the rollouts that wait to be read there is always one free to be
written and one that the reader holds. So the writer never touches a slot that can be read, the reader's views stay
whole until ``advance_read`` however often the writer laps it, and nothing is ever copied twice.

Which slot is which stands in a few words of the header: for each slot the number of the rollout in it (or FREE), and
the slot that the reader holds. They change under a file lock that is held for those stores alone, never while data is
copied; the kernel ends it when its holder dies, and every store by itself leaves a state that the other side can go
on with. Taking the lock also orders the data before the words that announce it, on every kind of processor.
"""

from collections.abc import Callable, Mapping
from multiprocessing.context import BaseContext
from typing import Any, Literal

import numpy as np
import torch

from unilab.ipc.rollout_fields import FieldSpec, checksum, fields_bytes, float_fields, normalized
from unilab.ipc.shared_memory import segments
from unilab.ipc.shared_memory.wakeup import Bell, Deadline, SharedFlag

WhenFull = Literal["drop_oldest", "wait"]
_MODES: tuple[WhenFull, ...] = ("drop_oldest", "wait")

FREE = -1
_MAGIC = 0x756E695F72696E67
_SHAPE = ("num_envs", "num_steps", "obs_dim", "action_dim", "critic_dim", "num_slots")
_FIELDS = 1 + len(_SHAPE)
_MODE = _FIELDS + 1
_WRITTEN, _DROPPED, _READ, _HELD = range(_MODE + 1, _MODE + 5)
_SLOTS = _HELD + 1
"""index of the first slot's words: for each slot the rollout's number, then for each slot its policy version"""


def ring_bytes(
    num_envs: int,
    num_steps: int,
    obs_dim: int,
    action_dim: int,
    *,
    critic_dim: int = 0,
    num_slots: int = 4,
    fields: Mapping[str, FieldSpec] | None = None,
) -> int:
    """Bytes of shared memory of a ring of these sizes."""
    fields = fields or float_fields(num_envs, num_steps, obs_dim, action_dim, critic_dim)
    return _header_bytes(num_slots) + (num_slots + 2) * fields_bytes(fields)


def _header_bytes(num_slots: int) -> int:
    return segments.align(8 * (_SLOTS + 2 * (num_slots + 2)))


class RolloutRingBuffer:
    """``num_slots`` unread rollouts of T steps in N environments, each with the version of the weights that acted.

    Writer::

        buffer = ring.write_buffer          # dict of arrays [T, N, ...] in shared memory, to be filled
        ring.policy_version = version
        ring.signal_write_done()

    Reader::

        if ring.wait_for_data(timeout=60.0):
            version = ring.copy_read_slot_to_torch(tensors)     # or read_torch, or read_numpy_views
            ring.advance_read()

    Args:
        num_envs, num_steps, obs_dim, action_dim, critic_dim: N, T and the widths; critic_dim 0: no critic fields.
        num_slots: unread rollouts that it holds before it is full.
        create: make the ring, or attach to one that another process made with the same sizes.
        shm_name_prefix: attaching: the ``name`` of the ring; creating: a name to attach by instead of a generated one.
        when_full: ``drop_oldest`` gives up the oldest unread rollout and counts it in ``dropped`` (the one that is
            being read is never given up); ``wait`` is for writers that call ``wait_for_space`` before each rollout.
            Whoever attaches gets the creator's choice.
        fields: names, shapes and dtypes of a slot's arrays, instead of APPO's (see ``rollout_fields``).
        ctx: multiprocessing context of the processes that share it; spawn when None.

    A ring is picklable as an argument of a process that is being started, and arrives there attached.

    Raises:
        ValueError: impossible sizes, or sizes other than the creator's.
        SharedMemoryFullError: /dev/shm is too small.
        SegmentClosedError: from any use after close().
    """

    def __init__(
        self,
        num_envs: int,
        num_steps: int,
        obs_dim: int,
        action_dim: int,
        *,
        critic_dim: int = 0,
        num_slots: int = 4,
        create: bool = True,
        shm_name_prefix: str | None = None,
        when_full: WhenFull = "drop_oldest",
        fields: Mapping[str, FieldSpec] | None = None,
        ctx: BaseContext | None = None,
    ) -> None:
        self._sizes = (num_envs, num_steps, obs_dim, action_dim, critic_dim, num_slots)
        for label, size in zip(_SHAPE, self._sizes, strict=True):
            if size < (0 if label == "critic_dim" else 1):
                raise ValueError(f"RolloutRingBuffer: {label} is {size}; it must be positive")
        if when_full not in _MODES:
            raise ValueError(f"RolloutRingBuffer: when_full is {when_full!r}; choose one of {', '.join(_MODES)}")
        self._fields = normalized(fields or float_fields(*self._sizes[:-1]))
        self._sync: tuple[Bell, Bell] | None = None
        self._write_slot: int | None = None
        self.policy_version = 0
        """version of the weights that act in the rollout being written; stored with it by signal_write_done()"""
        if create:
            size = ring_bytes(*self._sizes[:4], critic_dim=critic_dim, num_slots=num_slots, fields=self._fields)
            self._segment = segments.create(size, "rollouts", label=shm_name_prefix)
            self._map()
            for word, size in enumerate(self._sizes, start=1):
                self._words[word] = size
            self._words[_FIELDS] = checksum(self._fields)
            self._words[_MODE] = _MODES.index(when_full)
            self._words[_HELD] = FREE
            for slot in range(self._physical):
                self._words[_SLOTS + slot] = FREE
            self._words[0] = _MAGIC
            self.attach_sync_primitives(Bell(ctx), Bell(ctx))
        else:
            if shm_name_prefix is None:
                raise ValueError("RolloutRingBuffer: create=False needs shm_name_prefix, the name of the ring")
            self._segment = segments.attach(shm_name_prefix)
            self._check_sizes()
            self._map()

    def _map(self) -> None:
        """Lay the header's words and each slot's arrays over the segment."""
        self._physical = self._sizes[-1] + 2
        self._words = self._segment.words(0, _SLOTS + 2 * self._physical)
        self._slots: list[dict[str, np.ndarray]] = []
        offset = _header_bytes(self._sizes[-1])
        for _ in range(self._physical):
            arrays = {}
            for name, (shape, dtype) in self._fields.items():
                arrays[name] = self._segment.array(offset, shape, dtype)
                offset += segments.align(arrays[name].nbytes)
            self._slots.append(arrays)

    def _check_sizes(self) -> None:
        if self._segment.size < 8 * _SLOTS:
            raise ValueError(f"{self.name} is no rollout ring: it has {self._segment.size} bytes")
        words = self._segment.words(0, _SLOTS)
        if words[0] != _MAGIC:
            raise ValueError(f"{self.name} is no rollout ring, or one that is not finished yet")
        for label, mine, theirs in zip(_SHAPE, self._sizes, words[1:_FIELDS], strict=True):
            if mine != theirs:
                raise ValueError(f"{self.name} was created with {label}={theirs}, attached with {label}={mine}")
        if words[_FIELDS] != checksum(self._fields):
            raise ValueError(
                f"{self.name} was created with other fields than {', '.join(self._fields)}, or other types"
            )

    # What both sides may ask

    @property
    def name(self) -> str:
        """Name of the shared memory, to attach by."""
        return self._segment.name

    @property
    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each field of one rollout."""
        return {name: shape for name, (shape, _) in self._fields.items()}

    @property
    def num_slots(self) -> int:
        """Unread rollouts that it holds before it is full."""
        return self._sizes[-1]

    @property
    def when_full(self) -> WhenFull:
        """The creator's choice."""
        return _MODES[self._header(_MODE)]

    @property
    def written(self) -> int:
        """Rollouts written so far."""
        return self._header(_WRITTEN)

    @property
    def dropped(self) -> int:
        """Rollouts given up unread so far, because the ring was full."""
        return self._header(_DROPPED)

    @property
    def read(self) -> int:
        """Rollouts that the reader has finished."""
        return self._header(_READ)

    @property
    def sync_primitives(self) -> tuple[Bell, Bell]:
        """What wakes the reader and what wakes the writer: ``attach_sync_primitives(*pair)`` on the other side."""
        if self._sync is None:
            raise RuntimeError(
                f"{self.name} cannot wake the other side: call attach_sync_primitives(*ring.sync_primitives) with the "
                "pair of the ring that created it"
            )
        return self._sync

    def attach_sync_primitives(self, write_ptr: Bell, read_ptr: Bell) -> None:
        """Use the creator's bells: ``write_ptr`` wakes the reader, ``read_ptr`` the writer; its ``sync_primitives``.

        They are pipes, which have no name to attach by: another process gets the pair when it is started (spawned), as
        an argument::

            Process(target=collect, args=(ring.name, ring.sync_primitives))

            def collect(name, pair):
                ring = RolloutRingBuffer(..., create=False, shm_name_prefix=name)
                ring.attach_sync_primitives(*pair)

        or within the ring itself, ``args=(ring,)``, which arrives with the pair attached.
        """
        self._sync = (write_ptr, read_ptr)

    def available(self) -> int:
        """Rollouts that can be read, the one being read included."""
        self._check_open()
        return sum(number != FREE for number in self._numbers())

    # Writer

    @property
    def write_slot(self) -> int:
        """Index of the physical slot that is being written; no reader looks at it before signal_write_done()."""
        self._check_open()
        if self._write_slot is None:
            with self._segment.lock:
                self._drop_excess()
                self._write_slot = next(slot for slot, number in enumerate(self._numbers()) if number == FREE)
        return self._write_slot

    @property
    def write_buffer(self) -> dict[str, np.ndarray]:
        """The arrays of the rollout to be written, views of shared memory."""
        return self._slots[self.write_slot]

    def wait_for_space(self, timeout: float = 60.0, *, unless: SharedFlag | None = None) -> bool:
        """Wait until a rollout fits without giving one up, at most ``timeout`` seconds; False if none does.

        ``unless``: a flag that ends the wait at once, such as the runner's stop event.
        """
        return self._wait(lambda: self.available() < self.num_slots, self.sync_primitives[1], timeout, unless)

    def signal_write_done(self) -> None:
        """Hand the rollout in ``write_buffer`` to the reader and wake it.

        Raises:
            RuntimeError: the ring is full and its mode is ``wait``.
        """
        slot, words = self.write_slot, self._words
        if self.when_full == "wait" and self.available() >= self.num_slots:
            raise RuntimeError(
                f"{self.name} is full ({self.num_slots} unread rollouts): call wait_for_space() before writing, or "
                "create the ring with when_full='drop_oldest'"
            )
        with self._segment.lock:
            number = max(words[_WRITTEN], 1 + max(self._numbers()))
            words[_SLOTS + self._physical + slot] = self.policy_version
            words[_SLOTS + slot] = number
            words[_WRITTEN] = number + 1
            self._drop_excess()
        self._write_slot = None
        self.sync_primitives[0].ring()

    def _drop_excess(self) -> None:
        """Give up the oldest unread rollouts beyond num_slots; the caller holds the lock."""
        held = self._words[_HELD]
        while len(unread := self._unread(held)) > self.num_slots:
            self._words[_SLOTS + unread[0]] = FREE
            self._words[_DROPPED] += 1

    # Reader

    @property
    def read_slot(self) -> int:
        """Index of the physical slot with the oldest unread rollout. From here on it is held until advance_read().

        Raises:
            RuntimeError: there is nothing to read.
        """
        self._check_open()
        with self._segment.lock:
            held = self._words[_HELD]
            if held != FREE and self._words[_SLOTS + held] != FREE:
                return held
            unread = self._unread(FREE)
            if not unread:
                raise RuntimeError(f"{self.name} has no rollout to read; wait_for_data() says when there is one")
            self._words[_HELD] = unread[0]
            return unread[0]

    @property
    def read_policy_version(self) -> int:
        """Version of the weights that acted in the rollout being read."""
        return self._words[_SLOTS + self._physical + self.read_slot]

    def wait_for_data(self, timeout: float = 60.0, *, unless: SharedFlag | None = None) -> bool:
        """Wait until there is a rollout to read, at most ``timeout`` seconds; False if there is none.

        ``unless``: a flag that ends the wait at once, such as the runner's interrupt.
        """
        return self._wait(lambda: self.available() > 0, self.sync_primitives[0], timeout, unless)

    def read_numpy_views(self) -> dict[str, np.ndarray]:
        """The rollout's arrays in shared memory, unchanged until advance_read() whatever the writer does."""
        return dict(self._slots[self.read_slot])

    def read_torch(self, device: torch.device | str) -> dict[str, torch.Tensor]:
        """A copy of the rollout as tensors on ``device``: float32, unless ``fields`` says otherwise."""
        views = self._slots[self.read_slot]
        return {name: torch.from_numpy(view).to(device, copy=True) for name, view in views.items()}

    def copy_read_slot_to_torch(self, destination: Mapping[str, torch.Tensor]) -> int:
        """Copy the rollout into tensors of the shapes ``slot_shapes``, on any device; its policy version.

        Raises:
            ValueError: a field is missing, unknown or of another shape.
        """
        views = self._slots[self.read_slot]
        if views.keys() != destination.keys():
            raise ValueError(f"{self.name}: fields differ: {', '.join(sorted(views.keys() ^ destination.keys()))}")
        for name, view in views.items():
            if destination[name].shape != view.shape:
                raise ValueError(f"{self.name}: {name} is {list(view.shape)}, not {list(destination[name].shape)}")
            destination[name].copy_(torch.from_numpy(view))
        return self.read_policy_version

    def advance_read(self) -> None:
        """Finish the rollout being read (the oldest unread one if none is) and wake a writer that waits for space."""
        slot = self.read_slot
        with self._segment.lock:
            self._words[_HELD] = FREE
            self._words[_SLOTS + slot] = FREE
            self._words[_READ] += 1
        self.sync_primitives[1].ring()

    # Closing

    def close(self) -> None:
        """Give up this handle (idempotent); arrays handed out stay valid. The other side is not disturbed."""
        self._segment.close()
        self._words.release()
        self._slots = []

    def cleanup(self) -> None:
        """Close, and free the shared memory once nobody maps it any more. The creator calls it, last (idempotent)."""
        self.close()
        self._segment.unlink()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach, (self._sizes, self._fields, self.name, self.sync_primitives)

    # Helpers

    def _check_open(self) -> None:
        _ = self._segment.memory

    def _header(self, word: int) -> int:
        self._check_open()
        return self._words[word]

    def _numbers(self) -> list[int]:
        return self._words[_SLOTS : _SLOTS + self._physical].tolist()

    def _unread(self, held: int) -> list[int]:
        """Slots of the rollouts that can be read, oldest first, without the one that is held."""
        numbers = self._numbers()
        slots = (slot for slot, number in enumerate(numbers) if number != FREE and slot != held)
        return sorted(slots, key=numbers.__getitem__)

    def _wait(self, ready: Callable[[], bool], bell: Bell, timeout: float, unless: SharedFlag | None) -> bool:
        deadline = Deadline(timeout)
        while not ready():
            left = deadline.left()
            if left == 0 or not bell.wait(left, unless):
                return ready()
        return True


def _attach(
    sizes: tuple[int, ...], fields: Mapping[str, FieldSpec], name: str, sync: tuple[Bell, Bell]
) -> RolloutRingBuffer:
    *shape, critic_dim, num_slots = sizes
    options: dict[str, Any] = {"critic_dim": critic_dim, "num_slots": num_slots, "fields": fields}
    ring = RolloutRingBuffer(*shape, create=False, shm_name_prefix=name, **options)
    ring.attach_sync_primitives(*sync)
    return ring

"""A ring of rollouts in shared memory: one collector writes, one learner reads, neither can stop the other.

There are ``num_slots + 2`` physical slots: besides the rollouts that wait to be read there is always one free to be
written and one that the reader holds. So the writer never touches a slot that can be read, the reader's views stay
whole until ``advance_read`` however often the writer laps it, and nothing is ever copied twice.

Which slot is which stands in a few words: for each slot the number of the rollout in it, counted from 1 (or FREE), and
the number of the one that the reader holds. They change under a file lock that is held for those stores alone, never
while data is copied; the kernel ends it when its holder dies, and every store by itself leaves a state that the other
side can go on with. Taking the lock also orders the data before the words that announce it, on every kind of processor.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from unilab.ipc.shared_buffer import FieldSpec, Layout, SharedBufferBase
from unilab.ipc.shared_memory.wakeup import Deadline, SharedFlag

FREE = 0
_SIZES = ("num_envs", "num_steps", "obs_dim", "action_dim", "critic_dim", "num_slots")
_WRITTEN, _DROPPED, _HELD, _SLOTS = range(4)
"""_SLOTS: the first of the slots' words: for each slot the rollout's number, then for each slot its policy version"""


def slot_fields(
    num_envs: int, num_steps: int, obs_dim: int, action_dim: int, critic_dim: int = 0
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays of one of APPO's rollouts, all float32; N environments, T steps."""
    shapes: dict[str, tuple[int, ...]] = {
        "obs": (num_steps, num_envs, obs_dim),
        "actions": (num_steps, num_envs, action_dim),
        "log_probs": (num_steps, num_envs),
        "rewards": (num_steps, num_envs),
        "dones": (num_steps, num_envs),
        "truncated": (num_steps, num_envs),
        "last_obs": (num_envs, obs_dim),
    }
    if critic_dim > 0:
        shapes |= {"critic": (num_steps, num_envs, critic_dim), "last_critic": (num_envs, critic_dim)}
    return shapes


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
    return _layout((num_envs, num_steps, obs_dim, action_dim, critic_dim, num_slots), fields).bytes


def _layout(sizes: tuple[int, ...], fields: Mapping[str, FieldSpec] | None) -> Layout:
    """The layout of a ring whose slots have these fields, or else APPO's."""
    given = fields or {name: (shape, np.float32) for name, shape in slot_fields(*sizes[:-1]).items()}
    slots = sizes[-1] + 2
    return Layout(
        "rollout ring",
        _SLOTS + 2 * slots,
        {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in given.items()},
        slots,
        dict(zip(_SIZES, sizes, strict=True)),
    )


class RolloutRingBuffer(SharedBufferBase):
    """``num_slots`` unread rollouts of T steps in N environments, each with the version of the weights that acted.

    Writer::

        ring.wait_for_space()               # or else the oldest unread rollout of a full ring is given up
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
        fields: names, shapes and dtypes of a slot's arrays, instead of APPO's (``slot_fields``).

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
        fields: Mapping[str, FieldSpec] | None = None,
    ) -> None:
        self._sizes = (num_envs, num_steps, obs_dim, action_dim, critic_dim, num_slots)
        for label, size in zip(_SIZES, self._sizes, strict=True):
            if size < (0 if label == "critic_dim" else 1):
                raise ValueError(f"RolloutRingBuffer: {label} is {size}; it must be positive")
        if not create and shm_name_prefix is None:
            raise ValueError("RolloutRingBuffer: create=False needs shm_name_prefix, the name of the ring")
        layout = _layout(self._sizes, fields)
        super().__init__(layout, **{"label" if create else "attach": shm_name_prefix})
        self._fields = layout.fields
        self._physical = layout.copies
        self._write_slot: int | None = None
        self._sync = (SharedFlag(), SharedFlag()) if create else None
        self.policy_version = 0
        """version of the weights that act in the rollout being written; stored with it by signal_write_done()"""

    # What both sides may ask

    @property
    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each field of one rollout."""
        return {name: shape for name, (shape, _) in self._fields.items()}

    @property
    def num_slots(self) -> int:
        """Unread rollouts that it holds before it is full."""
        return self._sizes[-1]

    @property
    def written(self) -> int:
        """Rollouts written so far."""
        self._check_open()
        return self._words[_WRITTEN]

    @property
    def dropped(self) -> int:
        """Rollouts given up unread so far, because the ring was full."""
        self._check_open()
        return self._words[_DROPPED]

    @property
    def sync_primitives(self) -> tuple[SharedFlag, SharedFlag]:
        """What wakes the reader and what wakes the writer: ``attach_sync_primitives(*pair)`` on the other side."""
        if self._sync is None:
            raise RuntimeError(
                f"{self.name} cannot wake the other side: call attach_sync_primitives(*ring.sync_primitives) with the "
                "pair of the ring that created it"
            )
        return self._sync

    def attach_sync_primitives(self, write_ptr: SharedFlag, read_ptr: SharedFlag) -> None:
        """Use the creator's flags: ``write_ptr`` wakes the reader, ``read_ptr`` the writer; its ``sync_primitives``.

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

    def _numbers(self) -> list[int]:
        return self._words[_SLOTS : _SLOTS + self._physical].tolist()

    # Writer

    @property
    def write_slot(self) -> int:
        """Index of the physical slot that is being written; no reader looks at it before signal_write_done()."""
        self._check_open()
        if self._write_slot is None:
            with self._segment.locked():
                self._write_slot = self._numbers().index(FREE)
        return self._write_slot

    @property
    def write_buffer(self) -> dict[str, np.ndarray]:
        """The arrays of the rollout to be written, views of shared memory."""
        return self._arrays[self.write_slot]

    def wait_for_space(self, timeout: float = 60.0, *, unless: SharedFlag | None = None) -> bool:
        """Wait until a rollout fits without giving one up, at most ``timeout`` seconds; False if none does.

        ``unless``: a flag that ends the wait at once, such as the runner's stop event.
        """
        return self._wait(lambda: self.available() < self.num_slots, self.sync_primitives[1], timeout, unless)

    def signal_write_done(self) -> None:
        """Hand the rollout in ``write_buffer`` to the reader and wake it.

        A full ring gives up its oldest unread rollout and counts it in ``dropped``, never the one that is being read.
        """
        slot, words = self.write_slot, self._words
        with self._segment.locked():
            numbers = self._numbers()
            unread = sorted(set(numbers) - {FREE, words[_HELD]})
            for number in unread[: max(0, len(unread) + 1 - self.num_slots)]:
                words[_SLOTS + numbers.index(number)] = FREE
                words[_DROPPED] += 1
            words[_SLOTS + self._physical + slot] = self.policy_version
            words[_WRITTEN] += 1  # before the number, so that a writer's successor never uses it again
            words[_SLOTS + slot] = words[_WRITTEN]
        self._write_slot = None
        self.sync_primitives[0].set()

    # Reader

    @property
    def read_slot(self) -> int:
        """Index of the physical slot with the oldest unread rollout. From here on it is held until advance_read().

        Raises:
            RuntimeError: there is nothing to read.
        """
        self._check_open()
        with self._segment.locked():
            numbers = self._numbers()
            if self._words[_HELD] == FREE:
                unread = set(numbers) - {FREE}
                if not unread:
                    raise RuntimeError(f"{self.name} has no rollout to read; wait_for_data() says when there is one")
                self._words[_HELD] = min(unread)
            return numbers.index(self._words[_HELD])

    @property
    def read_policy_version(self) -> int:
        """Version of the weights that acted in the rollout being read."""
        return self._words[_SLOTS + self._physical + self.read_slot]

    def wait_for_data(self, timeout: float = 60.0, *, unless: SharedFlag | None = None) -> bool:
        """Wait until there is a rollout to read, at most ``timeout`` seconds; False if there is none.

        ``unless``: a flag that ends the wait at once, such as the runner's interrupt.
        """
        return self._wait(lambda: self.available() > 0, self.sync_primitives[0], timeout, unless)

    def _wait(self, ready: Callable[[], bool], flag: SharedFlag, timeout: float, unless: SharedFlag | None) -> bool:
        deadline = Deadline(timeout)
        while not ready():
            if not flag.wait(deadline.left(), unless):
                return ready()
            flag.clear()
        return True

    def read_numpy_views(self) -> dict[str, np.ndarray]:
        """The rollout's arrays in shared memory, unchanged until advance_read() whatever the writer does."""
        return dict(self._arrays[self.read_slot])

    def read_torch(self, device: torch.device | str) -> dict[str, torch.Tensor]:
        """A copy of the rollout as tensors on ``device``: float32, unless ``fields`` says otherwise."""
        views = self._arrays[self.read_slot]
        return {name: torch.from_numpy(view).to(device, copy=True) for name, view in views.items()}

    def copy_read_slot_to_torch(self, destination: Mapping[str, torch.Tensor]) -> int:
        """Copy the rollout into tensors of the shapes ``slot_shapes``, on any device; its policy version.

        Raises:
            ValueError: a field is missing, unknown or of another shape.
        """
        views = self._arrays[self.read_slot]
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
        with self._segment.locked():
            self._words[_HELD] = FREE
            self._words[_SLOTS + slot] = FREE
        self.sync_primitives[1].set()

    def __reduce__(self) -> tuple[Any, ...]:
        options: dict[str, Any] = {"critic_dim": self._sizes[4], "num_slots": self.num_slots, "fields": self._fields}
        attach = functools.partial(RolloutRingBuffer, create=False, shm_name_prefix=self.name, **options)
        return attach, self._sizes[:4], {"_sync": self.sync_primitives}

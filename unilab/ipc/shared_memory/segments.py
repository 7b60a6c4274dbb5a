"""Named blocks of shared memory that survive crashes of the processes that use them.

A segment is a file in ``/dev/shm`` (memory, not disk) mapped by every process that attaches to it. Its name carries
the owner's process id, start time and process namespace, so that the segments of a crashed run can be told from
those of a running one. Three things remove a segment: the owner (``unlink``, or its end), a collector whose parent
was killed (``remove_owned_by``), and ``remove_leftovers`` at the next start when everything was killed together.

Memory is mapped until the last array that views it is gone: closing a handle while somebody still holds a view
invalidates the handle, never the memory.
"""

import contextlib
import errno
import fcntl
import functools
import itertools
import mmap
import os
import re
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from unilab.errors import UserError

ALIGNMENT = 64
"""bytes; one cache line, so that neighbouring fields do not share one"""

ROOT = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
_NAME = re.compile(r"unilab\.(?P<namespace>[0-9a-f]+)\.(?P<pid>\d+)\.(?P<started>\d+)\.(?P<kind>[\w-]+?)(\.\d+)?")
_numbers = itertools.count()
LOCK_SECONDS = 4.0
"""to wait for a lock that is held for microseconds; one that is still held then has a holder that stands still"""
_fence_lock = threading.Lock()


class SharedMemoryFullError(UserError, OSError):
    """The file system that holds shared memory is too small for what is asked: bytes needed and bytes free."""

    def __init__(self, kind: str, need: int, free: int) -> None:
        super().__init__(
            errno.ENOSPC,
            f"{kind}: needs {need} bytes ({need / 2**20:.1f} MiB) of shared memory in {ROOT}, {free} bytes "
            f"({free / 2**20:.1f} MiB) are free. Use fewer environments, steps or slots, remove what other runs left "
            f"there, or enlarge it (`docker run --shm-size=4g`, `mount -o remount,size=4G {ROOT}`)",
        )
        self.kind = kind
        self.need = need
        self.free = free

    def __reduce__(self) -> tuple[type["SharedMemoryFullError"], tuple[str, int, int]]:
        return SharedMemoryFullError, (self.kind, self.need, self.free)


class SegmentClosedError(RuntimeError):
    """Shared memory was used through a handle after its close()."""


class LockHeldError(UserError, RuntimeError):
    """Another process holds the lock of shared memory and stands still."""


def align(size: int) -> int:
    """``size`` in bytes, rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def fence() -> None:
    """Order the memory accesses before this call with those after it, as other processes see them.

    x86-64 keeps stores in order and loads in order; a taken lock is a full barrier there. On ARM64 releasing a lock
    and then taking one is (release followed by acquire), hence twice.
    """
    with _fence_lock:
        pass
    with _fence_lock:
        pass


def start_time(pid: int) -> int | None:
    """When a process started, or None if there is no such process (a zombie counts as gone).

    In clock ticks since boot, which a change of the wall clock does not touch.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")  # a name is cut where it is too long
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@functools.cache
def _namespace() -> int:
    """The process-id namespace: containers may share /dev/shm and still count processes differently."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _owner_prefix(pid: int, started: int) -> str:
    return f"unilab.{_namespace():x}.{pid}.{started}."


class Segment:
    """One mapped block of shared memory; made by ``create`` and ``attach``."""

    def __init__(self, name: str, *, owner: bool) -> None:
        self.name = name
        fd = os.open(ROOT / name, os.O_RDWR)
        try:
            self.size = os.fstat(fd).st_size
            self._memory: mmap.mmap | None = mmap.mmap(fd, self.size)
        finally:
            os.close(fd)
        # A file of its own: the mapping keeps its open in forked processes, where nobody could close it.
        self._fd = os.open(ROOT / name, os.O_RDWR)
        self._close = weakref.finalize(self, os.close, self._fd)
        self._threads = threading.Lock()
        _open_segments.add(self)
        self._unlink = weakref.finalize(self, _remove, name, os.getpid()) if owner else None

    @property
    def memory(self) -> mmap.mmap:
        """The mapped bytes; raises SegmentClosedError after close()."""
        if self._memory is None:
            raise SegmentClosedError(f"shared memory {self.name} was used after close(); close it when all is done")
        return self._memory

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the segment's lock, which one thread of one process has at a time, and which orders memory accesses.

        It is for a few stores (microseconds). The kernel ends the lock of a process that dies. The lock belongs to the
        open file, which a forked process would share and keep locked after its parent's death: a forked process gives
        up the file at once.

        Raises:
            LockHeldError: another process held it for LOCK_SECONDS in which this one ran.
            SegmentClosedError: after close(), and in a forked process.
        """
        if not self._close.alive:  # first: a forked process may have inherited the other lock in a thread's hands
            raise SegmentClosedError(
                f"shared memory {self.name} was locked after close(), or in a process that was forked: only the "
                "process that attached to it may use it"
            )
        with self._threads:
            _ = self.memory  # open
            waited, pause = 0.0, 2e-5
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if waited >= LOCK_SECONDS:
                    raise LockHeldError(
                        f"shared memory {self.name} has been locked by another process for {LOCK_SECONDS:g} s instead "
                        "of microseconds: that process was stopped (SIGSTOP, a debugger) or hangs; let it go on or end "
                        "it, and start the run again"
                    )
                time.sleep(pause)
                waited += pause  # and not the clock's time: this process may have been stopped itself
                pause = min(2 * pause, 0.01)
            try:
                yield
            finally:
                if self._close.alive:  # else this is a process that was forked meanwhile
                    fcntl.flock(self._fd, fcntl.LOCK_UN)

    def array(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """A view of ``shape`` at ``offset`` bytes; it keeps the memory mapped even after close()."""
        return np.ndarray(shape, dtype, self.memory, offset)

    def words(self, offset: int, count: int) -> memoryview:
        """``count`` int64 words at ``offset`` bytes (a multiple of 8); each is stored in one piece."""
        return memoryview(self.memory)[offset : offset + 8 * count].cast("q")

    def close(self) -> None:
        """Give up this handle (idempotent). The memory itself stays as long as arrays view it."""
        with self._threads:
            self._memory = None
            self._close()

    def unlink(self) -> None:
        """Remove the name, so that the memory is freed when the last process unmaps it. Owner only, idempotent."""
        if self._unlink is not None:
            self._unlink()


_open_segments: "weakref.WeakSet[Segment]" = weakref.WeakSet()


def _close_inherited_files() -> None:
    for segment in list(_open_segments):
        segment._close()


os.register_at_fork(after_in_child=_close_inherited_files)


def create(size: int, kind: str, *, label: str | None = None) -> Segment:
    """Make a segment of ``size`` bytes, zero-filled and with its memory reserved.

    Args:
        size: bytes.
        kind: what it is for, part of the name (letters, digits, ``_`` and ``-``).
        label: a name of the caller's choice in place of kind; ``attach`` finds the segment by it.

    Raises:
        SharedMemoryFullError: not enough free space, found here and not as a bus error later.
    """
    if size > (free := _free_bytes()):
        raise SharedMemoryFullError(kind, size, free)
    pid = os.getpid()
    kind = re.sub(r"[^\w-]", "-", label if label is not None else kind)
    suffix = "" if label is not None else f".{next(_numbers)}"
    name = f"{_owner_prefix(pid, start_time(pid) or 0)}{kind}{suffix}"
    fd = os.open(ROOT / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)  # sets the pages aside: a bus error later is an error now
        return Segment(name, owner=True)
    except BaseException as error:
        _remove(name)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise SharedMemoryFullError(kind, size, _free_bytes()) from None
        raise
    finally:
        os.close(fd)


def attach(name: str) -> Segment:
    """Map an existing segment, given its full name or the label that it was created with.

    Raises:
        FileNotFoundError: there is none, or its owner has removed it.
    """
    if not (ROOT / name).exists():
        label = re.sub(r"[^\w-]", "-", name)
        found = [path.name for path in ROOT.glob(f"unilab.*.{label}") if _is_ours(path)]
        if len(found) != 1:
            raise FileNotFoundError(
                errno.ENOENT,
                f"{len(found)} shared-memory segments are called {name!r}; pass the `name` of the creator's object",
                str(ROOT / name),
            )
        name = found[0]
    return Segment(name, owner=False)


def remove_leftovers() -> list[str]:
    """Remove this user's segments whose processes are dead (process id and start time agree); their names.

    Those of other users are left alone, root's view included: their processes may be hidden (``hidepid``).
    """
    removed = []
    for path in ROOT.glob("unilab.*"):
        match = _NAME.fullmatch(path.name)
        if match and _is_ours(path) and int(match["namespace"], 16) == _namespace():
            alive = start_time(int(match["pid"])) == int(match["started"])
            if not alive and _remove(path.name):
                removed.append(path.name)
    return removed


def remove_owned_by(pid: int, started: int) -> list[str]:
    """Remove every segment of one process, for a child whose parent is gone; their names."""
    paths = ROOT.glob(f"{_owner_prefix(pid, started)}*")
    return [path.name for path in paths if _is_ours(path) and _remove(path.name)]


def _is_ours(path: Path) -> bool:
    """Whether the file is this user's; not if it has just been removed."""
    try:
        return path.lstat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def _free_bytes() -> int:
    status = os.statvfs(ROOT)
    return status.f_bavail * status.f_frsize


def _remove(name: str, owner: int | None = None) -> bool:
    """Remove a name; False if somebody else did, or if this is a process that ``owner`` has forked."""
    if owner not in (None, os.getpid()):
        return False
    try:
        (ROOT / name).unlink()
    except FileNotFoundError:
        return False
    return True

"""Named blocks of shared memory that survive crashes of the processes that use them.

A segment is a file in ``/dev/shm`` (memory, not disk) mapped by every process that attaches to it. Its name carries
the owner's process id, start time and process namespace, so that the segments of a crashed run can be told from
those of a running one. Three things remove a segment: the owner (``unlink``, or its end), the resource tracker of
multiprocessing when the owner is killed, and ``remove_leftovers`` when everything was killed together.

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
import sys
import tempfile
import threading
import time
import weakref
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import DTypeLike

from unilab.errors import UserError

ALIGNMENT = 64
"""bytes; one cache line, so that neighbouring fields do not share one"""

LOCK_SECONDS = 4.0
"""for a lock that is held for microseconds; less than the 5 s in which a stopped run must end"""

_LONGEST_PAUSE = 0.01
"""seconds between two looks at a lock that is held"""

_MEMORY = Path("/dev/shm")
_TRACKED = _MEMORY.is_dir()
ROOT = _MEMORY if _TRACKED else Path(tempfile.gettempdir())
_NAME = re.compile(r"unilab\.(?P<namespace>[0-9a-f]+)\.(?P<pid>\d+)\.(?P<started>\d+)\.(?P<kind>[\w-]+?)(\.\d+)?")
_numbers = itertools.count()
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


class LockHeldError(RuntimeError):
    """A lock stayed taken although its holder lives: that process was stopped, or it hangs."""


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

    Linux: clock ticks since boot, which a change of the wall clock does not touch. Elsewhere: milliseconds since 1970.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if sys.platform == "linux":
            return None
        try:
            return int(psutil.Process(pid).create_time() * 1000)
        except psutil.NoSuchProcess:
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


class FileLock:
    """Mutual exclusion between processes and threads that the kernel ends when its holder dies.

    Meant for a few stores (microseconds), or for a writer that copies what only another writer would wait for.

    The kernel's lock belongs to the open file, which a forked process would share and so keep locked after its
    parent's death. Therefore a forked process gives up its descriptors at once, and can take no lock.

    Args:
        fd: of the file, closed by ``close``.
        name: of what it locks, for errors.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd: int | None = fd
        self._name = name
        self._threads = threading.Lock()
        _open_locks.add(self)

    def __enter__(self) -> None:
        """Take it.

        Raises:
            LockHeldError: another process held it for LOCK_SECONDS in which this one ran.
            SegmentClosedError: after close(), and in a forked process.
        """
        self._file()  # first: a forked process may have inherited the other lock in a thread's hands
        self._threads.acquire()
        waited, pause = 0.0, 2e-5
        try:
            while True:
                with contextlib.suppress(BlockingIOError):
                    return fcntl.flock(self._file(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                if waited >= LOCK_SECONDS:
                    raise LockHeldError(
                        f"shared memory {self._name} has been locked by another process for {LOCK_SECONDS:g} s "
                        "instead of microseconds: that process was stopped (SIGSTOP, a debugger) or hangs; let it go "
                        "on or end it, and start the run again"
                    )
                time.sleep(pause)
                waited += pause  # and not the clock's time: this process may have been stopped itself
                pause = min(2 * pause, _LONGEST_PAUSE)
        except BaseException:
            self._threads.release()
            raise

    def _file(self) -> int:
        if self._fd is None:
            raise SegmentClosedError(
                f"shared memory {self._name} was locked after close(), or in a process that was forked: only the "
                "process that attached to it may use it"
            )
        return self._fd

    def __exit__(self, *_: object) -> None:
        try:
            if self._fd is not None:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def close(self) -> None:
        """Close the file (idempotent)."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


_open_locks: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


def _close_inherited_locks() -> None:
    for lock in list(_open_locks):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)


class Segment:
    """One mapped block of shared memory; made by ``create`` and ``attach``."""

    def __init__(self, name: str, *, owner: bool) -> None:
        self.name = name
        with (ROOT / name).open("r+b", buffering=0) as file:
            self.size = os.fstat(file.fileno()).st_size
            self._memory: mmap.mmap | None = mmap.mmap(file.fileno(), self.size)
        # A file of its own: the mapping keeps its open in forked processes, where nobody could close it.
        self.lock = FileLock(os.open(ROOT / name, os.O_RDWR), name)
        self._close_lock = weakref.finalize(self, self.lock.close)
        self._unlink = weakref.finalize(self, _remove, name, owner=os.getpid()) if owner else None

    @property
    def memory(self) -> mmap.mmap:
        """The mapped bytes; raises SegmentClosedError after close()."""
        if self._memory is None:
            raise SegmentClosedError(f"shared memory {self.name} was used after close(); close it when all is done")
        return self._memory

    def array(self, offset: int, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """A view of ``shape`` at ``offset`` bytes; it keeps the memory mapped even after close()."""
        return np.ndarray(shape, dtype, self.memory, offset)

    def words(self, offset: int, count: int) -> memoryview:
        """``count`` int64 words at ``offset`` bytes (a multiple of 8); each is stored in one piece."""
        return memoryview(self.memory)[offset : offset + 8 * count].cast("q")

    def close(self) -> None:
        """Give up this handle (idempotent). The memory itself stays as long as arrays view it."""
        self._memory = None
        self._close_lock()

    def unlink(self) -> None:
        """Remove the name, so that the memory is freed when the last process unmaps it. Owner only, idempotent."""
        if self._unlink is not None:
            self._unlink()


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
    if _TRACKED:
        resource_tracker.register(f"/{name}", "shared_memory")
    try:
        if hasattr(os, "posix_fallocate"):  # sets the pages aside: a bus error later is an error now
            os.posix_fallocate(fd, 0, size)
        else:
            os.truncate(fd, size)
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
            if not alive and _remove(path.name, tracked=False):
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


def _remove(name: str, *, tracked: bool = True, owner: int | None = None) -> bool:
    """Remove a name; False if somebody else did, or if this is a process that the owner has forked.

    ``tracked``: this process or its parent made it. Exactly one process wins, and it alone tells the tracker.
    """
    if owner not in (None, os.getpid()):
        return False
    try:
        (ROOT / name).unlink()
    except FileNotFoundError:
        return False
    if tracked and _TRACKED:
        resource_tracker.unregister(f"/{name}", "shared_memory")
    return True

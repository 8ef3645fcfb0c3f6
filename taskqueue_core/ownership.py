"""One process owns a ledger: an operating system lock beside it, which the kernel frees on kill -9."""

from __future__ import annotations

import os
import sys
import time
import weakref
from pathlib import Path

from taskqueue_core.errors import LedgerInUseError

if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 1 << 30  # far past the pid, so that another process can still read who holds the lock

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        # flock, never lockf: a POSIX record lock falls when any descriptor of the file is closed.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OwnerLock:
    """Held from construction to `close()`. The file stays: unlinking it would let two owners meet."""

    def __init__(self, ledger: Path) -> None:
        """Take the lock of a ledger, or raise LedgerInUseError naming the owner's pid."""
        self.path = lock_path(ledger)
        self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _try_lock(self._descriptor):
            os.close(self._descriptor)
            self._descriptor = None
            owner = read_owner(ledger) or "unknown"
            raise LedgerInUseError(
                f"ledger {str(ledger)!r} is in use by the process with pid {owner}: close that queue first"
            )
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())
        except BaseException:
            os.close(self._descriptor)
            raise
        _held.add(self)

    def forget(self) -> None:
        """In a forked child: close its copy, or the ledger would stay locked when the owner dies before the child."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Give the lock back. May be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


_held: weakref.WeakSet[OwnerLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def lock_path(ledger: Path) -> Path:
    """The lock file of a ledger: `<real path>.lock`, the same for every name of the same file."""
    return Path(f"{ledger.resolve()}.lock")


def read_owner(ledger: Path) -> int | None:
    """The pid of the owner, alive or killed; None when there never was one or the last one closed its queue."""
    try:
        return int(lock_path(ledger).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def owner_alive(ledger: Path) -> bool:
    """Whether a queue owns the ledger right now. Tries the lock for a moment when a pid is noted."""
    if read_owner(ledger) is None:
        return False
    descriptor = os.open(lock_path(ledger), os.O_RDWR)
    try:
        _lock(descriptor)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Take the lock, with one more try for the moment in which an inspector may hold it."""
    for pause in (0.05, 0.0):
        try:
            _lock(descriptor)
        except OSError:
            time.sleep(pause)
        else:
            return True
    return False

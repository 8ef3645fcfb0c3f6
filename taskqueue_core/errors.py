"""The errors of the queue, and the rule that tells which errors are worth another attempt."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskqueue_core.task import TaskRecord


class TaskQueueError(Exception):
    """Base of every error that the queue itself raises."""


class TransientError(TaskQueueError):
    """Raised by a processor: this attempt failed, a later one may succeed.

    `retry_after` is the shortest delay before the next attempt, in seconds. Raises ValueError if it is not finite.
    """

    def __init__(self, *args: object, retry_after: float = 0.0) -> None:
        if not math.isfinite(retry_after):
            raise ValueError(f"retry_after must be a finite number of seconds, got {retry_after!r}")
        super().__init__(*args)
        self.retry_after = retry_after


class PermanentError(TaskQueueError):
    """Raised by a processor: no attempt can succeed, the task goes to the dead letters."""


class InvalidKeyError(PermanentError, ValueError):
    """A key that cannot name an object or a task; nothing was opened."""


class TaskFailedError(TaskQueueError):
    """What the future of a failed task raises. `record` is the task as the ledger has it.

    `__cause__` is the processor's own error while still in the process where it was raised.
    """

    def __init__(self, message: str, record: TaskRecord) -> None:
        super().__init__(message)
        self.record = record

    def __reduce__(self) -> tuple[type[TaskFailedError], tuple[str, TaskRecord]]:
        return type(self), (str(self), self.record)


class TaskTimeoutError(TaskQueueError, TimeoutError):
    """An attempt outlived `task_timeout`. Transient: the task is retried while attempts are left."""


class QueueFullError(TaskQueueError):
    """No place was free: at once under overflow="reject", or within the timeout that was passed."""


class QueueClosedError(TaskQueueError):
    """The queue takes no tasks any more, or was closed before the task of this future was done."""


class KeyConflictError(TaskQueueError):
    """The idempotency key already stands for a task with other parameters."""


class LedgerError(TaskQueueError):
    """The ledger could not be read or written. `__cause__` is the SQLite error where there is one.

    `code` is SQLite's name for it ("SQLITE_FULL"), or None. `damaged`: the file itself is broken, and trying
    again is no use.
    """

    def __init__(self, *args: object, code: str | None = None) -> None:
        super().__init__(*args)
        self.code = code

    @property
    def damaged(self) -> bool:
        return self.code is not None and self.code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


class LedgerInUseError(LedgerError):
    """Another queue, in this process or in another one, owns the ledger."""


class ErrorClass(Enum):
    """What an error of a processor means for its task."""

    TRANSIENT = "transient"
    """Try again, while attempts are left."""
    PERMANENT = "permanent"
    """Do not try again."""
    ENVIRONMENT = "environment"
    """The machine's fault (disk full, read-only): try again, without using an attempt."""


Classify = Callable[[BaseException], ErrorClass]

_ENVIRONMENT = frozenset(
    {errno.ENOSPC, errno.EROFS, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EROFS}
)
_SQLITE_ENVIRONMENT = frozenset({8, 13})  # SQLITE_READONLY and SQLITE_FULL, from a database of the processor's own
_PERMANENT = (PermanentError, ValueError, TypeError, KeyError, FileNotFoundError, PermissionError)


def classify(error: BaseException) -> ErrorClass:
    """Tell what an error of a processor means. An unknown error is transient."""
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        return ErrorClass.ENVIRONMENT
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_ENVIRONMENT:  # the low byte is the primary code
        return ErrorClass.ENVIRONMENT
    if isinstance(error, _PERMANENT) and not isinstance(error, TransientError):
        return ErrorClass.PERMANENT
    return ErrorClass.TRANSIENT


def describe(error: BaseException) -> str:
    """An error as text that a ledger or a log can hold, whatever its class makes of str()."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        text = "(no text: its __str__ failed)"
    return f"{type(error).__name__}: {text}".encode(errors="replace").decode()

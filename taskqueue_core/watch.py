"""Which queues of this process are open, and one observer who is told of queues and of failed tasks.

For tests that look after what they leave behind. Without an observer each event costs a comparison with None; nothing
is said of tasks that succeed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from taskqueue_core.queue import TaskQueue
    from taskqueue_core.task import TaskRecord


class Observer(Protocol):
    """Is told what happens, in whatever thread it happens; it must not wait. A ledger is the path of its file, or None
    for one in memory.
    """

    def opened(self, queue: TaskQueue) -> None:
        """A queue was opened."""

    def failed(self, ledger: Path | None, record: TaskRecord) -> None:
        """A task has failed for good; those who wait for it hear of it next."""

    def read(self, ledger: Path | None, key: str | None) -> None:
        """Somebody has seen how the task of this key, or each of the ledger's (None), has failed."""


observer: Observer | None = None

_open: weakref.WeakSet[TaskQueue] = weakref.WeakSet()
_lock = threading.Lock()  # guards the set


@contextmanager
def observing(by: Observer) -> Iterator[None]:
    """Tell `by` of everything until the block is left; then the former observer, if there was one, again."""
    global observer  # noqa: PLW0603 - one for the process
    former, observer = observer, by
    try:
        yield
    finally:
        observer = former


def open_queues() -> list[TaskQueue]:
    """The queues of this process that are open."""
    with _lock:
        return list(_open)


def opened(queue: TaskQueue) -> None:
    """A queue is open."""
    with _lock:
        _open.add(queue)
    if observer is not None:
        observer.opened(queue)


def closed(queue: TaskQueue) -> None:
    """A queue is closed."""
    with _lock:
        _open.discard(queue)


def failed(ledger: Path | None, record: TaskRecord) -> None:
    """A task has failed for good."""
    if observer is not None:
        observer.failed(ledger, record)


def read(ledger: Path | None, key: str | None = None) -> None:
    """Somebody looks at a failed task, or at all of them."""
    if observer is not None:
        observer.read(ledger, key)

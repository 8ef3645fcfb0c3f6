"""Which queues of this process are open, and one observer who is told of queues and of failed tasks.

For tests that look after what they leave behind. Without an observer each event costs a comparison with None; nothing
is said of tasks that succeed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from taskqueue_core.database import DeadLetter
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

    def read(self, ledger: Path | None) -> None:
        """Somebody may see how each of the ledger's tasks has failed."""

    def seen(self, ledger: Path | None, failure: Failure) -> None:
        """Somebody was given the record or the dead letter of this failure: perhaps before `failed` tells of it, since
        the ledger shows it from the COMMIT on.
        """


class Failure(NamedTuple):
    """One failure for good; a task that is brought back may have another one. Ledgers in memory differ in the time."""

    key: str
    attempt: int
    at: float | None


observer: Observer | None = None

_observers: list[Observer] = []
_open: weakref.WeakSet[TaskQueue] = weakref.WeakSet()
_lock = threading.Lock()  # guards all three
_here = threading.local()


@contextmanager
def observing(by: Observer) -> Iterator[None]:
    """Tell `by` of everything until the block is left, or another one begins; of several, in whatever order their
    blocks are left, the last one is told.
    """
    with _lock:
        _observers.append(by)
        _install()
    try:
        yield
    finally:
        with _lock:
            del _observers[next(n for n, one in enumerate(_observers) if one is by)]
            _install()


@contextmanager
def aside() -> Iterator[None]:
    """What this thread reads inside is shown to nobody, and does not count as read."""
    former, _here.aside = getattr(_here, "aside", False), True
    try:
        yield
    finally:
        _here.aside = former


def open_queues() -> list[TaskQueue]:
    """The queues of this process that are open."""
    with _lock:
        return list(_open)


def opened(queue: TaskQueue) -> None:
    """A queue is open."""
    with _lock:
        _open.add(queue)
    if (told := observer) is not None:
        told.opened(queue)


def closed(queue: TaskQueue) -> None:
    """A queue is closed."""
    with _lock:
        _open.discard(queue)


def failed(ledger: Path | None, record: TaskRecord) -> None:
    """A task has failed for good."""
    if (told := observer) is not None:
        told.failed(ledger, record)


def failure(of: TaskRecord | DeadLetter) -> Failure:
    """Which failure a record in state failed, or a dead letter, tells of."""
    at: float | None = getattr(of, "failed_at", None) or getattr(of, "finished_at", None)
    return Failure(of.idempotency_key, of.attempt, at)


def read(ledger: Path | None) -> None:
    """Somebody looks at all of a ledger's tasks."""
    if (told := observer) is not None and not getattr(_here, "aside", False):
        told.read(ledger)


def seen(ledger: Path | None, found: Iterable[TaskRecord | DeadLetter]) -> None:
    """Somebody is given what was found: records, of which those in state failed matter, or dead letters."""
    if (told := observer) is not None and not getattr(_here, "aside", False):
        for one in found:
            if getattr(one, "status", "failed") == "failed":
                told.seen(ledger, failure(one))


def _install() -> None:
    global observer  # noqa: PLW0603 - one for the process
    observer = _observers[-1] if _observers else None

"""What a test has left behind of its queues: open ones, threads, files, rows, and errors that nobody has read."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pytest_taskqueue.hangs import stacks, still_alive
from pytest_taskqueue.leftovers import open_files
from pytest_taskqueue.wording import count, queue_at
from taskqueue_core import LedgerError, LedgerView, Status, TaskQueue, TaskRecord, clock, watch

ENDS = 1.0
"""Seconds that the threads of a closed queue have to end."""
SHOWN = 5
"""How many tasks are named."""


class Watch:
    """Observes the queues of one test, from its making until `end`; then `problems` tells what is left. Nothing is
    closed: a queue that is still open may be in use elsewhere, and those of an earlier test are no news.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what is noted
        self._mine: list[TaskQueue] = []
        self._others: list[TaskQueue] = watch.open_queues()
        self._since = clock.now()
        self._threads = _threads()
        self._failed: dict[tuple[Path | None, watch.Failure], TaskRecord] = {}
        self._seen: set[tuple[Path | None, watch.Failure]] = set()
        self._shared = 0
        self._observing = ExitStack()
        self._observing.enter_context(watch.observing(self))

    def opened(self, queue: TaskQueue) -> None:
        """A queue was opened."""
        with self._lock:
            (self._others if self._shared else self._mine).append(queue)

    def failed(self, ledger: Path | None, record: TaskRecord) -> None:
        """A task has failed for good. One that an earlier test left to a queue that is still open is not this one's."""
        with self._lock:
            if record.created_at < self._since and any(queue.path == ledger for queue in self._others):
                return
            if (place := (ledger, watch.failure(record))) not in self._seen:
                self._failed[place] = record

    def read(self, ledger: Path | None) -> None:
        """The errors of all of a ledger's tasks were read."""
        with self._lock:
            for place in [place for place in self._failed if place[0] == ledger]:
                del self._failed[place]

    def seen(self, ledger: Path | None, failure: watch.Failure) -> None:
        """The error of one task was read, and `failed` may tell of it later."""
        with self._lock:
            self._seen.add((ledger, failure))
            self._failed.pop((ledger, failure), None)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """What is opened inside stays open for other tests."""
        self._shared += 1
        try:
            yield
        finally:
            self._shared -= 1

    def end(self) -> None:
        """Note nothing more."""
        self._observing.close()

    def problems(self, allowed: Collection[str]) -> dict[str, list[str]]:
        """What is left, by the name of its check, without what is allowed."""
        left = self._left()
        found = {"errors": self._unread(), "running": self._running(), "files": self._open_files()}
        found["open"] = [
            f"{queue_at(queue.path)} is still open, and stays so: use `with TaskQueue(...)`, close() it, or take it "
            "from the fixture make_tq_queue; what the application keeps open, a fixture of the session closes"
            for queue in left
        ]
        if not left and not self._alive(self._others):  # else they have threads of their own
            found["threads"] = self._new_threads()
        return {name: lines for name, lines in found.items() if lines and name not in allowed}

    def _left(self) -> list[TaskQueue]:
        return [queue for queue in watch.open_queues() if queue not in self._others]

    def _alive(self, queues: Iterable[TaskQueue]) -> list[TaskQueue]:
        return [queue for queue in queues if not queue.closed]

    def _unread(self) -> list[str]:
        lines = [
            f"task {failure.key!r} of {queue_at(ledger)} failed, and nobody read its error, {record.error!r}: ask its "
            "future for result() or exception(), or use assert_dead(queue, ...), dead_letters() or get()"
            for (ledger, failure), record in self._failed.items()
        ]
        return lines[:SHOWN] + [f"and {count(len(lines) - SHOWN, 'more task')}"] * (len(lines) > SHOWN)

    def _running(self) -> list[str]:
        """Rows that nobody will ever settle, in ledgers that nobody has open."""
        stranded = {path: _running_in(path) for path in self._closed_paths()}
        return [
            f"{queue_at(path)} is closed and has {count(len(keys), 'task')} in state running "
            f"({', '.join(keys[:SHOWN])}): their process died, or could not release them; open the ledger once more, "
            "which recovers them"
            for path, keys in stranded.items()
            if keys
        ]

    def _new_threads(self) -> list[str]:
        names = ", ".join(queue_at(queue.path) for queue in self._mine) or "a queue"
        alive = still_alive(_threads() - self._threads, ENDS)
        return [
            f"{count(len(alive), 'thread')} of {names} still at work: the processor has not come back, release it "
            f"before the end of the test\n{stack}"
            for stack in stacks(alive)[:1]
        ]

    def _open_files(self) -> list[str]:
        """As far as the system tells (only Linux does)."""
        held = open_files()
        return [
            f"{file.name} of {queue_at(path)} is still open in this process: close what reads it"
            for path in self._closed_paths()
            for file in [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", ".lock")]
            if file in held
        ]

    def _closed_paths(self) -> list[Path]:
        still_open = {queue.path for queue in watch.open_queues()}
        paths = dict.fromkeys(queue.path for queue in self._mine)
        return [path for path in paths if path is not None and path not in still_open and path.is_file()]


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("taskqueue-")}


def _running_in(path: Path) -> list[str]:
    """Keys of the running tasks; none when that is no ledger (any more)."""
    with suppress(LedgerError, OSError), LedgerView.inspect(path) as view:
        return [record.idempotency_key for record in view.records(Status.RUNNING)]
    return []

"""The future of a submit: like the standard library's, but it can cancel its task, and calls back from a thread of
its own, so that no user code runs in the thread that commits for everybody.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from taskqueue_core.deadline import Deadline
from taskqueue_core.errors import TaskFailedError
from taskqueue_core.logs import logger
from taskqueue_core.task import JSON, TaskRecord


class TaskFuture(Future[JSON]):
    """What `submit` returns: a concurrent.futures.Future for one caller's result."""

    def __init__(
        self, key: str, callbacks: Callbacks, cancel: Callable[[TaskFuture], bool], hurry: Callable[[], object]
    ) -> None:
        super().__init__()
        self.key = key
        self.awaited = False
        """Somebody waits for the result now: it is written at once, rather than with the next change."""
        self._callbacks = callbacks
        self._cancel = cancel
        self._hurry = hurry

    def result(self, timeout: float | None = None) -> JSON:
        """Wait for the task's value; raises TaskFailedError, QueueClosedError, CancelledError or TimeoutError."""
        self._await()
        try:
            return super().result(timeout)
        except TaskFailedError as error:
            self._callbacks.read(error.record)
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task's error; None when it succeeded. Raises CancelledError or TimeoutError."""
        self._await()
        error = super().exception(timeout)
        if isinstance(error, TaskFailedError):
            self._callbacks.read(error.record)
        return error

    def add_done_callback(self, fn: Callable[[Future[JSON]], object]) -> None:
        """Call `fn(future)` once there is a result: at once if there is one, else in a thread that serves all
        callbacks of the queue, one after the other.
        """
        if self.done():
            self._note_read()
            super().add_done_callback(fn)
        else:
            self._await()
            super().add_done_callback(lambda _: self._call_back(fn))

    def cancel(self) -> bool:
        """Give up this caller's claim to the result; True unless there is a result already.

        When nobody else waits for the task and no worker is to run it yet, the task itself is cancelled: that is
        in the ledger when True is returned, and its key is free again. A running task runs on.
        """
        with self._callbacks.cancelling:
            return self.cancelled() or (not self.done() and self._cancel(self))

    def _call_back(self, fn: Callable[[Future[JSON]], object]) -> None:
        self._note_read()
        self._callbacks.call(fn, self)

    def _note_read(self) -> None:
        """Whoever is called back knows how it ended."""
        if not self.cancelled() and isinstance(error := super().exception(0), TaskFailedError):
            self._callbacks.read(error.record)

    def _await(self) -> None:
        if not self.awaited and not self.done():
            self.awaited = True
            self._hurry()

    def give_up(self) -> bool:
        """Cancel the future alone, and tell those who wait for it."""
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        return True


class Callbacks:
    """Runs the callbacks of futures in a thread of its own, which begins with the first one."""

    def __init__(self, read: Callable[[TaskRecord], None] = lambda record: None) -> None:  # noqa: ARG005
        self.read = read
        """Is told of a failed task whose error somebody has seen."""
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], Future[JSON]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the two fields below
        self._closed = False
        self.thread: threading.Thread | None = None
        self.cancelling = threading.RLock()  # held while a task is cancelled; a callback may cancel another one

    def call(self, fn: Callable[[Future[JSON]], object], future: Future[JSON]) -> None:
        """Call `fn(future)` soon; here, when the queue is closed."""
        with self._lock:
            if not self._closed:
                self._calls.put((fn, future))
                if self.thread is None:
                    self._start()
                return
        _call(fn, future)

    def close(self, deadline: Deadline) -> None:
        """Make the calls that are left, and wait for them."""
        with self._lock:
            self._closed = True
            thread = self.thread
        if thread is not None:
            self._calls.put(None)
            if thread is not threading.current_thread():
                thread.join(deadline.remaining())

    def _start(self) -> None:
        self.thread = threading.Thread(target=self._run, name="taskqueue-callbacks", daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self.thread = None  # the next callback tries again
            raise

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            _call(*call)


def _call(fn: Callable[[Future[JSON]], object], future: Future[JSON]) -> None:
    try:
        fn(future)
    except BaseException:  # noqa: BLE001 - one callback must not keep the others from theirs
        logger.exception("a callback of a future failed")

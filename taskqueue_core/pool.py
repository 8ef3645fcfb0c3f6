"""WorkerPool: a whole run, from many producers to the last result."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from taskqueue_core.deadline import Deadline
from taskqueue_core.errors import QueueFullError
from taskqueue_core.metrics import MetricsSnapshot
from taskqueue_core.queue import TaskQueue
from taskqueue_core.task import Task

T = TypeVar("T")

WAKE = 0.1
"""Seconds after which `run` looks whether it was stopped."""


class WorkerPool:
    """Submits an iterable of tasks from `producers` threads and waits until all of them are finished.

    The consumers are the workers of `queue`, which stays open. `metrics_path` is a file for the final metrics,
    as JSON.
    """

    def __init__(
        self, queue: TaskQueue, producers: int = 4, *, metrics_path: str | os.PathLike[str] | None = None
    ) -> None:
        if producers < 1:
            raise ValueError(f"producers must be at least 1, got {producers!r}")
        self.queue = queue
        self.producers = producers
        self.metrics_path = metrics_path
        self._stop = threading.Event()

    def run(self, tasks: Iterable[Task], timeout: float | None = None) -> MetricsSnapshot:
        """Run all tasks; the queue's metrics at the end.

        Raises TimeoutError when they are not finished after `timeout` seconds, and the first error that a submit
        or the iterable raised; tasks submitted until then are waited for. On KeyboardInterrupt, and after `stop`,
        nothing more is submitted, and what was submitted stays with the queue.
        """
        deadline = Deadline(timeout)
        production = _Production(self.queue, iter(tasks), deadline, self._stop)
        threads = [
            threading.Thread(target=production.run, name=f"taskqueue-producer-{n}", daemon=True)
            for n in range(self.producers)
        ]
        try:
            for thread in threads:
                thread.start()
            self._wait_produced(threads, deadline)
        except BaseException:
            production.stop()
            raise
        return self._finish(production, deadline, timeout)

    def stop(self) -> None:
        """End `run` within a moment, now and in future: it returns the metrics without waiting for the tasks.

        May be called by any thread. Close the queue afterwards: a producer that waits for a place ends then.
        """
        self._stop.set()

    def _wait_produced(self, threads: Sequence[threading.Thread], deadline: Deadline) -> None:
        for thread in threads:
            while thread.is_alive() and not self._stop.is_set() and not deadline.passed:
                thread.join(_moment(deadline))

    def _wait_finished(self, deadline: Deadline) -> bool:
        while not self.queue.join(_moment(deadline)):
            if self._stop.is_set() or deadline.passed:
                return False
        return True

    def _finish(self, production: _Production, deadline: Deadline, timeout: float | None) -> MetricsSnapshot:
        stopped = self._stop.is_set()
        finished = not stopped and self._wait_finished(deadline) and production.complete
        snapshot = self.queue.metrics.snapshot()
        if self.metrics_path is not None:
            Path(self.metrics_path).write_text(snapshot.to_json() + "\n", encoding="utf-8")
        if production.error is not None:
            raise production.error
        if not finished:
            production.stop()
        if not finished and not self._stop.is_set():
            raise TimeoutError(f"{production.accepted} tasks were submitted, not all are finished after {timeout} s")
        return snapshot


def in_background(work: Callable[[], T], *, name: str) -> Future[T]:
    """Run `work` in a thread of its own, for a caller that has to stay awake."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised by whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _moment(deadline: Deadline) -> float:
    remaining = deadline.remaining()
    return WAKE if remaining is None else min(remaining, WAKE)


class _Production:
    """What the producers share: the iterator, and the first error."""

    def __init__(
        self, queue: TaskQueue, tasks: Iterator[Task], deadline: Deadline, pool_stopped: threading.Event
    ) -> None:
        self._queue = queue
        self._tasks = tasks
        self._deadline = deadline
        self._pool_stopped = pool_stopped
        self._ended = threading.Event()
        self._next_task = threading.Lock()  # guards the iterator, which may take its time
        self._exhausted = False
        self._lock = threading.Lock()  # guards the fields below
        self._taken = 0
        self.accepted = 0
        self.error: BaseException | None = None

    @property
    def complete(self) -> bool:
        """Whether every task of the iterable was accepted."""
        with self._lock:
            return self._exhausted and self.accepted == self._taken

    def run(self) -> None:
        """Submit task after task until there is none, or an error."""
        try:
            while (task := self._next()) is not None:
                self._queue.submit_many(task, timeout=self._deadline.remaining(), futures=False)
                with self._lock:
                    self.accepted += 1
        except QueueFullError as error:
            if not self._deadline.passed:
                self._fail(error)
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that called run
            self._fail(error)

    def stop(self) -> None:
        """Submit nothing more."""
        self._ended.set()

    @property
    def _stopped(self) -> bool:
        return self._ended.is_set() or self._pool_stopped.is_set()

    def _next(self) -> list[Task] | None:
        """The next task alone in a list; None when there is none, or no more is to be submitted."""
        with self._next_task:
            if self._stopped:
                return None
            for task in self._tasks:
                with self._lock:
                    self._taken += 1
                return None if self._stopped else [task]  # the iterable may have taken its time
            self._exhausted = True
            return None

    def _fail(self, error: BaseException) -> None:
        self._ended.set()
        with self._lock:
            if self.error is None:
                self.error = error

"""One `taskqueue run`: the queue lives in a thread of its own, so that the main thread always hears its signals."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from taskqueue_core.closing import CloseReport
from taskqueue_core.metrics import MetricsSnapshot
from taskqueue_core.pool import WorkerPool, in_background
from taskqueue_core.processor import ProcessorLike
from taskqueue_core.queue import TaskQueue
from taskqueue_core.settings import QueueSettings
from taskqueue_core.signals import Signals
from taskqueue_core.task import Status, Task, TaskRecord


class Run:
    """Open the queue, run all tasks, close the queue. `close_timeout` is the longest wait for running tasks at the
    end, in seconds; with `replay` the tasks that failed before are tried again.

    Once `execute` is back: `report` and `metrics` are those of the end, `failed` the tasks that failed for good.
    """

    def __init__(self, tasks: Sequence[Task], *, close_timeout: float = 30.0, replay: bool = False) -> None:
        self._tasks = tasks
        self._keys = {task.key for task in tasks}
        self._close_timeout = close_timeout
        self._replay = replay
        self._stopped = threading.Event()
        self._pool: WorkerPool | None = None
        self.report: CloseReport | None = None
        self.metrics: MetricsSnapshot | None = None
        self.failed: list[TaskRecord] = []

    @property
    def stuck(self) -> tuple[str, ...]:
        """Keys of the tasks whose threads could not be ended."""
        return () if self.report is None else self.report.stuck

    def execute(
        self,
        processor: ProcessorLike,
        signals: Signals,
        *,
        ledger: str | os.PathLike[str],
        settings: QueueSettings,
        timeout: float | None = None,
        on_signal: Callable[[], None],
    ) -> Exception | None:
        """Work until all tasks are finished, or until a signal has come; `on_signal` is called then.

        The error that ended it, if any: what TaskQueue, `WorkerPool.run` and `TaskQueue.close` raise.
        """

        def work() -> None:
            queue = TaskQueue(processor, ledger=ledger, settings=settings)
            try:
                self._run(queue, timeout)
            finally:
                self.report = queue.close(self._close_timeout, drain=False)
                self.metrics = queue.metrics.snapshot()

        future = in_background(work, name="taskqueue-run")
        future.add_done_callback(lambda _: signals.wake())
        self._watch(future, signals, on_signal)
        error = future.exception()
        if error is None or isinstance(error, Exception):
            return error
        raise error

    def _watch(self, future: Future[None], signals: Signals, on_signal: Callable[[], None]) -> None:
        """Nothing but waiting happens here, wherever a signal strikes."""
        while not future.done():
            signals.wait()
            if signals.first is not None and not self._stopped.is_set():
                self._stop()
                on_signal()

    def _stop(self) -> None:
        """Of this and `_run`, each first says its own and then looks at the other's: a stop is never missed."""
        self._stopped.set()
        if (pool := self._pool) is not None:
            pool.stop()

    def _run(self, queue: TaskQueue, timeout: float | None) -> None:
        pool = self._pool = WorkerPool(queue)
        if self._stopped.is_set():
            pool.stop()
        if self._replay:
            self._bring_back(queue)
        pool.run(self._tasks, timeout=timeout)
        if not self._stopped.is_set():
            self.failed = self._failed(queue)

    def _failed(self, queue: TaskQueue) -> list[TaskRecord]:
        return [record for record in queue.records(Status.FAILED) if record.idempotency_key in self._keys]

    def _bring_back(self, queue: TaskQueue) -> None:
        for record in self._failed(queue):
            if self._stopped.is_set():
                return
            queue.replay(record.idempotency_key)

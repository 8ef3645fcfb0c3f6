"""The subjects that come with the plugin: the original queue, TaskQueue, and what one would write oneself."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_taskqueue.input_new.baseline_task_queue_v2 import BaselineTaskQueue, Handle
from pytest_taskqueue.subjects import Promise, Setup, SubjectFactory
from pytest_taskqueue.thumbnails import image_processor
from taskqueue_core import CloseReport, Output, Task, TaskQueue


class BaselineSubject:
    """The original queue of input_new, which makes thumbnails by itself."""

    def __init__(self, setup: Setup) -> None:
        self._queue = _CountedBaseline(setup)
        self._images = setup.images

    def submit(self, task: Task) -> _HandleFuture:
        """Its tasks are dictionaries, its handles can only be waited for."""
        fields = {"image_key": task.image_key, "variant": task.variant, "params": dict(task.params)}
        return _HandleFuture(self._queue.submit({**fields, "idempotency_key": task.key}))

    def close(self, timeout: float) -> None:
        """Wait for all tasks, then stop: `stop` alone drops those that wait."""
        self._queue.join(timeout)
        self._queue.stop()

    def depth(self) -> int:
        """How many tasks wait."""
        return self._queue.pending()

    def output(self, task: Task) -> Path:
        """It names its results after their tasks."""
        assert self._images is not None
        return self._images.outputs / f"{task.key}{self._images.suffix}"


class _CountedBaseline(BaselineTaskQueue):
    """The original, told to count, and to do another workload than images where there is one."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        images = setup.images
        if images is None:
            super().__init__(setup.workers, 0.0)
        else:
            super().__init__(setup.workers, images.round_trip, source=images.source, output=images.outputs)

    def process(self, task: dict[str, Any]) -> Any:
        key = task["idempotency_key"]
        if self._setup.images is None:
            return self._setup.work(Task(task["image_key"], task["variant"], task["params"], key))
        path = super().process(task)
        self._setup.tally.count(key)
        return path


class _HandleFuture:
    """A handle of the original queue, as far as the load needs a future."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def result(self, timeout: float | None = None) -> Any:
        """Wait; raise what the work raised, or TimeoutError."""
        if not self._handle.wait(timeout):
            raise TimeoutError
        if self._handle.error is not None:
            raise self._handle.error
        return self._handle.output


class OptimizedSubject:
    """TaskQueue with a ledger on disk, durable against power loss, and the built-in image processor."""

    promises = frozenset(Promise)

    def __init__(self, setup: Setup) -> None:
        self._images = setup.images
        self._tally = setup.tally
        self._process: Callable[[Task], Any] = setup.work if self._images is None else self._make_image
        if self._images is not None:
            self._processor = image_processor(self._images)
        self._queue = TaskQueue(
            self._process,
            ledger=setup.directory / "tasks.db",
            durability="power",
            max_workers=setup.workers,
            queue_size=setup.queue_size,
            overflow=setup.overflow,
        )

    def submit(self, task: Task) -> Future[Any]:
        """On disk when it returns."""
        return self._queue.submit(task)

    def close(self, timeout: float) -> CloseReport:
        """Drain and close."""
        return self._queue.close(timeout)

    def join(self, timeout: float) -> bool:
        """Wait for all tasks."""
        return self._queue.join(timeout)

    def dead_letters(self) -> list[str]:
        """The keys of those that were not replayed."""
        return [letter.idempotency_key for letter in self._queue.dead_letters() if letter.replayed_at is None]

    def replay(self, key: str) -> Future[Any]:
        """With all its attempts."""
        return self._queue.replay(key)

    def depth(self) -> int:
        """How many tasks wait."""
        return self._queue.metrics.snapshot().queue_depth

    def _make_image(self, task: Task) -> Output:
        output = self._processor(task)
        self._tally.count(task.key)
        return output


class ExecutorSubject:
    """The standard library's ThreadPoolExecutor: without bound, in memory."""

    def __init__(self, setup: Setup) -> None:
        self._work = setup.work
        self._executor = ThreadPoolExecutor(setup.workers, thread_name_prefix="executor")

    def submit(self, task: Task) -> Future[Any]:
        """To its own unbounded queue."""
        return self._executor.submit(self._work, task)

    def close(self, timeout: float) -> None:  # noqa: ARG002
        """It knows no timeout, and waits for all tasks."""
        self._executor.shutdown()


class ThreadsSubject:
    """Raw threads over `queue.Queue(maxsize)`: bounded, in memory, as little as one can write."""

    promises = frozenset({Promise.BOUNDED, Promise.DEADLINE})

    def __init__(self, setup: Setup) -> None:
        self._work = setup.work
        self._tasks: queue.Queue[tuple[Task, Future[Any]] | None] = queue.Queue(setup.queue_size)
        self._closed = False
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(setup.workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> Future[Any]:
        """Waits for a place. Raises RuntimeError once it is closed."""
        if self._closed:
            raise RuntimeError("the queue is closed")
        future: Future[Any] = Future()
        self._tasks.put((task, future))
        return future

    def close(self, timeout: float) -> None:
        """What waits is worked on first, as far as the time goes; the rest is cancelled."""
        self._closed = True
        end = time.monotonic() + timeout
        with suppress(queue.Full):  # all are stuck
            self._tasks.put(None, timeout=timeout)
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))
        with suppress(queue.Empty):
            while True:
                if (left := self._tasks.get_nowait()) is not None:
                    left[1].cancel()
        self._tasks.put(None)  # for those that were stuck

    def depth(self) -> int:
        """How many tasks wait."""
        return self._tasks.qsize()

    def _run(self) -> None:
        while (given := self._tasks.get()) is not None:
            task, future = given
            try:
                future.set_result(self._work(task))
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                future.set_exception(error)
        with suppress(queue.Full):
            self._tasks.put_nowait(None)  # for the next thread


BUILT_IN: dict[str, SubjectFactory] = {
    "baseline": BaselineSubject,
    "optimized": OptimizedSubject,
    "executor": ExecutorSubject,
    "threads": ThreadsSubject,
}

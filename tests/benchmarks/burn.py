"""Tasks accepted per second while two other threads of the program burn pure Python."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from taskqueue_core import Task, TaskQueue
from tests.benchmarks.measurement import Figures, Setting, main, make_tasks, nothing

BURNERS = 2
SECONDS = 3.0
TASKS = 100_000  # at most
BATCH = 500
PLACES = 10_000


@contextmanager
def burning() -> Iterator[None]:
    """Two threads that never wait."""
    stopped = threading.Event()

    def burn() -> None:
        while not stopped.is_set():
            sum(n * n for n in range(1_000))

    threads = [threading.Thread(target=burn, daemon=True) for _ in range(BURNERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def accept(setting: Setting, submit: Callable[[list[Task]], Any], size: int) -> Figures:
    """Submit for a few seconds, in lists of `size` tasks that were made beforehand."""
    tasks = make_tasks(setting.count(TASKS))
    batches = [tasks[n : n + size] for n in range(0, len(tasks), size)]
    accepted, limit = 0, SECONDS * setting.scale
    with burning():
        start = perf_counter()
        for batch in batches:
            submit(batch)
            accepted += len(batch)
            if (seconds := perf_counter() - start) >= limit:
                break
    return {"rate": accepted / seconds}


def tpe(setting: Setting) -> Figures:
    """ThreadPoolExecutor.submit, which is not held back when its workers do not follow."""
    executor = ThreadPoolExecutor(setting.workers)
    try:
        return accept(setting, lambda batch: executor.submit(nothing, batch[0]), 1)
    finally:
        executor.shutdown(cancel_futures=True)


def many(setting: Setting) -> Figures:
    """submit_many, 500 tasks in a call."""
    return taskqueue(setting, lambda queue: lambda batch: queue.submit_many(batch, futures=False), BATCH)


def one(setting: Setting) -> Figures:
    """submit, one task in a call."""
    return taskqueue(setting, lambda queue: lambda batch: queue.submit(batch[0]), 1)


def taskqueue(setting: Setting, way: Callable[[TaskQueue], Callable[[list[Task]], Any]], size: int) -> Figures:
    """TaskQueue, durable against power loss. What it still holds at the end is left in the ledger."""
    queue = TaskQueue(nothing, ledger=setting.ledger, max_workers=setting.workers, queue_size=PLACES)
    try:
        return accept(setting, way(queue), size)
    finally:
        queue.close(drain=False)


if __name__ == "__main__":
    main({"tpe": tpe, "submit-many": many, "submit": one})

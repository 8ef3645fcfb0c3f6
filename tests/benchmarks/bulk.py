"""One producer hands over tasks in batches of 1,000 and waits until all are done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter

from taskqueue_core import TaskQueue
from tests.benchmarks.measurement import Figures, Setting, check_done, main, make_tasks, nothing

TASKS = 100_000
BATCH = 1_000
PLACES = 10_000


def tpe(setting: Setting) -> Figures:
    """A loop of ThreadPoolExecutor.submit, then all results."""
    tasks = make_tasks(setting.count(TASKS))
    with ThreadPoolExecutor(setting.workers) as executor:
        start = perf_counter()
        for future in [executor.submit(nothing, task) for task in tasks]:
            future.result()
        return {"rate": len(tasks) / (perf_counter() - start)}


def taskqueue(durability: str, setting: Setting) -> Figures:
    """submit_many without futures, then join."""
    tasks = make_tasks(setting.count(TASKS))
    batches = [tasks[n : n + BATCH] for n in range(0, len(tasks), BATCH)]
    with TaskQueue(
        nothing, ledger=setting.ledger, durability=durability, max_workers=setting.workers, queue_size=PLACES
    ) as queue:
        start = perf_counter()
        for batch in batches:
            queue.submit_many(batch, futures=False)
        queue.join()
        seconds = perf_counter() - start
        check_done(len(tasks), queue.metrics.snapshot().succeeded)
    return {"rate": len(tasks) / seconds}


if __name__ == "__main__":
    main(
        {
            "tpe": tpe,
            "taskqueue-power": partial(taskqueue, "power"),
            "taskqueue-process": partial(taskqueue, "process"),
        }
    )

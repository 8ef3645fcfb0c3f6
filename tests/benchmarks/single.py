"""One producer submits one task at a time, each acknowledged before the next."""

from __future__ import annotations

import os
from functools import partial
from time import perf_counter

from taskqueue_core import TaskQueue
from tests.benchmarks.measurement import Figures, Setting, check_done, main, make_tasks, nothing
from tests.benchmarks.peers import Litequeue

TASKS = 20_000
SLOW_TASKS = 5_000  # for those that need seconds for them
BLOCK = 4096  # bytes: what a commit of one small row appends, and the page of most file systems


def taskqueue(durability: str, tasks: int, setting: Setting) -> Figures:
    """`submit_rate`: tasks accepted per second. `rate`: tasks done per second, from the first submit to the join."""
    work = make_tasks(setting.count(tasks))
    with TaskQueue(nothing, ledger=setting.ledger, durability=durability, max_workers=setting.workers) as queue:
        start = perf_counter()
        for task in work:
            queue.submit(task)
        accepted = perf_counter()
        queue.join()
        done = perf_counter()
        check_done(len(work), queue.metrics.snapshot().succeeded)
    return {"submit_rate": len(work) / (accepted - start), "rate": len(work) / (done - start)}


def litequeue(setting: Setting) -> Figures:
    """A loop of put, while workers pop and done."""
    count = setting.count(SLOW_TASKS)
    with Litequeue(setting.directory, workers=setting.workers, expected=count) as queue:
        put = queue.connect()
        start = perf_counter()
        for n in range(count):
            put(n)
        accepted = perf_counter()
        queue.wait()
        done = perf_counter()
    return {"submit_rate": count / (accepted - start), "rate": count / (done - start)}


def disk(setting: Setting) -> Figures:
    """The disk itself: append a block and wait until it is there, in a loop."""
    sync = getattr(os, "fdatasync", os.fsync)
    block, count = bytes(BLOCK), setting.count(SLOW_TASKS)
    with (setting.directory / "blocks").open("ab", buffering=0) as file:
        start = perf_counter()
        for _ in range(count):
            file.write(block)
            sync(file.fileno())
        return {"submit_rate": count / (perf_counter() - start)}


if __name__ == "__main__":
    main(
        {
            "taskqueue-process": partial(taskqueue, "process", TASKS),
            "taskqueue-power": partial(taskqueue, "power", SLOW_TASKS),
            "litequeue": litequeue,
            "disk": disk,
        }
    )

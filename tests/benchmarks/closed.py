"""100 clients in a closed loop: submit, wait for the result, submit again; a task sleeps for 2 ms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any

from taskqueue_core import Task, TaskQueue
from tests.benchmarks.clients import together
from tests.benchmarks.measurement import Figures, Setting, main, make_tasks

CLIENTS = 100
WORK = 0.002
TASKS_EACH = {8: 100, 64: 250}  # of a client, by the number of workers: a few seconds in all


def work(task: Task) -> None:
    """The task: wait for something, as most tasks do."""
    time.sleep(WORK)


def tasks_each(setting: Setting) -> int:
    """How many tasks one client submits."""
    return setting.count(TASKS_EACH[setting.workers])


def drive(setting: Setting, submit: Callable[[Task], Future[Any]]) -> Figures:
    """Throughput, and the latency from submit to the result in the client's hand."""
    tasks = [make_tasks(tasks_each(setting), f"c{n}-") for n in range(CLIENTS)]
    latencies: list[float] = []

    def client(n: int) -> None:
        for task in tasks[n]:
            start = perf_counter()
            submit(task).result()
            latencies.append(perf_counter() - start)

    seconds = together(CLIENTS, client)
    return {"rate": len(latencies) / seconds, "p99_ms": percentile(latencies, 0.99) * 1000}


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[math.ceil(share * len(ranked)) - 1]


def tpe(setting: Setting) -> Figures:
    """ThreadPoolExecutor, which keeps nothing."""
    with ThreadPoolExecutor(setting.workers) as executor:
        return drive(setting, partial(executor.submit, work))


def taskqueue(setting: Setting) -> Figures:
    """TaskQueue, durable against power loss."""
    with TaskQueue(work, ledger=setting.ledger, max_workers=setting.workers) as queue:
        return drive(setting, queue.submit)


if __name__ == "__main__":
    main({"tpe": tpe, "taskqueue-power": taskqueue})

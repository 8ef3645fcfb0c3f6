"""What the load generator costs itself: 100 clients over a queue that does nothing, and the same without it.

A rate is that of the best of ten windows, as timeit does it: whatever else the machine does only takes away, and 100
threads that wake each other feel it more than other rows do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Queue
from time import perf_counter

from pytest_taskqueue.ceiling import ceiling
from pytest_taskqueue.workloads import Noop
from tests.benchmarks.measurement import Figures, Setting, main

CLIENTS = 100
WINDOWS = 10
SECONDS = 0.3


def best(measure: Callable[[float], float], setting: Setting) -> Figures:
    """The highest rate of the windows."""
    return {"rate": max(measure(SECONDS * setting.scale) for _ in range(WINDOWS))}


def bare(window: float) -> float:
    """Nothing but a put and a wait for the answer of one thread, over and over; no clock is read, no task is made."""
    given: Queue[tuple[int, Future[None]] | None] = Queue()
    counts = [0] * CLIENTS  # each has one writer
    over = threading.Event()

    def client(n: int) -> None:
        while not over.is_set():
            future: Future[None] = Future()
            given.put((n, future))
            future.result()
            counts[n] += 1

    def echo() -> None:
        while (item := given.get()) is not None:
            item[1].set_result(None)

    clients = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(CLIENTS)]
    answering = threading.Thread(target=echo, daemon=True)
    for thread in (answering, *clients):
        thread.start()
    while not all(counts):  # as with the load generator: every client has had an answer
        time.sleep(0.001)
    start, before = perf_counter(), sum(counts)
    time.sleep(window)
    rate = (sum(counts) - before) / (perf_counter() - start)
    over.set()
    for thread in clients:
        thread.join()
    given.put(None)
    answering.join()
    return rate


def closed_loop(setting: Setting) -> Figures:
    """The load generator over its own echo queue, with the tasks of the workload noop."""
    return best(partial(ceiling, CLIENTS, Noop(seed=7).task), setting)


if __name__ == "__main__":
    main({"bare": partial(best, bare), "closed-loop": closed_loop})

"""1,000,000 tasks through one process: the peak of its memory, and whether it slows down on the way.

`peak_mb` is the peak resident set in MiB, `above_mb` how much of it a process that has only imported taskqueue_core
does not need, `last_to_first` the rate of the last tenth of the submits to that of the first (once all places are
taken, so that both are held back by the workers).
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from taskqueue_core import Task, TaskQueue
from tests.benchmarks.measurement import PAUSE, Figures, Setting, check_done, main, make_tasks, nothing
from tests.benchmarks.peak import peak_mb

BATCHES = 1_000
BATCH = 1_000
FILLING = 10  # batches that fill the places of an empty queue
EMPTY = "import taskqueue_core; from tests.benchmarks.peak import peak_mb; print(peak_mb())"


def taskqueue(setting: Setting) -> Figures:
    """submit_many in batches of 1,000, at most 10,000 tasks in memory."""
    batch = setting.count(BATCH)
    marks = []
    with TaskQueue(
        sleep if setting.sleep else nothing,
        ledger=setting.ledger,
        max_workers=setting.workers,
        queue_size=FILLING * batch,
    ) as queue:
        start = perf_counter()
        for n in range(BATCHES):
            queue.submit_many(make_tasks(batch, f"b{n}-"), futures=False)
            marks.append(perf_counter())
        queue.join()
        rate = BATCHES * batch / (perf_counter() - start)
        check_done(BATCHES * batch, queue.metrics.snapshot().succeeded)
    peak = peak_mb()
    return {"peak_mb": peak, "above_mb": peak - empty_mb(), "last_to_first": last_to_first(marks), "rate": rate}


def tpe(setting: Setting) -> Figures:
    """ThreadPoolExecutor.submit, nobody keeping the futures."""
    work, count = sleep if setting.sleep else nothing, BATCHES * setting.count(BATCH)
    start = perf_counter()
    with ThreadPoolExecutor(setting.workers) as executor:
        for n in range(count):
            executor.submit(work, Task(f"t{n}"))
    rate = count / (perf_counter() - start)
    peak = peak_mb()
    return {"peak_mb": peak, "above_mb": peak - empty_mb(), "rate": rate}


def sleep(task: Task) -> None:
    """The task under --sleep."""
    time.sleep(PAUSE)


def last_to_first(marks: list[float]) -> float:
    """Rates of the last tenth of the batches and of the first, without those that found the queue empty."""
    tenth = len(marks) // 10
    first = (tenth - FILLING) / (marks[tenth - 1] - marks[FILLING - 1])
    last = tenth / (marks[-1] - marks[-1 - tenth])
    return last / first


def empty_mb() -> float:
    """The peak of a process that has only imported the package."""
    found = subprocess.run([sys.executable, "-c", EMPTY], check=True, capture_output=True, text=True)
    return float(found.stdout)


if __name__ == "__main__":
    main({"taskqueue-power": taskqueue, "tpe": tpe})

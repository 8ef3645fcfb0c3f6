"""A ledger in which many tasks wait is opened: how soon the first one runs, and how fast the next ones go."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter

from taskqueue_core import Task, TaskQueue
from tests.benchmarks.measurement import Figures, Setting, main, nothing

TASKS = 10_000
SHORT = 3_000  # tasks that still wait at the end
LONG = 1_000_000

# What submit() writes, for tasks t1, t2, ... that came one microsecond after the other.
_INSERT = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
INSERT INTO tasks (idempotency_key, image_key, variant, params, status, created_at, run_at)
SELECT '["t' || n || '",""]', 't' || n, '', '{}', 'queued', :now + n * 1e-6, :now + n * 1e-6 FROM numbers
"""


class Milestones:
    """A processor that notes when the first task began and when the last of `count` began."""

    def __init__(self, count: int) -> None:
        self.first = self.last = 0.0
        self.reached = threading.Event()
        self._count = count
        self._begun = itertools.count()  # next() is one step, also for eight threads

    def __call__(self, task: Task) -> None:
        """Number 0 is the first; when number `count` begins, `count` tasks lie between."""
        number = next(self._begun)
        if number == 0:
            self.first = perf_counter()
        elif number == self._count:
            self.last = perf_counter()
            self.reached.set()


def backlog(waiting: int, setting: Setting) -> Figures:
    """Fill a ledger, open it, let some of its tasks run."""
    count = setting.count(TASKS)
    fill(setting.ledger, waiting=setting.count(waiting) + count + 1)
    milestones = Milestones(count)
    start = perf_counter()
    queue = TaskQueue(milestones, ledger=setting.ledger, max_workers=setting.workers)
    try:
        milestones.reached.wait()
    finally:
        queue.close(drain=False)
    return {"first_task_s": milestones.first - start, "rate": count / (milestones.last - milestones.first)}


def fill(ledger: Path, *, waiting: int) -> None:
    """A ledger as a process leaves it that dies with this many tasks accepted and none begun."""
    TaskQueue(nothing, ledger=ledger).close()
    with closing(sqlite3.connect(ledger)) as database, database:
        database.execute(_INSERT, {"count": waiting, "now": time.time() - waiting * 1e-6})


if __name__ == "__main__":
    main({"short-backlog": partial(backlog, SHORT), "long-backlog": partial(backlog, LONG)})

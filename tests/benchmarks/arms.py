"""Queues whose true ratios are known: their work is sleep, so that eight workers finish 8 / `pause` tasks per second.

They are for 100 clients over the workload noop, where a fair queue needs (100 / 8) * `pause` for every task.
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from pytest_taskqueue.subjects import Setup
from taskqueue_core import Task

PAUSE = 0.024
"""Seconds that a task of the baseline takes: 333 tasks per second, 0.3 s for each of 100 clients."""


class Plain:
    """The baseline of these controls: first come, first served."""

    pause = PAUSE

    def __init__(self, setup: Setup) -> None:
        self._work = setup.work
        self._executor = ThreadPoolExecutor(setup.workers, thread_name_prefix=type(self).__name__)

    def submit(self, task: Task) -> Future[Any]:
        """The task goes behind those that wait."""
        return self._executor.submit(self._do, task)

    def join(self, timeout: float) -> bool:
        """The clients have all their results before anybody asks."""
        return True

    def close(self, timeout: float) -> None:
        """Do what waits, then end."""
        self._executor.shutdown()

    def _do(self, task: Task) -> Any:
        time.sleep(self.pause)
        return self._work(task)


class HalfAsFastAgain(Plain):
    """1.5 times the throughput and 1 / 1.5 of the P95: too little for both gates."""

    pause = PAUSE / 1.5


class ThriceAsFast(Plain):
    """Three times the throughput and a third of the P95."""

    pause = PAUSE / 3


class Unfair(Plain):
    """2.5 times the throughput, but every twelfth task is put aside for as long as a task of the baseline takes.

    About 20 of 100 clients stand aside then and the others keep all workers busy; the P95 is that of the ones put
    aside: above 1.2 times that of the baseline.
    """

    pause = PAUSE / 2.5
    every = 12
    aside = 12.5 * PAUSE

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._numbers = itertools.count()  # next() is one step, also for 100 threads
        self._put_aside: SimpleQueue[tuple[float, Task, Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._take_back, name="aside", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> Future[Any]:
        """Most tasks go into the queue, every twelfth does so later."""
        if next(self._numbers) % self.every:
            return super().submit(task)
        promised: Future[Any] = Future()
        self._put_aside.put((time.monotonic() + self.aside, task, promised))
        return promised

    def close(self, timeout: float) -> None:
        """Take back what stands aside, then as the others."""
        self._put_aside.put(None)
        self._thread.join()
        super().close(timeout)

    def _take_back(self) -> None:
        while (item := self._put_aside.get()) is not None:
            due, task, promised = item
            time.sleep(max(0.0, due - time.monotonic()))
            self._executor.submit(self._keep, task, promised)

    def _keep(self, task: Task, promised: Future[Any]) -> None:
        try:
            promised.set_result(self._do(task))
        except Exception as error:  # noqa: BLE001 - whatever the work raises is the client's
            promised.set_exception(error)

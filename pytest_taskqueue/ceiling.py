"""What the load costs itself: no measurement can be faster than the clients are over a queue that does nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pytest_taskqueue.load import MARGIN, ClosedLoop
from taskqueue_core import Task


def ceiling(clients: int, task: Callable[[int, int], Task], window: float) -> float:
    """Tasks per second that so many clients do over a queue that hands every task back."""
    echo = _Echo()
    try:
        log = ClosedLoop(echo, clients, task, _no_look, seed=0).run(window)
    finally:
        echo.close(MARGIN)
    finished = sum(log.opens <= end <= log.closes for client in log.clients for end in client.ends)
    return finished / (log.closes - log.opens)


def _no_look(task: Task, value: Any) -> None:  # noqa: ARG001
    return None


class _Echo:
    """A queue that does nothing: one thread gives every task its number back. No measurement can be
    faster than the clients are over it.
    """

    def __init__(self) -> None:
        self._tasks: queue.Queue[tuple[Task, Future[Any]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="tq-echo", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        self._tasks.put((task, future))
        return future

    def close(self, timeout: float) -> None:
        self._tasks.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        while (given := self._tasks.get()) is not None:
            given[1].set_result(None)

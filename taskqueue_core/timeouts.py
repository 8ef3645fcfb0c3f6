"""Attempts that outlive `task_timeout`: one thread sleeps until the earliest deadline and reports who missed it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from taskqueue_core.inflight import Entry
from taskqueue_core.task import TaskRecord


class Timeouts:
    """Watches running attempts; `run` calls `expire(entry, record)` for each that passes its deadline.

    A Python thread cannot be killed: the worker stays busy until its processor returns, only the task moves on.
    """

    def __init__(self, timeout: float, expire: Callable[[Entry, TaskRecord], None]) -> None:
        self._timeout = timeout
        self._expire = expire
        self._condition = threading.Condition()  # guards the fields below
        self._running: dict[tuple[int, int], tuple[float, Entry, TaskRecord]] = {}  # earliest deadline first
        self._closed = False

    def begin(self, entry: Entry, record: TaskRecord) -> None:
        """An attempt starts now."""
        with self._condition:
            self._running[record.id, record.version] = (time.monotonic() + self._timeout, entry, record)
            if len(self._running) == 1:
                self._condition.notify()

    def end(self, record: TaskRecord) -> None:
        """The processor has returned."""
        with self._condition:
            self._running.pop((record.id, record.version), None)

    def close(self) -> None:
        """End `run` soon."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def run(self) -> None:
        """Report attempts as they expire, until closed."""
        while (expired := self._next()) is not None:
            self._expire(*expired)

    def _next(self) -> tuple[Entry, TaskRecord] | None:
        with self._condition:
            while not self._closed:
                if not self._running:
                    self._condition.wait()
                    continue
                key, (deadline, entry, record) = next(iter(self._running.items()))
                left = deadline - time.monotonic()
                if left <= 0:
                    del self._running[key]
                    return entry, record
                self._condition.wait(min(left, threading.TIMEOUT_MAX))
            return None

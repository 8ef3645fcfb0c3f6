"""Attempts that outlive `task_timeout`: one thread sleeps until the earliest deadline and reports who missed it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from taskqueue_core.arrows import Row
from taskqueue_core.entries import Entry


class Timeouts:
    """Watches running attempts; `run` calls `expire(entry, row)` for each that passes its deadline.

    A Python thread cannot be killed: the worker stays busy until its processor returns, only the task moves on.
    """

    def __init__(self, timeout: float, expire: Callable[[Entry, Row], None]) -> None:
        self._timeout = timeout
        self._expire = expire
        self._condition = threading.Condition()  # guards the fields below
        self._running: dict[tuple[int, int], tuple[float, Entry, Row]] = {}  # earliest deadline first
        self._closed = False

    def begin(self, entry: Entry, row: Row) -> None:
        """An attempt starts now."""
        with self._condition:
            self._running[row.id, row.version] = (time.monotonic() + self._timeout, entry, row)
            if len(self._running) == 1:
                self._condition.notify()

    def end(self, row: Row) -> None:
        """The processor has returned."""
        with self._condition:
            self._running.pop((row.id, row.version), None)

    def close(self) -> None:
        """End `run` soon."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def run(self) -> None:
        """Report attempts as they expire, until closed."""
        while (expired := self._next()) is not None:
            self._expire(*expired)

    def _next(self) -> tuple[Entry, Row] | None:
        with self._condition:
            while not self._closed:
                if not self._running:
                    self._condition.wait()
                    continue
                key, (deadline, entry, row) = next(iter(self._running.items()))
                left = deadline - time.monotonic()
                if left <= 0:
                    del self._running[key]
                    return entry, row
                self._condition.wait(min(left, threading.TIMEOUT_MAX))
            return None

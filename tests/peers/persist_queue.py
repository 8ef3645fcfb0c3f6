"""persist-queue's SQLiteAckQueue: a table in SQLite to put, get and acknowledge; it brings no threads.

Its documentation promises that what is put survives crashes and restarts, and `auto_resume`, on unasked, gives what
was not acknowledged out again. WAL, synchronous as SQLite was built, mostly FULL.
"""

from __future__ import annotations

import itertools
from typing import Any

from persistqueue import Empty, SQLiteAckQueue

from pytest_taskqueue.subjects import Promise, Setup
from tests.peers.glue import POLL, Threads

KEPT = 1000
"""It looks for the next task from the beginning of its table on, so the acknowledged ones are cleared in between."""


class Queue(Threads):
    """One queue for all threads, with `multithreading=True`, as its documentation has it."""

    promises = frozenset({Promise.DURABLE})

    def __init__(self, setup: Setup) -> None:
        self._queue = SQLiteAckQueue(str(setup.directory / "persist-queue"), multithreading=True)
        self._acknowledged = itertools.count(1)  # next() is one step, also for eight threads
        super().__init__(setup)

    def put(self, text: str) -> None:
        self._queue.put(text)

    def take(self) -> tuple[Any, str] | None:
        try:
            got = self._queue.get(timeout=POLL, raw=True)
        except Empty:
            return None
        return got["pqid"], got["data"]

    def done(self, handle: Any) -> None:
        self._queue.ack(id=handle)
        if next(self._acknowledged) % KEPT == 0:
            self._queue.clear_acked_data(max_delete=KEPT, keep_latest=0)

    def failed(self, handle: Any) -> None:
        self._queue.ack_failed(id=handle)

    def shut(self) -> None:
        self._queue.close()

    def depth(self) -> int:
        """It counts in memory."""
        return self._queue.qsize()

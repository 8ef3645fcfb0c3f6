"""litequeue: a table in SQLite to put, pop and tick off; it brings no threads.

Its documentation promises persistence, and `maxsize`, beyond which a put raises. It says nothing of tasks that were
popped and not ticked off, but has `list_locked` and `retry` for them: called here when the queue is opened. As it
comes it syncs at checkpoints only (WAL, synchronous=NORMAL).
"""

from __future__ import annotations

import threading
import time
from typing import Any

from litequeue import LiteQueue

from pytest_taskqueue.subjects import Promise, Setup
from tests.peers.glue import POLL, Threads


class Queue(Threads):
    """One connection under a lock: with many clients that is faster than a connection for each of them."""

    promises = frozenset({Promise.DURABLE, Promise.REJECTS})

    def __init__(self, setup: Setup) -> None:
        places = setup.queue_size if setup.overflow == "reject" else None  # it cannot hold a put back
        self._queue = LiteQueue(setup.directory / "litequeue.db", maxsize=places)
        self._lock = threading.Lock()  # guards the connection
        for left in list(self._queue.list_locked(threshold_seconds=0)):
            self._queue.retry(left.message_id)
        super().__init__(setup)

    def put(self, text: str) -> None:
        with self._lock:
            self._queue.put(text)

    def take(self) -> tuple[Any, str] | None:
        with self._lock:
            popped = self._queue.pop()
        if popped is None:
            time.sleep(POLL)
            return None
        return popped.message_id, popped.data

    def done(self, handle: Any) -> None:
        with self._lock:
            self._queue.done(handle)

    def failed(self, handle: Any) -> None:
        with self._lock:
            self._queue.mark_failed(handle)

    def shut(self) -> None:
        self._queue.close()

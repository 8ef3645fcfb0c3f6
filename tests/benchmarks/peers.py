"""The durable queues one would use instead, each with workers at once and the best case in its favour.

Both poll; their intervals are set down to 1 ms. Neither tells a waiting producer that a task is done, so a counter
in this process does, advanced when the peer has acknowledged the task: a program of two processes would wait longer.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

POLL = 0.001
BUSY = 60.0
"""Seconds a peer's connection waits for the lock of its file: nothing is lost to a timeout."""

Put = Callable[[int], Any]


class Peer:
    """A durable queue at work in `directory`. `expected` tasks are put in all."""

    def __init__(self, directory: Path, *, workers: int, expected: int) -> None:
        self._expected = expected
        self._acknowledged = itertools.count(1)  # next() is one step, also for eight threads
        self._all_done = threading.Event()
        self.start(directory, workers)

    def start(self, directory: Path, workers: int) -> None:
        """Open the queue and start the workers."""
        raise NotImplementedError

    def connect(self) -> Put:
        """A function that puts one task, for one producer."""
        raise NotImplementedError

    def close(self) -> None:
        """End the workers."""
        raise NotImplementedError

    def done(self) -> None:
        """One more task is acknowledged."""
        if next(self._acknowledged) == self._expected:
            self._all_done.set()

    def wait(self) -> None:
        """Return when all expected tasks are acknowledged."""
        self._all_done.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Huey(Peer):
    """SqliteHuey, every commit on the disk (WAL, synchronous=FULL), results stored; its consumer's worker threads."""

    def start(self, directory: Path, workers: int) -> None:
        """One connection and a lock, which is how huey itself shares it among threads."""
        from huey import SqliteHuey
        from huey.signals import SIGNAL_COMPLETE

        # Recent versions sync unasked, older ones did not.
        huey = SqliteHuey(filename=str(directory / "huey.db"), timeout=BUSY, fsync=True)
        huey.signal(SIGNAL_COMPLETE)(lambda signal, task: self.done())  # sent behind the commit of the result
        self._put: Put = huey.task()(_number)
        self._consumer = huey.create_consumer(
            workers=workers, periodic=False, initial_delay=POLL, max_delay=10 * POLL, check_worker_health=False
        )
        self._consumer.start()

    def connect(self) -> Put:
        """The same for all."""
        return self._put

    def close(self) -> None:
        """End the consumer."""
        self._consumer.stop(graceful=True)


class Litequeue(Peer):
    """litequeue as it comes (WAL, synchronous=NORMAL), a connection for each thread; its workers pop and done."""

    def start(self, directory: Path, workers: int) -> None:
        """Worker threads of ours: litequeue has none."""
        self._path = directory / "litequeue.db"
        self._stopped = threading.Event()
        queues = [self.open() for _ in range(workers)]
        self._threads = [threading.Thread(target=self._work, args=(queue,), daemon=True) for queue in queues]
        for thread in self._threads:
            thread.start()

    def open(self) -> Any:
        """A queue for one thread."""
        from litequeue import LiteQueue

        return LiteQueue(self._path, timeout=BUSY)

    def connect(self) -> Put:
        """A connection of its own."""
        queue = self.open()
        return lambda n: queue.put(str(n))

    def close(self) -> None:
        """End the workers."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _work(self, queue: Any) -> None:
        while not self._stopped.is_set():
            message = queue.pop()
            if message is None:
                time.sleep(POLL)
                continue
            queue.done(message.message_id)
            self.done()


class LockedLitequeue(Litequeue):
    """The same over one connection and a lock of ours: with many producers that is faster than its file's lock."""

    def start(self, directory: Path, workers: int) -> None:
        """The one connection is opened first."""
        self._one: Any = None
        self._lock = threading.Lock()  # guards the one connection
        super().start(directory, workers)

    def open(self) -> Any:
        """The one connection, guarded."""
        if self._one is None:
            self._one = _Guarded(super().open(), self._lock)
        return self._one


class _Guarded:
    """What producers and workers call of a LiteQueue, one at a time."""

    def __init__(self, queue: Any, lock: threading.Lock) -> None:
        self._queue = queue
        self._lock = lock

    def put(self, data: str) -> None:
        with self._lock:
            self._queue.put(data)

    def pop(self) -> Any:
        with self._lock:
            return self._queue.pop()

    def done(self, message_id: str) -> None:
        with self._lock:
            self._queue.done(message_id)


def _number(n: int) -> int:
    return n  # None would not be stored as a result

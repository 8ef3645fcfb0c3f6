"""The places of the bounded queue: nothing waits in memory without holding one."""

from __future__ import annotations

import threading
from collections import deque

from taskqueue_core.deadline import Deadline
from taskqueue_core.errors import QueueClosedError
from taskqueue_core.metrics import Depth


class Places:
    """Counts free places. A task holds one from its admission until a worker takes it.

    Workers wait for no lock here, unless somebody waits for a place: with tasks that take microseconds they would wait
    for each other more than they work. (Eight workers, 20,000 tasks that do nothing: with a lock here and in
    Workers._done 1.4 times the time, 1.2 to 1.9 in six runs.) What a worker has vacated is counted by whoever has the
    lock.

    Submits wait for a place, in no order; the feeder, which brings back tasks that are due in the ledger, goes
    first. While submits are held back (too many tasks wait for a retry) only the feeder gets places.
    """

    def __init__(self, size: int, depth: Depth | None = None) -> None:
        self._size = size
        self._free = size
        self._depth = depth or Depth()  # told of every change
        self._vacated: deque[None] = deque()  # one for each place that a worker has vacated; needs no lock
        self._lock = threading.Lock()  # guards all other fields
        self._for_submits = threading.Condition(self._lock)
        self._for_feeder = threading.Condition(self._lock)
        self._waiting = 0  # threads that wait for a place
        self._feeder_waits = False
        self._held_back = False
        self._closed_to_submits = False
        self._closed = False

    def take(self, wanted: int, deadline: Deadline) -> int:
        """Wait for places and take up to `wanted`; 0 when the deadline passed. Raises QueueClosedError."""
        try:
            with self._lock:
                if taken := self._grab(wanted):  # first without `_waiting`, which makes workers wait for the lock
                    return taken
                self._waiting += 1
                try:
                    while not (taken := self._grab(wanted)) and not deadline.passed:
                        self._for_submits.wait(deadline.remaining())
                finally:
                    self._waiting -= 1
                return taken
        finally:
            self.catch_up()

    def take_now(self, wanted: int) -> bool:
        """Take exactly `wanted` places if they are free now. Raises QueueClosedError."""
        try:
            with self._lock:
                return self._grab(wanted if wanted <= self._count() else 0) == wanted
        finally:
            self.catch_up()

    def take_first(self) -> bool:
        """Wait for a place, before all submits; False when closed. For the feeder alone."""
        try:
            with self._lock:
                self._feeder_waits = True
                self._waiting += 1
                try:
                    while not self._count() and not self._closed:
                        self._for_feeder.wait()
                finally:
                    self._feeder_waits = False
                    self._waiting -= 1
                if self._closed:
                    return False
                self._change(-1)
                self._wake()
                return True
        finally:
            self.catch_up()

    def give(self, n: int = 1) -> None:
        """Give places back."""
        with self._lock:
            self._change(n)
            self._wake()
        self.catch_up()

    def vacate(self) -> None:
        """Give one place back without waiting for the lock. No place is lost, and nobody sleeps beside a free one:

        1. The place is in `_vacated` before `_waiting` is read. Whoever waits raises `_waiting` before he looks at
           `_vacated`. So one of the two sees the other.
        2. Somebody waits: this thread waits for the lock. Whoever counts the place, wakes him.
        3. Nobody waits and the lock is free: this thread counts.
        4. Nobody waits and somebody has the lock: he catches up after releasing it.

        For workers alone: an interrupt between the two steps would leave the place uncounted.
        """
        self._vacated.append(None)
        while self._vacated and self._lock.acquire(blocking=self._waiting > 0):
            try:
                self._count()
            finally:
                self._lock.release()

    def catch_up(self) -> None:
        """Count what workers have vacated while somebody had the lock."""
        while self._vacated:
            with self._lock:
                self._count()

    def hold_back(self, held_back: bool) -> None:
        """Hold submits back, or let them go on."""
        with self._lock:
            self._held_back = held_back
            self._wake()
        self.catch_up()

    def close_to_submits(self) -> None:
        """From now on `take` raises QueueClosedError, also in those who wait."""
        with self._lock:
            self._closed_to_submits = True
            self._for_submits.notify_all()
        self.catch_up()

    def close(self) -> None:
        """From now on the feeder gets no place either."""
        with self._lock:
            self._closed_to_submits = self._closed = True
            self._for_submits.notify_all()
            self._for_feeder.notify_all()
        self.catch_up()

    def _grab(self, wanted: int) -> int:
        if self._closed_to_submits:
            raise QueueClosedError("the queue is closed and takes no more tasks")
        if self._feeder_waits or self._held_back:
            return 0
        taken = min(wanted, self._count())
        if taken:
            self._change(-taken)
        return taken

    def _count(self) -> int:
        """Add what workers have vacated to the free places, for whoever waits: how many are free. Called with the lock
        held; the worker that finds nothing left to count has nobody to wake.
        """
        if self._vacated:
            for _ in range(len(self._vacated)):
                self._vacated.popleft()
                self._change(1)
            self._wake()
        return self._free

    def _change(self, freed: int) -> None:
        self._free += freed
        self._depth.set(self._size - self._free)

    def _wake(self) -> None:
        if not (self._free and self._waiting):
            return
        if self._feeder_waits:
            self._for_feeder.notify()
        else:
            self._for_submits.notify(self._free)

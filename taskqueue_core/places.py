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
    for each other more than they work (eight workers, tasks that do nothing: 4 times the time for each). What a worker
    has left is counted by whoever has the lock.

    Submits wait for a place, in no order; the feeder, which brings back tasks that are due in the ledger, goes
    first. While submits are held back (too many tasks wait for a retry) only the feeder gets places.
    """

    def __init__(self, size: int, depth: Depth | None = None) -> None:
        self._size = size
        self._free = size
        self._depth = depth or Depth()  # told of every change
        self._left: deque[None] = deque()  # one for each place that a worker has left; needs no lock
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
        with self._lock:
            if not (taken := self._grab(wanted)):
                self._waiting += 1
                try:
                    while not (taken := self._grab(wanted)) and not deadline.passed:
                        self._for_submits.wait(deadline.remaining())
                finally:
                    self._waiting -= 1
        self.settle()
        return taken

    def take_now(self, wanted: int) -> bool:
        """Take exactly `wanted` places if they are free now. Raises QueueClosedError."""
        with self._lock:
            enough = wanted <= self._count()
            taken = self._grab(wanted if enough else 0)
        self.settle()
        return enough and taken == wanted

    def take_first(self) -> bool:
        """Wait for a place, before all submits; False when closed. For the feeder alone."""
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
        self.settle()
        return True

    def give(self, n: int = 1) -> None:
        """Give places back."""
        with self._lock:
            self._change(n)
            self._wake()
        self.settle()

    def leave(self) -> None:
        """Give one place back; for the threads of workers, which no signal interrupts."""
        self._left.append(None)
        while self._left:
            if self._waiting:
                self.settle()
            elif self._lock.acquire(blocking=False):
                try:
                    self._count()
                finally:
                    self._lock.release()
            else:
                return  # whoever has the lock settles after that

    def settle(self) -> None:
        """Count what workers have left while somebody had the lock, and did not see it."""
        while self._left:
            with self._lock:
                self._count()
                self._wake()

    def hold_back(self, held_back: bool) -> None:
        """Hold submits back, or let them go on."""
        with self._lock:
            self._held_back = held_back
            self._wake()
        self.settle()

    def close_to_submits(self) -> None:
        """From now on `take` raises QueueClosedError, also in those who wait."""
        with self._lock:
            self._closed_to_submits = True
            self._for_submits.notify_all()

    def close(self) -> None:
        """From now on the feeder gets no place either."""
        self.close_to_submits()
        with self._lock:
            self._closed = True
            self._for_feeder.notify_all()
        self.settle()

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
        """How many places are free, with those that workers have left; whoever leaves one later sees `_waiting`."""
        left = len(self._left)
        for _ in range(left):
            self._left.popleft()
        if left:
            self._change(left)
        return self._free

    def _change(self, freed: int) -> None:
        self._free += freed
        self._depth.set(self._size - self._free)

    def _wake(self) -> None:
        if not self._free:
            return
        if self._feeder_waits:
            self._for_feeder.notify()
        else:
            self._for_submits.notify(self._free)

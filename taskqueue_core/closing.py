"""The end of a queue, and what `close` reports of it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taskqueue_core.attempts import Attempts
from taskqueue_core.deadline import Deadline
from taskqueue_core.errors import LedgerError, TaskQueueError
from taskqueue_core.feeder import Feeder
from taskqueue_core.futures import Callbacks
from taskqueue_core.inflight import InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.places import Places
from taskqueue_core.task import Status
from taskqueue_core.workers import Workers

GRACE = 0.8
"""Seconds past its deadline that `close` grants to what takes milliseconds: a claim or a row just being written."""

PAUSED_LOOK = 0.05
"""Seconds between two looks of `close`, while it waits for tasks, at whether the queue was paused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """How a queue was closed.

    drained    every task was finished
    waiting    tasks left queued in the ledger, for the next time it is opened; -1 when it cannot be read
    stuck      keys of the tasks that were still running at the deadline; they are queued again, the attempt
               does not count (unless they had timed out before), and their late results are refused
    elapsed_s  seconds that closing took
    """

    drained: bool
    waiting: int
    stuck: tuple[str, ...]
    elapsed_s: float


class Closing:
    """Ends a queue, by one deadline. `threads` and `commit_thread` are told when they have started; `closed` is called
    when the ledger is closed.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        inflight: InFlight,
        places: Places,
        feeder: Feeder,
        attempts: Attempts,
        workers: Workers,
        callbacks: Callbacks,
        purge_old: Callable[[Deadline], None],
    ) -> None:
        self._ledger = ledger
        self._inflight = inflight
        self._places = places
        self._feeder = feeder
        self._attempts = attempts
        self._workers = workers
        self._callbacks = callbacks
        self._purge_old = purge_old
        self.threads: Sequence[threading.Thread] = ()
        self.commit_thread: threading.Thread
        self.closed: Callable[[], None] = lambda: None
        self.report: CloseReport | None = None
        self._lock = threading.Lock()  # held by the one thread that closes

    def close(self, timeout: float, *, drain: bool) -> CloseReport:
        """Close, or wait for the one who does; the report. Raises TaskQueueError when that takes too long."""
        deadline = Deadline(timeout)
        left = deadline.later(GRACE).remaining()
        if not self._lock.acquire(timeout=-1 if left is None else left):
            raise TaskQueueError(f"another close() of this queue was not done within {timeout} s")
        try:
            if self.report is None:
                self.report = self._close(deadline, drain)
            return self.report
        finally:
            self._lock.release()

    def interpreter_ended(self) -> None:
        """Nothing can run any more: what was claimed is queued again, and nobody may wait for a place or a result."""
        self._feeder.close()
        self._places.close()
        self._attempts.put_back(self._workers.take_untaken())
        self._inflight.fail_waiting()

    def _close(self, deadline: Deadline, drain: bool) -> CloseReport:
        """First nobody comes in, then the work ends, then the futures, the ledger last; whatever goes wrong."""
        started = time.monotonic()
        final = deadline.later(GRACE)
        self._places.close_to_submits()
        stuck, waiting, drained = list[str](), -1, False
        try:
            if drain:
                with contextlib.suppress(LedgerError):
                    self._drain(deadline)
        finally:
            try:
                stuck = self._stop_workers(deadline, final)
                with contextlib.suppress(LedgerError):
                    self._purge_old(deadline)
                    counts = self._ledger.counts()
                    waiting = counts[Status.QUEUED]
                    drained = waiting == counts[Status.RUNNING] == 0
            finally:
                self._workers.shutdown(wait=False)
                self._ledger.commits.close()
                self.commit_thread.join(final.remaining())
                self._inflight.close(drained=drained)
                try:
                    self._callbacks.close(final)
                finally:
                    self._ledger.close()
                    self.closed()
        elapsed = time.monotonic() - started
        return CloseReport(drained=drained, waiting=waiting, stuck=tuple(stuck), elapsed_s=elapsed)

    def _drain(self, deadline: Deadline) -> None:
        """Wait for all tasks, unless the queue is paused, or becomes so meanwhile."""
        while not self._workers.paused and not deadline.passed:
            left = deadline.remaining()
            look = Deadline(PAUSED_LOOK if left is None else min(left, PAUSED_LOOK))
            if self._inflight.wait_done(self._ledger.unfinished, look):
                return

    def _stop_workers(self, deadline: Deadline, final: Deadline) -> list[str]:
        """End the feeder and the workers; the keys of the tasks that were released because they did not end."""
        self._feeder.close()
        self._places.close()
        self._attempts.close()
        self._inflight.wait_arrivals(final)
        self._attempts.put_back(self._workers.stop(final))
        released = [] if self._inflight.wait_settled(deadline) else self._attempts.release(self._inflight.working())
        stuck = released + self._inflight.stuck()
        # A worker may be busy in user code all the same: never wait without a limit.
        all_left = not stuck and self._workers.wait_left(final)
        self._workers.shutdown(wait=all_left)
        for thread in self.threads:
            thread.join(final.remaining())
        return stuck

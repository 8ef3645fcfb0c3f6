"""The feeder: brings tasks that wait in the ledger only (recovered, retrying, replayed) into the bounded queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from taskqueue_core.errors import LedgerError
from taskqueue_core.inflight import Entry, InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.logs import logger
from taskqueue_core.places import Places
from taskqueue_core.task import TaskRecord

FIRST = (-float("inf"), 0)
PAUSE = 1.0
"""Seconds between tries while the ledger cannot be read or written."""


class Feeder:
    """Runs in a thread of its own: `run` returns after `close`. It sleeps until a task becomes due, or `wake`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        inflight: InFlight,
        places: Places,
        retrying_limit: int,
        batch: int,
        enqueue: Callable[[Entry], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._inflight = inflight
        self._places = places
        self._retrying_limit = retrying_limit
        self._batch = batch
        self._enqueue = enqueue
        self._clock = clock
        self._awake = threading.Event()
        self._closed = False

    def wake(self) -> None:
        """Look again: a task may be due earlier than the feeder knows."""
        self._awake.set()

    def close(self) -> None:
        """End `run` soon."""
        self._closed = True
        self._awake.set()

    def run(self) -> None:
        """Feed until closed."""
        while not self._closed:
            self._awake.clear()  # before looking, so that a wake during the look is not lost
            try:
                pause = self._feed()
            except LedgerError:
                logger.exception("the feeder cannot read the ledger; it tries again in %s s", PAUSE)
                pause = PAUSE
            self._awake.wait(pause)

    def _feed(self) -> float | None:
        """Bring in all that is due; seconds until there is more, None when nothing waits."""
        after = FIRST
        while not self._closed and (rows := self._ledger.due(self._clock(), after, self._batch)):
            for row in rows:
                self._bring_in(row)
            after = (rows[-1].run_at, rows[-1].id)
        self.hold_back()
        now = self._clock()
        at = self._ledger.next_run_at(now)
        return None if at is None else max(at - self._clock(), 0.0)

    def _bring_in(self, row: TaskRecord) -> None:
        if self._inflight.in_hand(row.idempotency_key) or not self._places.take_first():
            return
        entry = self._inflight.bring_in(row)
        if entry is None:
            self._places.give()
        else:
            self._enqueue(entry)

    def hold_back(self) -> None:
        """Hold submits back while too many tasks wait for a retry."""
        self._places.hold_back(self._inflight.retrying() > self._retrying_limit)

"""The feeder: brings tasks that wait in the ledger only (recovered, retrying, replayed) into the bounded queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from taskqueue_core.clock import now
from taskqueue_core.commits import PAUSE
from taskqueue_core.entries import Entry
from taskqueue_core.inflight import InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.logs import logger
from taskqueue_core.places import Places
from taskqueue_core.task import Status, TaskRecord

FIRST = (-float("inf"), 0)
AT_ONCE = 500
"""Rows that are read at once, at most."""
LONGEST_SLEEP = 60.0
"""Seconds after which the feeder looks again in any case: the wall clock may have been set."""


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
        enqueue: Callable[[Sequence[Entry]], None],
        clock: Callable[[], float] = now,
    ) -> None:
        self._ledger = ledger
        self._inflight = inflight
        self._places = places
        self._retrying_limit = retrying_limit
        self._batch = min(batch, AT_ONCE)
        self._enqueue = enqueue
        self._clock = clock
        self._awake = threading.Event()
        self._strays: deque[str] = deque()
        self._closed = False

    def wake(self) -> None:
        """Look again: a task may be due earlier than the feeder knows."""
        self._awake.set()

    def find(self, keys: Sequence[str]) -> None:
        """Look for these rows: one may stand as running while no worker has it."""
        self._strays += keys
        self._awake.set()

    def close(self) -> None:
        """End `run` soon."""
        self._closed = True
        self._awake.set()

    def run(self) -> None:
        """Feed until closed."""
        while True:
            self._awake.clear()  # before looking, so that neither a wake nor `close` during the look is lost
            if self._closed:
                return
            try:
                pause = self._feed()
            except Exception:  # noqa: BLE001 - without the feeder, what waits in the ledger would wait for ever
                logger.exception("the feeder cannot read the ledger; it tries again in %s s", PAUSE)
                pause = PAUSE
            self._awake.wait(pause)

    def _feed(self) -> float | None:
        """Bring in all that is due; seconds until there is more, None when nothing waits."""
        self._release_strays()
        after, now, cancels = FIRST, self._clock(), self._inflight.cancels
        while not self._closed and (rows := self._ledger.due(now, after, self._batch)):
            # All at once: a task in hand that is done when its turn comes would look like one that nobody has.
            for row in self._inflight.welcome(rows):
                self._bring_in(row, cancels)
            after, now = (rows[-1].run_at, rows[-1].id), self._clock()
        self.hold_back()
        if self._inflight.cancels != cancels:
            return 0.0  # rows were passed by that may be due
        # Asked with the `now` of the last look: a task that has become due since then must not fall between.
        at = self._ledger.next_run_at(now)
        return None if at is None else min(max(at - self._clock(), 0.0), LONGEST_SLEEP)

    def _release_strays(self) -> None:
        while self._strays:
            record = self._ledger.get(self._strays[0])
            if record is not None and record.status is Status.RUNNING and self._inflight.is_stray(record):
                self._ledger.release(record)
            self._strays.popleft()

    def _bring_in(self, row: TaskRecord, cancels: int) -> None:
        if self._inflight.must_wait(row) or not self._places.take_first():
            return
        entry = self._inflight.bring_in(row, cancels)
        if entry is None:
            self._places.give()
        else:
            self._enqueue([entry])

    def hold_back(self) -> None:
        """Hold submits back while too many tasks wait for a retry."""
        self._places.hold_back(self._inflight.retrying() > self._retrying_limit)

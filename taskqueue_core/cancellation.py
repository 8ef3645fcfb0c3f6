"""The way out before the work: the last caller of a waiting task gives up (T8)."""

from __future__ import annotations

from taskqueue_core.entries import Entry, Phase
from taskqueue_core.errors import LedgerError
from taskqueue_core.feeder import Feeder
from taskqueue_core.futures import TaskFuture
from taskqueue_core.inflight import InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.logs import log_event, logger
from taskqueue_core.metrics import Metrics
from taskqueue_core.places import Places
from taskqueue_core.task import Status, TaskRecord
from taskqueue_core.workers import Workers


class Cancellation:
    """G10: detaches callers, and cancels the task of the last one while no worker is to run it yet."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        inflight: InFlight,
        places: Places,
        workers: Workers,
        feeder: Feeder,
        metrics: Metrics,
    ) -> None:
        self._ledger = ledger
        self._inflight = inflight
        self._places = places
        self._workers = workers
        self._feeder = feeder
        self._metrics = metrics

    def cancel(self, future: TaskFuture) -> bool:
        """Detach one caller; True when his future is cancelled, and his task too if he was the last one."""
        detached = self._inflight.detach(future)
        if detached is not None:
            entry, phase = detached
            if phase is Phase.QUEUED and self._workers.waiting.remove(entry):
                self._places.give()  # else whoever is about to claim it gives its place back
            if (moved := self._record(entry, future)) is None:
                return False
            log_event("cancelled", future.key, moved)
            self._metrics.count("cancelled")
        return future.give_up()

    def _record(self, entry: Entry, future: TaskFuture) -> TaskRecord | None:
        """T8; None when the ledger does not take it, and the caller is attached again. Also when this is interrupted,
        what the ledger says counts.
        """
        moved = None
        try:
            moved = self._ledger.cancel(entry.row)
        except LedgerError:
            logger.exception("%r could not be cancelled", future.key)
        finally:
            moved = moved or self._ledger.reached(entry.row, Status.FAILED)
            if moved is None:
                self._inflight.stay(entry, future)
                self._feeder.find([entry.draft.key])  # who looked for a stray meanwhile took this caller for gone
            else:
                self._inflight.leave(entry)
            self._feeder.wake()
        return moved

"""When is there nothing to do for now? What a test, or an orderly pause, waits for."""

from __future__ import annotations

from taskqueue_core import clock
from taskqueue_core.deadline import Deadline
from taskqueue_core.inflight import InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.workers import Workers

LOOK = 0.005
"""Seconds between looks at what nothing announces: that a worker is free, that the feeder is on its way."""


def wait_idle(inflight: InFlight, workers: Workers, ledger: Ledger, deadline: Deadline) -> bool:
    """Wait until nothing runs and nothing would be begun now; False when the deadline passed."""
    while not _idle(inflight, workers, ledger):
        if deadline.passed:
            return False
        inflight.wait_change(Deadline(LOOK))
    return True


def _idle(inflight: InFlight, workers: Workers, ledger: Ledger) -> bool:
    """First the workers, then what they have posted: so nothing can pass between the two looks. The ledger is asked
    when memory has nothing left, and memory once more after that: a task may just have come and gone.
    """
    workless, paused = workers.at_rest()
    if not workless or inflight.busy(waits_for_workers=not paused):
        return False
    return paused or not (ledger.at_work(clock.now()) or inflight.busy(waits_for_workers=True))

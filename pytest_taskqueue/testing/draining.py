"""drain: run what is due, and say what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from taskqueue_core import MetricsSnapshot, Status, TaskQueue, TaskRecord, watch

STEP = 0.02
"""Seconds between two calls of `until`."""
PATIENCE = 0.5
"""Seconds for which a predicate may still come true when nothing is due any more: callbacks of futures come last."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Drained:
    """What a `drain` has done.

    succeeded  tasks that succeeded
    failed     tasks that failed for good; who asks for the number knows of them, so that their errors count as read
    retried    attempts that failed and are to be tried again
    waiting    tasks that are queued now: for a later run_at, or because `until` was reached before
    """

    succeeded: int
    retried: int
    waiting: int
    _failed: int
    _note_read: Callable[[], None] = field(default=lambda: None, compare=False)

    @property
    def failed(self) -> int:
        """How many tasks failed for good."""
        self._note_read()
        return self._failed

    @property
    def attempts(self) -> int:
        """How many attempts have ended."""
        return self.succeeded + self._failed + self.retried

    def __repr__(self) -> str:
        counts = f"succeeded={self.succeeded}, failed={self._failed}, retried={self.retried}, waiting={self.waiting}"
        return f"Drained({counts})"


def drain(queue: TaskQueue, *, until: Callable[[], object] | int | None = None, timeout: float = 10.0) -> Drained:
    """Run what is due, and return how many tasks succeeded, failed, were retried, and still wait.

    Ends when no task runs and none is due: tasks that wait for a later run_at stay, see the fixture `tq_clock`. With
    `until`, a number, it ends after so many attempts; a paused queue begins exactly so many. With `until`, a
    predicate without arguments, it ends when that is true. A queue that was paused is resumed meanwhile, and paused
    again at the end.

    Raises TypeError for what is no TaskQueue, TimeoutError after `timeout` seconds, with what still runs and waits,
    and AssertionError when nothing is due any more and `until` is not reached.
    """
    __tracebackhide__ = True
    if not isinstance(queue, TaskQueue):
        raise TypeError(f"expected a TaskQueue, got {queue!r}")
    dead = _dead(queue)
    before, paused = queue.metrics.snapshot(), queue.paused
    if paused:
        queue.resume(until if isinstance(until, int) else None)
    try:
        _wait(queue, before, until, timeout)
    finally:
        if paused:
            queue.pause()
    return _drained(queue, before, dead)


def _wait(queue: TaskQueue, before: MetricsSnapshot, until: Callable[[], object] | int | None, timeout: float) -> None:
    __tracebackhide__ = True
    end, given_up = time.monotonic() + timeout, float("inf")
    while not (idle := queue.wait_idle(min(STEP, max(end - time.monotonic(), 0.0)))) or until is not None:
        if until is not None and _reached(queue, before, until):
            return
        given_up = min(given_up, time.monotonic() + PATIENCE * callable(until)) if idle else float("inf")
        if time.monotonic() >= given_up:
            raise AssertionError(f"{_wanted(until)}, but nothing is due any more: {_told(queue, before)}")
        if time.monotonic() >= end:
            raise TimeoutError(f"{_wanted(until)}, not reached within {timeout:g} s: {_told(queue, before)}")
        if idle:
            time.sleep(STEP)


def _reached(queue: TaskQueue, before: MetricsSnapshot, until: Callable[[], object] | int) -> bool:
    return _drained(queue, before).attempts >= until if isinstance(until, int) else bool(until())


def _drained(queue: TaskQueue, before: MetricsSnapshot, dead: Collection[tuple[str, int]] | None = None) -> Drained:
    now = queue.metrics.snapshot()
    new = _dead(queue) if dead is not None and now.failed > before.failed else {}
    found = [record for place, record in new.items() if place not in (dead or ())]
    return Drained(
        succeeded=now.succeeded - before.succeeded,
        retried=now.retried - before.retried,
        waiting=queue.view().counts()[Status.QUEUED],
        _failed=now.failed - before.failed,
        _note_read=lambda: watch.seen(queue.path, found),
    )


def _dead(queue: TaskQueue) -> dict[tuple[str, int], TaskRecord]:
    """The tasks that have failed for good, by key and version, since one may be replayed and fail again."""
    with watch.aside():
        return {(record.idempotency_key, record.version): record for record in queue.view().records(Status.FAILED)}


def _wanted(until: object) -> str:
    if until is None:
        return "drain until nothing is due"
    if isinstance(until, int):
        return f"drain until {until} attempts have ended"
    return f"drain until {getattr(until, '__qualname__', until)} is true"


def _told(queue: TaskQueue, before: MetricsSnapshot) -> str:
    """What was done, and what is not, with the keys of the tasks that run."""
    done = _drained(queue, before)
    counts = f"{done.succeeded} succeeded, {done.failed} failed, {done.retried} retried, {done.waiting} waiting"
    running = [record.idempotency_key for record in queue.view().records(Status.RUNNING)]
    return f"{counts}, {len(running)} still running" + (f": {', '.join(running[:5])}" if running else "")

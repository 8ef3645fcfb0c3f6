"""The way in: is the key known? take a place, write the row, hand it to the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from taskqueue_core.deadline import Deadline
from taskqueue_core.errors import QueueFullError
from taskqueue_core.inflight import Call, Entry, InFlight, Phase, conflict, draft_of
from taskqueue_core.ledger import Draft, Inserted, Ledger
from taskqueue_core.metrics import Metrics
from taskqueue_core.places import Places
from taskqueue_core.settings import QueueSettings
from taskqueue_core.task import Task, TaskRecord, to_json


class Admission:
    """Brings submitted tasks into the ledger and the bounded queue. Knows no SQL and no threads."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        inflight: InFlight,
        places: Places,
        metrics: Metrics,
        settings: QueueSettings,
        enqueue: Callable[[Entry], None],
        wake_feeder: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._inflight = inflight
        self._places = places
        self._metrics = metrics
        self._settings = settings
        self._enqueue = enqueue
        self._wake_feeder = wake_feeder

    def admit(self, calls: Sequence[Call], timeout: float | None) -> None:
        """Admit the calls; those whose key stands for other work get a `conflict`. Raises QueueFullError."""
        self._ledger.refuse_after_fork()  # before any lock: the fork may have found it held
        deadline = Deadline(timeout)
        while calls:
            leading, following, attached = self._inflight.begin(calls)
            self._metrics.count("duplicates", attached)
            try:
                self._land(leading, deadline)
            finally:
                if self._inflight.abandon(leading):
                    self._wake_feeder()  # a row whose COMMIT failed or was interrupted may stand all the same
            self._follow(following, deadline)
            calls = following

    def _follow(self, calls: Sequence[Call], deadline: Deadline) -> None:
        """Wait for the threads that are just submitting the same keys."""
        for call in calls:
            if not self._inflight.wait_landed(call.draft.key, deadline):
                raise self._full(1)

    def _land(self, entries: Sequence[Entry], deadline: Deadline) -> None:
        """Take places and write rows. A known key needs no place; it is looked up when none is free."""
        if not entries:
            return
        if self._places.take_now(len(entries)):
            self._insert(entries, len(entries))
            return
        known = self._ledger.known([entry.draft.key for entry in entries])
        self._insert([entry for entry in entries if entry.draft.key in known], 0)
        new = [entry for entry in entries if entry.draft.key not in known]
        if self._settings.overflow == "reject":
            self._reject_or_insert(new)
        else:
            self._insert_as_places_come(new, deadline)

    def _reject_or_insert(self, new: Sequence[Entry]) -> None:
        if not self._places.take_now(len(new)):
            raise self._full(len(new))
        self._insert(new, len(new))

    def _insert_as_places_come(self, new: Sequence[Entry], deadline: Deadline) -> None:
        while new:
            taken = self._places.take(len(new), deadline)
            if not taken:
                raise self._full(len(new))
            self._insert(new[:taken], taken)
            new = new[taken:]

    def _insert(self, entries: Sequence[Entry], places: int) -> None:
        """Write the rows, durable on return. New tasks keep their places, known ones need none."""
        kept = 0
        try:
            rows = self._ledger.insert([entry.draft for entry in entries]) if entries else []
            for entry, row in zip(entries, rows, strict=True):
                kept += self._admitted(entry, row, has_place=kept < places)
        finally:
            if kept < places:
                self._places.give(places - kept)

    def _admitted(self, entry: Entry, row: Inserted, *, has_place: bool) -> bool:
        """Pass a new task on to the workers (True: it keeps its place), answer a known one."""
        if not row.created:
            self._answer(entry, row.record)
            return False
        self._metrics.enqueued()
        self._inflight.land(entry, row.record, Phase.QUEUED if has_place else Phase.WAITING)
        if has_place:
            self._enqueue(entry)
        else:  # its row was known a moment ago and has gone since: the feeder brings the new one in
            self._wake_feeder()
        return has_place

    def _answer(self, entry: Entry, record: TaskRecord) -> None:
        """The key has a row already: refuse other work, answer from a result, or attach to what waits."""
        refused = conflict(entry.draft, draft_of(record))
        if refused is not None:
            self._inflight.refuse(entry, refused)
            return
        self._metrics.count("duplicates")
        if record.finished:
            self._inflight.resolve(entry, record)
        else:
            self._inflight.land(entry, record, Phase.WAITING)
            self._wake_feeder()

    def _full(self, wanted: int) -> QueueFullError:
        self._metrics.count("rejected", wanted)
        size = self._settings.queue_size
        remedy = "use overflow='block'" if self._settings.overflow == "reject" else "wait longer"
        return QueueFullError(
            f"the queue has no place for {wanted} more task(s) (queue_size {size}): {remedy} or a larger queue_size"
        )


def draft(task: Task) -> Draft:
    """What the ledger stores of a task. Raises TypeError or ValueError when its params are no JSON."""
    if not isinstance(task, Task):
        raise TypeError(f"submit takes a Task, got {task!r}")
    if strange := [key for key in task.params if not isinstance(key, str)]:
        raise TypeError(f"params of {task.key!r} are no JSON object: the key {strange[0]!r} is no text")
    try:
        params = to_json(dict(task.params))
        params.encode()
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"params of {task.key!r} are no JSON object: {error}") from error
    return Draft(task.key, task.image_key, task.variant, params)

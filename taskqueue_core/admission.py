"""The way in: is the key known? take a place, write the row, hand it to the workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from taskqueue_core import clock
from taskqueue_core.arrows import Draft, Row, row_of
from taskqueue_core.deadline import Deadline
from taskqueue_core.entries import Call, Entry, Phase, conflict, draft_of
from taskqueue_core.errors import QueueFullError
from taskqueue_core.feeder import Feeder
from taskqueue_core.inflight import InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.metrics import Metrics
from taskqueue_core.places import Places
from taskqueue_core.settings import QueueSettings
from taskqueue_core.task import Task, TaskRecord, to_json
from taskqueue_core.workers import Workers

STACK = 100
"""Frames that a submit may need."""


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
        workers: Workers,
        feeder: Feeder,
    ) -> None:
        self._ledger = ledger
        self._inflight = inflight
        self._places = places
        self._metrics = metrics
        self._settings = settings
        self._workers = workers
        self._feeder = feeder

    def admit(self, calls: Sequence[Call], timeout: float | None) -> None:
        """Admit the calls; those whose key stands for other work get a `conflict`. Raises QueueFullError."""
        self._ledger.refuse_after_fork()  # before any lock: the fork may have found it held
        deadline = Deadline(timeout)
        while calls:
            leading, following, attached = self._inflight.begin(calls)
            self._metrics.count("duplicates", attached)
            try:
                self._land(leading, deadline)
            except BaseException:
                self._feeder.find(self._inflight.abandon(leading))  # if the COMMIT was interrupted, rows may stand
                raise
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
        """Write the rows, durable on return; `places` are held for them."""
        if not entries:
            return
        reserved = self._workers.reserve(places)
        for n, entry in enumerate(entries):
            entry.placed = n < places
            entry.reserved = n < reserved
        try:
            self._ledger.admit(entries, self._admitted)
        except BaseException:
            arriving = [entry for entry in entries if entry.phase is Phase.ARRIVING]
            self._places.give(sum(entry.placed for entry in arriving))
            self._workers.lost(sum(entry.reserved for entry in arriving))
            raise

    def _admitted(self, entries: Sequence[Entry], rows: Sequence[Row | TaskRecord]) -> None:
        """Called after the COMMIT, with the tasks of one submit or of many."""
        landings: dict[Phase, list[tuple[Entry, Row]]] = {}
        known = []
        for entry, row in zip(entries, rows, strict=True):
            if isinstance(row, Row):
                landings.setdefault(_phase(entry, row), []).append((entry, row))
            else:
                known.append((entry, row))
        for phase, landed in landings.items():
            self._pass_on(landed, phase)
        for entry, record in known:
            self._give_back(entry)
            self._answer(entry, record)

    def _pass_on(self, landings: Sequence[tuple[Entry, Row]], phase: Phase) -> None:
        """Pass new tasks on: to the workers, the bounded queue, or the feeder."""
        self._metrics.enqueued(len(landings))
        self._inflight.land(landings, phase, clock.now())
        entries = [entry for entry, _ in landings]
        if phase is Phase.CLAIMED:
            self._workers.ready(entries)
            return
        for entry in entries:
            self._give_back(entry, keeps_place=phase is Phase.QUEUED)
        if phase is Phase.QUEUED:
            self._workers.enqueue(entries)
        else:
            self._feeder.wake()

    def _give_back(self, entry: Entry, *, keeps_place: bool = False) -> None:
        """Give back what was held for a task and is not used."""
        if entry.reserved:
            self._workers.lost(1)
        if entry.placed and not keeps_place:
            self._places.give()

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
            self._inflight.land([(entry, row_of(record))], Phase.WAITING, record.run_at)
            self._feeder.find([record.idempotency_key])

    def _full(self, wanted: int) -> QueueFullError:
        self._metrics.count("rejected", wanted)
        size = self._settings.queue_size
        remedy = "use overflow='block'" if self._settings.overflow == "reject" else "allow more time"
        return QueueFullError(
            f"the queue has no place for {wanted} more task(s) (queue_size {size}): {remedy}, or a larger queue_size"
        )


def refuse_on_a_full_stack() -> None:
    """Here, rather than in the middle of a commit for everybody."""
    try:
        sys._getframe(sys.getrecursionlimit() - STACK)
    except ValueError:
        return
    raise RecursionError("the stack is too full for a submit")


def _phase(entry: Entry, row: Row) -> Phase:
    """Where a new task goes. Its second version is the claimed one; the row of a cancelled task has a later one."""
    if entry.reserved and row.version == 2:
        return Phase.CLAIMED
    return Phase.QUEUED if entry.placed else Phase.WAITING


def draft(task: Task) -> Draft:
    """What the ledger stores of a task. Raises TypeError or ValueError when its params are no JSON."""
    if not isinstance(task, Task):
        raise TypeError(f"submit takes a Task, got {task!r}")
    if not task.params:
        return Draft(task.key, task.image_key, task.variant, "{}")
    if strange := [key for key in task.params if not isinstance(key, str)]:
        raise TypeError(f"params of {task.key!r} are no JSON object: the key {strange[0]!r} is no text")
    try:
        params = to_json(dict(task.params))
        params.encode()
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"params of {task.key!r} are no JSON object: {error}") from error
    return Draft(task.key, task.image_key, task.variant, params)

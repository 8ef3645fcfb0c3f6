"""The tasks in this process's hands, and who waits for each: a duplicate finds the first one here."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import Enum

from taskqueue_core.deadline import Deadline
from taskqueue_core.errors import KeyConflictError, QueueClosedError, TaskFailedError
from taskqueue_core.ledger import Draft
from taskqueue_core.task import JSON, Status, TaskRecord, to_json


class Phase(Enum):
    """Where a task in hand is."""

    ARRIVING = "arriving"
    """A submit is looking for a place or writing the row; other submits of the key wait for the outcome."""
    WAITING = "waiting"
    """A row of the ledger only (it waits for a retry, or was recovered): the feeder's to bring in."""
    QUEUED = "queued"
    """It holds a place in the bounded queue."""
    RUNNING = "running"
    """A worker has it, or had it when it timed out and has not come back."""


class Call:
    """One submitted task: its draft, the future to fulfil if the caller wants one, and why it was refused."""

    __slots__ = ("draft", "future", "refused")

    def __init__(self, draft: Draft, future: Future[JSON] | None) -> None:
        self.draft = draft
        self.future = future
        self.refused: KeyConflictError | None = None


class Entry:
    """One task in hand. The lock of InFlight guards all fields."""

    __slots__ = ("arrivals", "back", "draft", "expired", "futures", "leader", "phase", "record", "submitted_at")

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.phase = Phase.ARRIVING
        self.record: TaskRecord | None = None
        self.leader = threading.get_ident()
        self.arrivals: list[Call] = []
        self.futures: list[Future[JSON]] = []
        self.submitted_at: float | None = None
        self.expired: TaskRecord | None = None
        self.back = False

    @property
    def row(self) -> TaskRecord:
        """The task's row; there is one from the end of its arrival on."""
        assert self.record is not None
        return self.record


class InFlight:
    """All tasks in hand, by idempotency key.

    Two submits of one key at once: the first registers an ARRIVING entry, the second waits until that has
    landed in the ledger, and attaches. An entry leaves only after its result was committed; a submit that
    comes later finds the result in the ledger. So there is no moment in which a duplicate finds neither.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything here
        self._landed = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)
        self._entries: dict[str, Entry] = {}
        self._retrying: set[int] = set()
        self._running: dict[int, Entry] = {}
        self._stuck: dict[int, str] = {}
        self._changes = 0

    def begin(self, calls: Sequence[Call]) -> tuple[list[Entry], list[Call], int]:
        """Register the calls: (entries that this thread must land, calls to be tried again, duplicates attached)."""
        leading: list[Entry] = []
        following: list[Call] = []
        attached = 0
        with self._lock:
            for call in calls:
                entry = self._entries.get(call.draft.key)
                if entry is None:
                    leading.append(self._register(call))
                elif entry.phase is Phase.ARRIVING and entry.leader != threading.get_ident():
                    following.append(call)
                else:
                    attached += _attach(entry, call)
        return leading, following, attached

    def wait_landed(self, key: str, deadline: Deadline) -> bool:
        """Wait until no other thread is landing this key; False when the deadline passed."""
        with self._lock:
            while (entry := self._entries.get(key)) is not None and entry.phase is Phase.ARRIVING:
                if deadline.passed:
                    return False
                self._landed.wait(deadline.remaining())
            return True

    def land(self, entry: Entry, record: TaskRecord, phase: Phase) -> None:
        """The row of an arriving task stands: everybody may attach now."""
        with self._lock:
            entry.record = record
            entry.phase = phase
            entry.arrivals = []
            self._landed.notify_all()

    def refuse(self, entry: Entry, reason: KeyConflictError) -> None:
        """The key stands for other work: those who arrived with this entry are told, the entry goes."""
        with self._lock:
            for call in entry.arrivals:
                call.refused = reason
            self._forget(entry)

    def abandon(self, entries: Sequence[Entry]) -> bool:
        """Forget those of the entries that did not land, so that another submit of the key may try."""
        with self._lock:
            lost = [entry for entry in entries if entry.phase is Phase.ARRIVING and entry.arrivals]
            for entry in lost:
                self._forget(entry)
            return bool(lost)

    def bring_in(self, record: TaskRecord) -> Entry | None:
        """Take up a row for the bounded queue; None when the task is in hand already."""
        with self._lock:
            entry = self._entries.get(record.idempotency_key)
            if entry is not None and entry.phase is not Phase.WAITING:
                return None
            if entry is None:
                entry = self._entries[record.idempotency_key] = Entry(draft_of(record))
            entry.phase = Phase.QUEUED
            entry.record = record
            self._retrying.discard(record.id)
            return entry

    def in_hand(self, key: str) -> bool:
        """Whether the task is here, and not the feeder's to bring in."""
        with self._lock:
            entry = self._entries.get(key)
            return entry is not None and entry.phase is not Phase.WAITING

    def running(self, entry: Entry, record: TaskRecord) -> None:
        """A worker has claimed the task."""
        with self._lock:
            entry.phase = Phase.RUNNING
            entry.record = record
            entry.expired = None
            entry.back = False
            self._running[record.id] = entry

    def put_back(self, entry: Entry, record: TaskRecord, *, retrying: bool) -> None:
        """The task is queued again in the ledger; the feeder brings it in when it is due."""
        with self._lock:
            entry.phase = Phase.WAITING
            entry.record = record
            self._running.pop(record.id, None)
            self._changed.notify_all()
            if retrying:
                self._retrying.add(record.id)

    def finish(self, entry: Entry, record: TaskRecord, cause: BaseException | None = None) -> None:
        """The task's result is committed: let everybody who waits for it have it."""
        self._leave(entry, record)
        deliver(entry.futures, record, cause)

    def resolve(self, entry: Entry, record: TaskRecord) -> None:
        """The task had finished before it was submitted (again): answer from the stored result."""
        self._leave(entry, record)
        deliver(entry.futures, record, None)

    def retrying(self) -> int:
        """How many tasks wait for a retry."""
        with self._lock:
            return len(self._retrying)

    def expire(self, entry: Entry, moved: TaskRecord) -> bool:
        """The attempt timed out and the ledger has moved its task on: True when its worker is back already.

        Of `expire` and `come_back` the second one to be called puts the entry back, so that a retry never runs
        beside the attempt that is stuck.
        """
        with self._lock:
            entry.expired = moved
            self._running.pop(moved.id, None)
            if not entry.back:
                self._stuck[moved.id] = moved.idempotency_key
            self._changed.notify_all()
            return entry.back

    def come_back(self, entry: Entry) -> TaskRecord | None:
        """The worker of a fenced attempt is back: the task as `expire` left it, None when that is still to come."""
        with self._lock:
            entry.back = True
            if entry.expired is not None:
                self._stuck.pop(entry.expired.id, None)
            return entry.expired

    def stuck(self) -> list[str]:
        """Keys of the timed-out tasks whose workers have not come back."""
        with self._lock:
            return list(self._stuck.values())

    def still_running(self) -> list[Entry]:
        """The tasks that workers have now."""
        with self._lock:
            return list(self._running.values())

    def empty(self) -> bool:
        """Whether no task is in hand."""
        with self._lock:
            return not self._entries

    def changes(self) -> int:
        """A number that grows whenever a task leaves; to be passed to `wait_empty`."""
        with self._lock:
            return self._changes

    def wait_empty(self, seen: int, deadline: Deadline) -> bool:
        """Wait until no task is in hand and one has left since `seen`; False when the deadline passed."""
        return self._wait(lambda: not self._entries and self._changes != seen, deadline)

    def wait_workers(self, deadline: Deadline) -> bool:
        """Wait until no worker has a task; False when the deadline passed."""
        return self._wait(lambda: not self._running, deadline)

    def close(self) -> None:
        """Fail the futures that are left with QueueClosedError."""
        with self._lock:
            entries, self._entries = list(self._entries.values()), {}
            self._landed.notify_all()
        for entry in entries:
            for future in entry.futures:
                _fulfil(future, error=QueueClosedError("the queue was closed before this task was done"))

    def _register(self, call: Call) -> Entry:
        entry = self._entries[call.draft.key] = Entry(call.draft)
        entry.submitted_at = time.perf_counter()
        _attach(entry, call)
        return entry

    def _leave(self, entry: Entry, record: TaskRecord) -> None:
        with self._lock:
            entry.record = record
            entry.arrivals = []
            self._running.pop(record.id, None)
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if self._entries.get(entry.draft.key) is entry:
            del self._entries[entry.draft.key]
        self._changes += 1
        self._landed.notify_all()
        self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], deadline: Deadline) -> bool:
        with self._lock:
            while not condition():
                if deadline.passed:
                    return False
                self._changed.wait(deadline.remaining())
            return True


def draft_of(record: TaskRecord) -> Draft:
    """The draft that a row was made from."""
    return Draft(record.idempotency_key, record.image_key, record.variant, to_json(record.params))


def conflict(draft: Draft, known: Draft) -> KeyConflictError | None:
    """The error for a key that stands for other work already, or None."""
    if draft == known:
        return None
    return KeyConflictError(
        f"idempotency key {draft.key!r} already stands for {known.image_key!r} {known.variant!r} with params "
        f"{known.params}, not for {draft.image_key!r} {draft.variant!r} with params {draft.params}"
    )


def deliver(futures: Sequence[Future[JSON]], record: TaskRecord, cause: BaseException | None) -> None:
    """Fulfil the futures of a finished task. Every caller gets a value of its own."""
    for index, future in enumerate(futures):
        if record.status is Status.SUCCESS:
            _fulfil(future, value=copy.deepcopy(record.value) if index else record.value)
        else:
            error = TaskFailedError(
                f"task {record.idempotency_key} failed after {record.attempt} attempt(s): {record.error}", record
            )
            error.__cause__ = cause
            _fulfil(future, error=error)


def _attach(entry: Entry, call: Call) -> int:
    call.refused = conflict(call.draft, entry.draft)
    if call.refused is not None:
        return 0
    if call.future is not None:
        entry.futures.append(call.future)
    if entry.phase is Phase.ARRIVING:
        entry.arrivals.append(call)
    return 1


def _fulfil(future: Future[JSON], *, value: JSON = None, error: BaseException | None = None) -> None:
    if not future.set_running_or_notify_cancel():
        return  # its caller has cancelled it
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)

"""The tasks in this process's hands, and who waits for each: a duplicate finds the first one here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import Enum
from functools import partial

from taskqueue_core.deadline import Deadline
from taskqueue_core.delivery import deliver, fulfil
from taskqueue_core.errors import KeyConflictError, LedgerError, QueueClosedError
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
        self._running: set[Entry] = set()
        self._stuck: set[Entry] = set()
        self._suspect: Entry | None = None  # of the tasks with a crash behind them, the one that is at work
        self._changes = 0  # grows whenever a task leaves
        self._drained: bool | None = None  # None while the queue is open

    def begin(self, calls: Sequence[Call]) -> tuple[list[Entry], list[Call], int]:
        """Register the calls: (entries that this thread must land, calls to be tried again, duplicates attached).

        To be tried again are those whose key is just arriving by another thread, or in this batch with other work:
        the row that comes out of it tells which of them it refuses.
        """
        leading: list[Entry] = []
        following: list[Call] = []
        attached = 0
        with self._lock:
            for call in calls:
                entry = self._entries.get(call.draft.key)
                if entry is None:
                    leading.append(self._register(call))
                elif entry.phase is Phase.ARRIVING and not _same_batch(entry, call):
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
            entry.arrivals = []
            self._forget(entry)

    def abandon(self, entries: Sequence[Entry]) -> bool:
        """Forget those of the entries that did not land, so that another submit of the key may try."""
        with self._lock:
            lost = [entry for entry in entries if entry.phase is Phase.ARRIVING and entry.arrivals]
            for entry in lost:
                self._forget(entry)
            return bool(lost)

    def bring_in(self, record: TaskRecord) -> Entry | None:
        """Take up a row for the bounded queue; None when it must wait, see `must_wait`."""
        with self._lock:
            if self._must_wait(record):
                return None
            entry = self._entries.get(record.idempotency_key)
            if entry is None:
                entry = self._entries[record.idempotency_key] = Entry(draft_of(record))
            entry.phase = Phase.QUEUED
            entry.record = record
            self._retrying.discard(record.id)
            if record.crashes:
                self._suspect = entry
            return entry

    def must_wait(self, record: TaskRecord) -> bool:
        """Whether the feeder has to pass a row by: the task is in hand, has moved on since the row was read, or
        has a crash behind it while another such task is at work. Those run one at a time until they succeed, so
        that a task which kills its process does not get its neighbours blamed each time.
        """
        with self._lock:
            return self._must_wait(record)

    def take(self, entry: Entry) -> None:
        """A worker has taken the task and is about to claim it."""
        with self._lock:
            entry.phase = Phase.RUNNING
            entry.expired = None
            entry.back = False
            self._running.add(entry)

    def claimed(self, entry: Entry, record: TaskRecord) -> None:
        """The worker has claimed the task."""
        with self._lock:
            entry.record = record
            self._changed.notify_all()

    def put_back(self, entry: Entry, record: TaskRecord, *, retrying: bool) -> None:
        """The task is queued again in the ledger; the feeder brings it in when it is due."""
        with self._lock:
            entry.phase = Phase.WAITING
            entry.record = record
            self._stop_work(entry)
            if retrying:
                self._retrying.add(record.id)

    def finish(self, entry: Entry, record: TaskRecord, cause: BaseException | None = None) -> None:
        """The task's result is committed: let everybody who waits for it have it."""
        deliver(self._leave(entry, record), record, cause)

    def resolve(self, entry: Entry, record: TaskRecord) -> None:
        """The task had finished before it was submitted (again): answer from the stored result."""
        deliver(self._leave(entry, record), record, None)

    def wait_left(self, record: TaskRecord) -> None:
        """Wait until the worker that finished this task has let it go, so that a replay does not attach to it."""
        with self._lock:
            while (entry := self._entries.get(record.idempotency_key)) is not None:
                if entry.phase is not Phase.RUNNING or entry.row.version >= record.version:
                    return
                self._landed.wait()

    def add_retrying(self, ids: Sequence[int]) -> None:
        """These rows wait for a retry since the ledger was open last."""
        with self._lock:
            self._retrying.update(ids)

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
            self._stop_work(entry)
            if not entry.back:
                self._stuck.add(entry)
            return entry.back

    def come_back(self, entry: Entry) -> TaskRecord | None:
        """The worker of a fenced attempt is back: the task as `expire` left it, None when that is still to come."""
        with self._lock:
            entry.back = True
            self._stuck.discard(entry)
            return entry.expired

    def stuck(self) -> list[str]:
        """Keys of the timed-out tasks whose workers have not come back."""
        with self._lock:
            return [entry.draft.key for entry in self._stuck]

    def still_running(self) -> list[Entry]:
        """The tasks that workers have now."""
        with self._lock:
            return sorted(self._running, key=lambda entry: entry.row.id)

    def wait_done(self, unfinished: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until no task is in hand and the ledger has none `unfinished`; False when the deadline passed.

        Raises QueueClosedError when the queue was closed and tasks are left. The ledger is asked again each time
        the last task in hand has left.
        """
        while True:
            with self._lock:
                seen, empty, drained = self._changes, not self._entries, self._drained
            if drained is not None:
                if drained:
                    return True
                raise QueueClosedError("the queue was closed before all tasks were done")
            try:
                if empty and not unfinished():
                    return True
            except LedgerError:
                if self._drained is None:
                    raise
            if not self._wait(partial(self._all_left, seen), deadline):
                return False

    def _all_left(self, seen: int) -> bool:
        return self._drained is not None or (not self._entries and self._changes != seen)

    def wait_workers(self, deadline: Deadline) -> bool:
        """Wait until no worker has a task; False when the deadline passed."""
        return self._wait(lambda: not self._running, deadline)

    def wait_claims(self, deadline: Deadline) -> bool:
        """Wait until every task that a worker has taken is claimed; False when the deadline passed."""
        return self._wait(lambda: all(entry.row.status is Status.RUNNING for entry in self._running), deadline)

    def wait_arrivals(self, deadline: Deadline) -> bool:
        """Wait until the submits that are at work now have landed or given up; False when the deadline passed."""
        with self._lock:
            arriving = [entry for entry in self._entries.values() if entry.phase is Phase.ARRIVING]
        return all(self.wait_landed(entry.draft.key, deadline) for entry in arriving)

    def close(self, *, drained: bool) -> None:
        """Fail the futures that are left with QueueClosedError, and end all waits."""
        with self._lock:
            futures = [future for entry in self._entries.values() for future in _take_futures(entry)]
            self._entries = {}
            self._drained = drained
            self._landed.notify_all()
            self._changed.notify_all()
        for future in futures:
            fulfil(future, error=QueueClosedError("the queue was closed before this task was done"))

    def _must_wait(self, record: TaskRecord) -> bool:
        entry = self._entries.get(record.idempotency_key)
        if entry is not None and (entry.phase is not Phase.WAITING or entry.row.version > record.version):
            return True
        return record.crashes > 0 and self._suspect is not None

    def _register(self, call: Call) -> Entry:
        entry = self._entries[call.draft.key] = Entry(call.draft)
        entry.submitted_at = time.perf_counter()
        _attach(entry, call)
        return entry

    def _leave(self, entry: Entry, record: TaskRecord) -> list[Future[JSON]]:
        with self._lock:
            entry.record = record
            entry.arrivals = []
            self._stop_work(entry)
            self._forget(entry)
            return _take_futures(entry)

    def _stop_work(self, entry: Entry) -> None:
        self._running.discard(entry)
        if self._suspect is entry:
            self._suspect = None
        self._changed.notify_all()

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
    if draft == known or _canonical(draft) == _canonical(known):
        return None
    return KeyConflictError(
        f"idempotency key {draft.key!r} already stands for {known.image_key!r} {known.variant!r} with params "
        f"{known.params}, not for {draft.image_key!r} {draft.variant!r} with params {draft.params}: "
        "give the other task an idempotency_key of its own"
    )


def _canonical(draft: Draft) -> Draft:
    """Its params as they read back from the ledger: {2: "a", 10: "b"} sorts otherwise once its keys are texts."""
    return draft._replace(params=to_json(json.loads(draft.params)))


def _same_batch(entry: Entry, call: Call) -> bool:
    return entry.leader == threading.get_ident() and entry.draft == call.draft


def _take_futures(entry: Entry) -> list[Future[JSON]]:
    """The futures of an entry, for the one who takes them: nobody else fulfils them."""
    futures, entry.futures = entry.futures, []
    return futures


def _attach(entry: Entry, call: Call) -> int:
    call.refused = conflict(call.draft, entry.draft)
    if call.refused is not None:
        return 0
    if call.future is not None:
        entry.futures.append(call.future)
    if entry.phase is Phase.ARRIVING:
        entry.arrivals.append(call)
    return 1

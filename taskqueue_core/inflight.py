"""The tasks in this process's hands, and who waits for each: a duplicate finds the first one here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from taskqueue_core.arrows import Row, row_of
from taskqueue_core.deadline import Deadline
from taskqueue_core.delivery import deliver, fulfil
from taskqueue_core.entries import PASSING, Call, Entry, Phase, arrival, attach, draft_of, same_batch
from taskqueue_core.errors import KeyConflictError, LedgerError, QueueClosedError
from taskqueue_core.futures import TaskFuture
from taskqueue_core.task import Status, TaskRecord, to_json


class InFlight:
    """All tasks in hand, by idempotency key.

    Two submits of one key at once: the first registers an ARRIVING entry, the second waits until that has
    landed in the ledger, and attaches. An entry leaves only after its result was committed; a submit that
    comes later finds the result in the ledger. So there is no moment in which a duplicate finds neither.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything here. Without it: `begin` adds entries, never changes or
        # removes one; `all_stuck`, `cancels` and the end of `finish` take one step.
        self._landed = threading.Condition(self._lock)  # an entry has landed or left
        self._changed = threading.Condition(self._lock)  # no task is claimed any more
        self._empty = threading.Condition(self._lock)  # no task is in hand any more
        self._entries: dict[str, Entry] = {}
        self._retrying: set[int] = set()
        self._working: set[Entry] = set()  # claimed, or being claimed, and not settled
        self._stuck: set[Entry] = set()
        self._delivering: set[object] = set()  # tokens of those who just give callers their results
        self._suspect: Entry | None = None  # of the tasks with a crash behind them, the one that is at work
        self.cancels = 0
        """How many tasks were cancelled."""
        self._emptied = 0  # grows whenever the last task leaves
        self._drained: bool | None = None  # None while the queue is open

    def begin(self, calls: Sequence[Call]) -> tuple[list[Entry], list[Call], int]:
        """Register the calls: (entries that this thread must land, calls to be tried again, duplicates attached).

        To be tried again are those whose key is just arriving by another thread, or in this batch with other work:
        the row that comes out of it tells which of them it refuses.

        A new key needs no lock: with one, 100 threads that submit take turns at it in every other run, which needs 1.6
        times the time for each task then.

        1. `setdefault` is one step: of two threads with a new key exactly one gets its own entry back.
        2. Entries leave, and change their phase, with the lock held only: what was known is looked at again there.
        3. `close` swaps the dict: an entry that still goes into the old one is of a submit that finds no open place.
        """
        leading: list[Entry] = []
        known: list[tuple[Call, Entry]] = []
        thread, now = threading.get_ident(), time.perf_counter()
        for call in calls:
            entry = arrival(call, thread, now)
            if self._entries.setdefault(call.draft.key, entry) is entry:
                leading.append(entry)
            else:
                known.append((call, entry))
        if not known:
            return leading, [], 0
        following: list[Call] = []
        attached = 0
        with self._lock:
            for call, new in known:
                entry = self._entries.setdefault(call.draft.key, new)
                if entry is new:
                    leading.append(entry)
                elif entry.phase in PASSING and not same_batch(entry, call):
                    following.append(call)
                else:
                    attached += attach(entry, call)
        return leading, following, attached

    def wait_landed(self, key: str, deadline: Deadline) -> bool:
        """Wait until no other thread is landing or cancelling this key; False when the deadline passed."""
        with self._lock:
            while (entry := self._entries.get(key)) is not None and entry.phase in PASSING:
                if deadline.passed:
                    return False
                self._landed.wait(deadline.remaining())
            return True

    def land(self, landings: Sequence[tuple[Entry, Row]], phase: Phase, now: float) -> None:
        """The rows of arriving tasks stand: everybody may attach now. `now` is the wall clock."""
        with self._lock:
            for entry, row in landings:
                entry.row = row
                entry.phase = phase
                entry.due_at = now
                entry.arrivals = []
            if phase is Phase.CLAIMED:
                self._working.update(entry for entry, _ in landings)
            self._landed.notify_all()

    def refuse(self, entry: Entry, reason: KeyConflictError) -> None:
        """The key stands for other work: those who arrived with this entry are told, the entry goes."""
        with self._lock:
            for call in entry.arrivals:
                call.refused = reason
            entry.arrivals = []
            self._forget(entry)

    def abandon(self, entries: Sequence[Entry]) -> list[str]:
        """Forget those of the entries that did not land, so that another submit of the key may try: their keys."""
        with self._lock:
            lost = [entry for entry in entries if entry.phase is Phase.ARRIVING and entry.arrivals]
            for entry in lost:
                self._forget(entry)
            return [entry.draft.key for entry in lost]

    def is_stray(self, record: TaskRecord) -> bool:
        """Whether this running task is in no worker's hands: then nobody in this process will ever settle it."""
        with self._lock:
            entry = self._entries.get(record.idempotency_key)
            return entry is None or entry.phase is Phase.WAITING

    def bring_in(self, record: TaskRecord, cancels: int) -> Entry | None:
        """Take up a row for the bounded queue; None when it must wait, see `must_wait`, or when tasks were cancelled
        since it was read: it may be one of them. `cancels` is how many there were before that.
        """
        with self._lock:
            if self.cancels != cancels or self._must_wait(record):
                return None
            new = Entry(draft_of(record))
            entry = self._entries.setdefault(record.idempotency_key, new)
            if entry is not new and entry.phase is not Phase.WAITING:
                return None  # a submit of the key came just now
            entry.phase = Phase.QUEUED
            entry.row = row_of(record)
            entry.due_at = record.run_at
            self._retrying.discard(record.id)
            if record.crashes:
                self._suspect = entry
            return entry

    def welcome(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        """Those of the rows, just read, that need not wait, see `must_wait`."""
        with self._lock:
            return [record for record in records if not self._must_wait(record)]

    def must_wait(self, record: TaskRecord) -> bool:
        """Whether the feeder has to pass a row by: the task is in hand, has moved on since the row was read, or
        has a crash behind it while another such task is at work. Those run one at a time until they succeed, so
        that a task which kills its process does not get its neighbours blamed each time.
        """
        with self._lock:
            return self._must_wait(record)

    def claiming(self, entries: Sequence[Entry]) -> list[Entry]:
        """These tasks are about to be claimed, and cannot be cancelled any more; without those that just were."""
        with self._lock:
            staying = [entry for entry in entries if entry.phase is Phase.QUEUED]
            for entry in staying:
                entry.phase = Phase.CLAIMED
                entry.expired = None
                entry.back = False
            self._working.update(staying)
            return staying

    def claimed(self, entries: Sequence[Entry]) -> None:
        """These tasks are claimed: their rows say so."""
        with self._lock:
            for entry in entries:
                id_, version, attempt, retries, crashes = entry.row
                entry.row = Row(id_, version + 1, attempt + 1, retries, crashes)

    def put_back(self, entry: Entry, row: Row | TaskRecord, *, retrying: bool) -> None:
        """The task is queued again in the ledger; the feeder brings it in when it is due."""
        with self._lock:
            entry.phase = Phase.WAITING
            entry.row = row_of(row)
            self._stop_work(entry)
            if retrying:
                self._retrying.add(row.id)

    def detach(self, future: TaskFuture) -> tuple[Entry, Phase] | None:
        """A caller gives up. When nobody wants the task any more and it can still be cancelled, it is LEAVING:
        the entry, for which whoever asked calls `leave` or `stay`, and the phase in which it was.
        """
        with self._lock:
            entry = self._entries.get(future.key)
            if entry is None or future not in entry.futures:
                return None
            entry.futures.remove(future)
            phase = entry.phase
            if entry.futures or entry.anonymous or phase not in (Phase.WAITING, Phase.QUEUED):
                return None
            entry.phase = Phase.LEAVING
            return entry, phase

    def stay(self, entry: Entry, future: TaskFuture) -> None:
        """The task was not cancelled after all; its row is queued, and the feeder brings it in."""
        with self._lock:
            entry.phase = Phase.WAITING
            entry.futures.append(future)
            self._landed.notify_all()

    def leave(self, entry: Entry) -> None:
        """The task is cancelled."""
        with self._lock:
            self.cancels += 1
            self._retrying.discard(entry.row.id)
            self._stop_work(entry)
            self._forget(entry)

    def finish(self, finished: Sequence[tuple[Entry, TaskRecord | None, str]], cause: BaseException | None) -> None:
        """The results of these tasks are committed: let everybody who waits for them have them.

        A failed task comes with its record, a success with its value as JSON text.
        """
        delivery = object()
        try:
            left = self._leave([entry for entry, _, _ in finished], delivery)
            for (_, record, value), futures in zip(finished, left, strict=True):
                if futures:
                    deliver(futures, value, record, cause)
        finally:
            self._delivering.discard(delivery)

    def resolve(self, entry: Entry, record: TaskRecord, cause: BaseException | None = None) -> None:
        """The same for one finished task, from its record."""
        failed = record.status is Status.FAILED
        self.finish([(entry, record if failed else None, to_json(record.value))], cause)

    def busy(self, *, waits_for_workers: bool) -> bool:
        """Whether a task is on its way in or out, or a worker has it; or holds a place, if that counts."""
        at_rest = (Phase.WAITING,) if waits_for_workers else (Phase.WAITING, Phase.QUEUED)
        with self._lock:
            return bool(self._delivering) or any(entry.phase not in at_rest for entry in self._all())

    def wait_change(self, deadline: Deadline) -> None:
        """Wait until the last task that is claimed was settled, or the deadline passes."""
        with self._lock:
            self._changed.wait(deadline.remaining())

    def wait_left(self, record: TaskRecord) -> None:
        """Wait until the worker that finished this task has let it go, so that a replay does not attach to it."""
        with self._lock:
            while (entry := self._entries.get(record.idempotency_key)) is not None:
                if entry.phase is not Phase.CLAIMED or entry.row.version >= record.version:
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

    def all_stuck(self, workers: int) -> bool:
        """Whether all workers are stuck in attempts that timed out; asked at each submit, so without the lock."""
        return len(self._stuck) >= workers

    def stuck(self) -> list[str]:
        """Keys of the timed-out tasks whose workers have not come back."""
        with self._lock:
            return [entry.draft.key for entry in self._stuck]

    def working(self) -> list[Entry]:
        """The tasks that are claimed and not settled."""
        with self._lock:
            return sorted(self._working, key=lambda entry: entry.row.id)

    def wait_done(self, unfinished: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until no task is in hand and the ledger has none `unfinished`; False when the deadline passed.

        Raises QueueClosedError when the queue was closed and tasks are left. The ledger is asked again each time
        the last task in hand has left.
        """
        while True:
            with self._lock:
                seen, empty, drained = self._emptied, not self._entries, self._drained
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
            if not self._wait(self._empty, partial(self._all_left, seen), deadline):
                return False

    def _all_left(self, seen: int) -> bool:
        return self._drained is not None or (not self._entries and self._emptied != seen)

    def wait_settled(self, deadline: Deadline) -> bool:
        """Wait until every task that was claimed is settled; False when the deadline passed."""
        return self._wait(self._changed, lambda: not self._working, deadline)

    def wait_arrivals(self, deadline: Deadline) -> bool:
        """Wait until the submits that are at work now have landed or given up; False when the deadline passed."""
        with self._lock:
            passing = [entry for entry in self._all() if entry.phase in PASSING]
        return all(self.wait_landed(entry.draft.key, deadline) for entry in passing)

    def close(self, *, drained: bool) -> None:
        """Fail the futures that are left with QueueClosedError, and end all waits."""
        with self._lock:
            futures = [future for entry in self._all() for future in _take_futures(entry)]
            self._entries = {}
            self._drained = drained
            self._landed.notify_all()
            self._changed.notify_all()
            self._empty.notify_all()
        _disappoint(futures)

    def fail_waiting(self) -> None:
        """Fail the futures of the tasks that no worker has, with QueueClosedError: there are no workers any more."""
        with self._lock:
            waiting = [entry for entry in self._all() if entry.phase in (Phase.WAITING, Phase.QUEUED)]
            futures = [future for entry in waiting for future in _take_futures(entry)]
        _disappoint(futures)

    def _must_wait(self, record: TaskRecord) -> bool:
        entry = self._entries.get(record.idempotency_key)
        if entry is not None and (entry.phase is not Phase.WAITING or entry.row.version > record.version):
            return True
        return record.crashes > 0 and self._suspect is not None

    def _leave(self, entries: Sequence[Entry], delivery: object) -> list[list[TaskFuture]]:
        with self._lock:
            self._delivering.add(delivery)
            for entry in entries:
                entry.arrivals = []
            self._stop_work(*entries)
            self._forget(*entries)
            return [_take_futures(entry) for entry in entries]

    def _all(self) -> list[Entry]:
        """All entries, copied in one step: `begin` adds some without the lock."""
        return list(self._entries.values())

    def _stop_work(self, *entries: Entry) -> None:
        self._working.difference_update(entries)
        if self._suspect in entries:
            self._suspect = None
        if not self._working:
            self._changed.notify_all()

    def _forget(self, *entries: Entry) -> None:
        for entry in entries:
            if self._entries.get(entry.draft.key) is entry:
                del self._entries[entry.draft.key]
        self._landed.notify_all()
        if not self._entries:
            self._emptied += 1
            self._empty.notify_all()

    def _wait(self, announced: threading.Condition, condition: Callable[[], bool], deadline: Deadline) -> bool:
        with self._lock:
            while not condition():
                if deadline.passed:
                    return False
                announced.wait(deadline.remaining())
            return True


def _disappoint(futures: Sequence[TaskFuture]) -> None:
    for future in futures:
        fulfil(future, error=QueueClosedError("the queue was closed before this task was done"))


def _take_futures(entry: Entry) -> list[TaskFuture]:
    """The futures of an entry, for the one who takes them: nobody else fulfils them."""
    futures, entry.futures = entry.futures, []
    return futures

"""The ledger: every task a row of one SQLite file, every change of state one guarded transaction.

    none -> queued               insert    T1
    queued -> running            claim     T2
    running -> success           succeed   T3
    running -> queued            retry     T4   release  T7   recover  T6
    running -> failed            fail      T5   recover  T6 (poison)
    queued -> failed             cancel    T8
    failed -> queued             replay    T9   insert   (of a cancelled task's key)
    success, failed -> none      purge     T10  purge_old

Each arrow is an UPDATE guarded by status and version; when it matches no row the caller is fenced: somebody
else has moved the task, and nothing is written. What each writes is in arrows.py, the schema and the reads are in
database.py, the transactions in writer.py, grouped by commits.py; no other module knows SQL. `insert`, `claim` and
`succeed` are for callers that wait for each; a queue uses `admit`, and the streams `claims` and `successes`.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from taskqueue_core import arrows, points, watch
from taskqueue_core.arrows import Draft, Drafted, Row, Success
from taskqueue_core.clock import now
from taskqueue_core.commits import GroupCommit
from taskqueue_core.database import (
    BUSY_MS,
    MEMORY,
    OLDEST_SQLITE,
    Connection,
    LedgerView,
    check_file,
    connect,
    create,
    file_sizes,
    has_wal,
    last_id,
    look_at,
    migrate,
    to_record,
    translated,
)
from taskqueue_core.errors import LedgerError
from taskqueue_core.ownership import OwnerLock
from taskqueue_core.publish import Publication
from taskqueue_core.task import Status, TaskRecord, to_json
from taskqueue_core.writer import Apply, Changes, Done, Transaction, Writer

_SYNCHRONOUS = {"power": 2, "process": 1}  # FULL and NORMAL

_OUTDATED = """
SELECT id, version FROM tasks WHERE status = 'success' AND (finished_at, id) < (:at, :id)
UNION ALL
SELECT tasks.id, version FROM dead_letters JOIN tasks ON tasks.id = task_id
WHERE reason = 'cancelled' AND replayed_at IS NULL AND status = 'failed' AND failed_at < :at
LIMIT :limit"""
_NTH_SUCCESS = """
SELECT finished_at, id FROM tasks WHERE status = 'success' ORDER BY finished_at DESC, id DESC LIMIT 1 OFFSET ?"""
_KNOWN = """
SELECT idempotency_key AS key FROM tasks WHERE idempotency_key IN (SELECT value FROM json_each(?)) AND NOT EXISTS (
    SELECT 1 FROM dead_letters WHERE task_id = tasks.id AND replayed_at IS NULL AND reason = 'cancelled')"""

PURGED_AT_ONCE = 500
"""Tasks that retention removes in one transaction."""
WAL_LIMIT = 4_000_000
"""Bytes of write-ahead log beyond which an idle queue empties it."""


class _Drafted(NamedTuple):
    draft: Draft
    reserved: bool = False


class _Claimable(NamedTuple):
    row: Row | TaskRecord


@dataclass(frozen=True, slots=True, eq=False)
class _Move:
    """One task's arrow, from a row to the state that is reached, and which of the named points it passes."""

    arrow: str
    row: Row | TaskRecord
    reached: Status
    apply: Callable[[Transaction], TaskRecord | None]

    def __call__(self, transaction: Transaction, _: Sequence[None], /) -> list[TaskRecord | None]:
        moved = self.apply(transaction)
        if moved is None and transaction.again:  # not fenced, perhaps: it may be this very change that is in its way
            moved = arrows.written(transaction, self.row, self.reached)
        return [moved]


class Ledger(LedgerView):
    """The owner's ledger: one writing connection, used by one thread at a time.

    `ledger` is a path or ":memory:"; `durability` "power" commits with synchronous=FULL, "process" with NORMAL.
    Raises LedgerInUseError when another queue owns the file, and LedgerError when it is no ledger or newer than
    this version knows; the file is left as it is then. `clock` gives seconds since the epoch.
    """

    def __init__(
        self, ledger: str | os.PathLike[str], *, durability: str = "power", clock: Callable[[], float] = now
    ) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise LedgerError(f"SQLite {sqlite3.sqlite_version} is too old: the ledger needs 3.35 or later")
        self.path = None if ledger == MEMORY else Path(ledger)
        self.file = None if self.path is None else self.path.resolve()  # for good: a later chdir does not move it
        self._clock = clock
        self._next_id = 1
        self._owner = self._own()
        self._lock = threading.Lock()  # guards the writing connection
        try:
            with translated(self.path):
                self._writer = self._open_writer()
                reader = self._writer if self.path is None else self._open_reader()
        except BaseException:
            self._disown()
            raise
        super().__init__(reader, self._lock if self.path is None else threading.Lock())
        self.writer = Writer(self._writer, self.path, self._lock, durable=_SYNCHRONOUS[durability])
        self.writer.at_once = self._at_once
        self.writer.arrows = self._arrows
        self.commits = GroupCommit(self.writer)
        # The queue says who is told of these, see Attempts.
        self.claims = self.commits.stream(arrows.claim, durable=False)
        self.successes = self.commits.stream(self._succeed, durable=True)

    def insert(self, drafts: Sequence[Draft]) -> list[Row | TaskRecord]:
        """T1, for all drafts in one transaction: durable when it returns.

        A Row for a new task; for a known key the record that stands under it. The key of a cancelled task is
        free: its row is queued again, with what the draft says.
        """
        return self.commits.write(self._insert, [_Drafted(draft) for draft in drafts])

    def admit(self, tasks: Sequence[Drafted], done: Done) -> None:
        """The same for whatever has a draft; `done(tasks, rows)` is called after the COMMIT and before this returns, by
        the leader for its own tasks, and once for those of all others.
        """
        self.commits.write(self._insert, list(tasks), done=done)

    def claim(self, row: Row | TaskRecord) -> TaskRecord | None:
        """T2: take a queued task for a worker. None: somebody else has moved it.

        It survives kill -9 when it returns, not a power cut: then the task is queued, as it should be. The workers
        post theirs to `claims`, whatever has a row; the answers are True, False (moved) or the error.
        """
        (moved,) = self.commits.write(arrows.claim, [_Claimable(row)], durable=False)
        return self._by_id(row.id) if moved else None

    def succeed(self, row: Row | TaskRecord, value: str, output: Publication | None = None) -> TaskRecord | None:
        """T3: record a success with its value (JSON text), and publish the output inside the transaction.

        The output is renamed only when the guard matched, so a fenced worker (None) never overwrites a good one.
        The workers post theirs to `successes`; the answers are True, False (fenced) or the error.
        """
        (moved,) = self.commits.write(self._succeed, [Success(row, value, output)])
        return self._by_id(row.id) if moved else None

    def retry(self, row: Row | TaskRecord, error: str, delay: float) -> TaskRecord | None:
        """T4: queue the task again, `delay` seconds from now. None: fenced."""
        changes = {
            "status": Status.QUEUED,
            "retries": row.retries + 1,
            "run_at": self._clock() + delay,
            "error": error[: arrows.ERROR_LENGTH],
        }
        return self._move(
            points.SETTLE, row, Status.QUEUED, lambda opened: arrows.move(opened, row, Status.RUNNING, changes)
        )

    def fail(self, row: Row | TaskRecord, error: str, reason: str) -> TaskRecord | None:
        """T5: fail the task for good, with its dead letter in the same transaction. None: fenced."""
        now = self._clock()
        return self._move(
            points.SETTLE,
            row,
            Status.FAILED,
            lambda opened: arrows.bury(opened, row, Status.RUNNING, error=error, reason=reason, now=now),
        )

    def recover(self) -> list[TaskRecord]:
        """T6: tasks whose owner died go back to queued; at the third crash they fail ("poison"). All that moved.

        Every running row found at open is such an orphan, because one process alone owns the ledger.
        """
        return self.commits.write(self._bring_back, self.records(Status.RUNNING))

    def release(self, row: Row | TaskRecord, delay: float = 0.0) -> TaskRecord | None:
        """T7: give a running task back, `retries` unchanged: the attempt does not count. None: fenced."""
        changes = {"status": Status.QUEUED, "run_at": self._clock() + delay}
        return self._move(
            points.RELEASE, row, Status.QUEUED, lambda opened: arrows.move(opened, row, Status.RUNNING, changes)
        )

    def cancel(self, row: Row | TaskRecord) -> TaskRecord | None:
        """T8: fail a queued task that nobody wants any more; its key is free again. None: it is not queued now."""
        now = self._clock()
        return self._move(
            points.CANCEL,
            row,
            Status.FAILED,
            lambda opened: arrows.bury(opened, row, Status.QUEUED, error="cancelled", reason="cancelled", now=now),
        )

    def replay(self, row: Row | TaskRecord) -> TaskRecord | None:
        """T9: queue a failed task again with a full budget; its dead letter is marked. None: it is not failed."""
        now = self._clock()
        return self._move(points.REPLAY, row, Status.QUEUED, lambda opened: arrows.unbury(opened, row, now))

    def purge(self, row: Row | TaskRecord) -> bool:
        """T10: remove a finished task and its dead letters; its key is free again. False: it is not as `row` says."""
        return bool(self.commits.write(arrows.purge, [row])[0])

    def purge_old(self, count: int | None, seconds: float | None) -> int:
        """T10 for the tasks that succeeded, or were cancelled, longer than `seconds` ago or before the last `count`
        successes: how many were removed, PURGED_AT_ONCE at most. Other dead letters keep their tasks.
        """
        limits = [(self._clock() - seconds, 0)] if seconds is not None else []
        if count is not None:
            limits += [(row["finished_at"], row["id"]) for row in self._read(_NTH_SUCCESS, count - 1)]
        if not limits:
            return 0
        at, row_id = max(limits)
        old = [Row(row["id"], row["version"]) for row in self._read(_OUTDATED, at=at, limit=PURGED_AT_ONCE, id=row_id)]
        return sum(self.commits.write(arrows.purge, old)) if old else 0

    def reached(self, row: Row | TaskRecord, status: Status) -> TaskRecord | None:
        """The record, if the row has moved on from `row` to that state in one step; None if not, or if it cannot be
        read. For whoever does not know whether his change was committed.
        """
        try:
            found = self._by_id(row.id)
        except (LedgerError, IndexError):
            return None
        return found if (found.version, found.status) == (row.version + 1, status) else None

    def known(self, keys: Sequence[str]) -> set[str]:
        """Which of these idempotency keys stand for a task; those of cancelled tasks are free."""
        return {row["key"] for row in self._read(_KNOWN, to_json(list(keys)))}

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the ledger as a SQLite file of its own; `path` is replaced in one step.

        Raises LedgerError, and then leaves `path` as it is: also for a ledger that is open, or was not closed.
        """
        self.refuse_after_fork()
        target = Path(path).resolve()
        unfinished = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        try:
            if self.file is not None and target.exists() and target.samefile(self.file):
                raise LedgerError(f"cannot export ledger {str(self.path)!r} onto itself")
            if has_wal(target):
                raise LedgerError(f"cannot export onto {str(target)!r}: a ledger that is open, or was not closed")
            create(unfinished)
            with translated(target), self._reader_lock, closing(connect(str(unfinished))) as copy:
                self._reader.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            unfinished.replace(target)
        except OSError as error:
            raise LedgerError(f"cannot export to {str(target)!r}: {error.strerror}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connections, then give the lock back. May be called twice. Does nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        self.commits.close()
        if self._reader is not self._writer:
            with self._reader_lock:
                self._reader.close()
        with self._lock:
            self._writer.close()
        self._disown()

    def tidy(self) -> None:
        """Empty the write-ahead log if it has grown; for when nothing else is to be done."""
        if self.file is not None and file_sizes(self.file)[1] > WAL_LIMIT:
            with translated(self.path), self._lock:
                self._writer.execute("PRAGMA busy_timeout = 0")  # a reader in its way is not waited for: not now, then
                try:
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    self._writer.execute(f"PRAGMA busy_timeout = {BUSY_MS}")

    def view(self) -> LedgerView:
        """Reads what is here, and can change nothing."""
        self.refuse_after_fork()
        return LedgerView(self._reader, self._reader_lock, lambda found: watch.seen(self.file, found))

    def _move(
        self,
        arrow: str,
        row: Row | TaskRecord,
        reached: Status,
        apply: Callable[[Transaction], TaskRecord | None],
    ) -> TaskRecord | None:
        moves: list[TaskRecord | None] = self.commits.write(_Move(arrow, row, reached, apply), [None])
        return moves[0]

    def _arrows(self, changes: Changes) -> list[str]:
        """The arrows of a transaction, for the named points."""
        names = {name for apply, items in changes.items() if items for name in self._names(apply, items)}
        return [name for name in points.ARROWS if name in names]

    def _names(self, apply: Apply, items: Sequence[Any]) -> tuple[str, ...]:
        if isinstance(apply, _Move):
            return (apply.arrow,)
        if apply == self._insert:
            return (points.SUBMIT, points.CLAIM) if any(task.reserved for task in items) else (points.SUBMIT,)
        settle, recover = (self._succeed, points.SETTLE), (self._bring_back, points.RECOVER)
        kinds = ((arrows.claim, points.CLAIM), settle, recover, (arrows.purge, points.PURGE))
        return tuple(name for kind, name in kinds if apply == kind)

    def _at_once(self, database: Connection, changes: Changes) -> Changes | None:
        """A whole transaction in one statement, if it has nothing but inserts, claims, and successes without output."""
        if not changes.keys() <= {self._insert, arrows.claim, self._succeed}:
            return None
        inserts, claims, successes = (changes.get(arrow, []) for arrow in (self._insert, arrows.claim, self._succeed))
        if any(success.output is not None for success in successes):
            return None
        first_id, self._next_id = self._next_id, self._next_id + len(inserts)
        rows = arrows.at_once(database, inserts, claims, successes, first_id, self._clock())
        return {self._insert: rows, arrows.claim: [True] * len(claims), self._succeed: [True] * len(successes)}

    def _insert(self, transaction: Transaction, tasks: Sequence[Drafted]) -> list[Row | TaskRecord]:
        first_id, self._next_id = self._next_id, self._next_id + len(tasks)
        return arrows.insert(transaction, tasks, first_id, self._clock())

    def _succeed(self, transaction: Transaction, successes: Sequence[Success]) -> list[bool]:
        return arrows.succeed(transaction, successes, self._clock())

    def _bring_back(self, transaction: Transaction, orphans: Sequence[TaskRecord]) -> list[TaskRecord]:
        now = self._clock()
        return [arrows.bring_back(transaction, orphan, now) for orphan in orphans]

    def _by_id(self, row_id: int) -> TaskRecord:
        return to_record(self._read("SELECT * FROM tasks WHERE id = ?", row_id)[0])

    def _own(self) -> OwnerLock | None:
        if self.path is None or self.file is None:
            return None
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return OwnerLock(self.path)
        except OSError as error:
            raise LedgerError(f"cannot open ledger {str(self.path)!r}: {error.strerror}") from error

    def _disown(self) -> None:
        if self._owner is not None:
            self._owner.close()

    def _open_writer(self) -> sqlite3.Connection:
        if self.file is not None and self.file.exists():
            look_at(self.file)
        elif self.file is not None:
            create(self.file)
        database = connect(MEMORY if self.file is None else str(self.file))
        try:
            check_file(database, self.path)
            if self.file is not None and database.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise LedgerError(f"ledger {str(self.path)!r} cannot have a write-ahead log on this file system")
            database.execute("PRAGMA cache_size = -8000")  # kB: the indexes of a million waiting tasks are large
            database.execute("PRAGMA fullfsync = 1")  # macOS: an fsync that reaches the disk; elsewhere ignored
            migrate(database)
            arrows.prepare(database)
            self._next_id = last_id(database) + 1
        except BaseException:
            database.close()
            raise
        return database

    def _open_reader(self) -> sqlite3.Connection:
        database = connect(str(self.file))
        database.execute("PRAGMA query_only = 1")
        return database

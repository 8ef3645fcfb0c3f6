"""The ledger: every task a row of one SQLite file, every change of state one guarded transaction.

    none -> queued               insert    T1
    queued -> running            claim     T2
    running -> success           succeed   T3
    running -> queued            retry     T4   release  T7   recover  T6
    running -> failed            fail      T5   recover  T6 (poison)
    failed -> queued             replay    T9

Each arrow is an UPDATE guarded by status and version; when it matches no row the caller is fenced: somebody
else has moved the task, and nothing is written. The schema and the reads are in database.py; no other module knows SQL.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from taskqueue_core.database import (
    MEMORY,
    OLDEST_SQLITE,
    LedgerView,
    check_file,
    connect,
    migrate,
    to_record,
    translated,
)
from taskqueue_core.errors import LedgerError
from taskqueue_core.ownership import OwnerLock
from taskqueue_core.publish import Publication
from taskqueue_core.task import Status, TaskRecord, to_json

MAX_CRASHES = 3
ERROR_LENGTH = 2000

_SYNCHRONOUS = {"power": 2, "process": 1}  # FULL and NORMAL

_INSERT = """
INSERT INTO tasks (idempotency_key, image_key, variant, params, status, created_at, run_at)
VALUES (?, ?, ?, ?, 'queued', ?, ?) ON CONFLICT (idempotency_key) DO NOTHING RETURNING *"""
_GUARD = "version = version + 1 WHERE id = :id AND version = :version AND status ="
_CLAIM = f"UPDATE tasks SET status = 'running', attempt = attempt + 1, {_GUARD} 'queued' RETURNING *"
_SUCCEED = f"""UPDATE tasks SET status = 'success', output_key = :output_key, size = :size, sha256 = :sha256,
value = :value, error = NULL, {_GUARD} 'running' RETURNING *"""
_RETRY = f"""UPDATE tasks SET status = 'queued', retries = retries + 1, run_at = :run_at, error = :error,
{_GUARD} 'running' RETURNING *"""
_RELEASE = f"UPDATE tasks SET status = 'queued', run_at = :run_at, {_GUARD} 'running' RETURNING *"
_FAIL = f"UPDATE tasks SET status = 'failed', error = :error, {_GUARD} 'running' RETURNING *"
_REPLAY = (
    f"UPDATE tasks SET status = 'queued', retries = 0, crashes = 0, run_at = :run_at, {_GUARD} 'failed' RETURNING *"
)
_CRASHED = f"UPDATE tasks SET status = :status, crashes = crashes + 1, run_at = :run_at, {_GUARD} 'running' RETURNING *"
_BURY = """
INSERT INTO dead_letters (task_id, idempotency_key, image_key, variant, params, reason, error, retries, attempt,
                          crashes, failed_at)
SELECT id, idempotency_key, image_key, variant, params, ?, ?, retries, attempt, crashes, ? FROM tasks WHERE id = ?"""


class Draft(NamedTuple):
    """A task to insert; `params` is canonical JSON text."""

    key: str
    image_key: str
    variant: str
    params: str


class Inserted(NamedTuple):
    """The row of a draft: a new one, or the one that has stood under this key before."""

    record: TaskRecord
    created: bool


class Ledger(LedgerView):
    """The owner's ledger: one writing connection, used by one thread at a time.

    `ledger` is a path or ":memory:"; `durability` "power" commits with synchronous=FULL, "process" with NORMAL.
    Raises LedgerInUseError when another queue owns the file, and LedgerError when it is no ledger or newer than
    this version knows; the file is left as it is then. `clock` gives seconds since the epoch.
    """

    def __init__(
        self, ledger: str | os.PathLike[str], *, durability: str = "power", clock: Callable[[], float] = time.time
    ) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise LedgerError(f"SQLite {sqlite3.sqlite_version} is too old: the ledger needs 3.35 or later")
        self.path = None if ledger == MEMORY else Path(ledger)
        self._clock = clock
        self._pid = os.getpid()
        self._owner = self._own()
        self._lock = threading.Lock()  # guards the writing connection
        try:
            with translated(self.path):
                self._writer = self._open_writer(durability)
                reader = self._writer if self.path is None else self._open_reader()
        except BaseException:
            self._disown()
            raise
        super().__init__(reader, self._lock if self.path is None else threading.Lock())

    def insert(self, drafts: Sequence[Draft]) -> list[Inserted]:
        """T1, for all drafts in one transaction: durable when it returns. A known key returns its row as it stands."""
        now = self._clock()
        with self._transaction() as database:
            return [_insert(database, draft, now) for draft in drafts]

    def claim(self, record: TaskRecord) -> TaskRecord | None:
        """T2: take a queued task for a worker. None: somebody else has moved it."""
        with self._transaction() as database:
            return _move(database, _CLAIM, record)

    def succeed(self, record: TaskRecord, value: str, output: Publication | None = None) -> TaskRecord | None:
        """T3: record a success with its value (JSON text), and publish the output inside the transaction.

        The output is renamed only when the guard matched, so a fenced worker (None) never overwrites a good one.
        """
        changes = {
            "value": value,
            "output_key": output and output.output_key,
            "size": output and output.size,
            "sha256": output and output.sha256,
        }
        with self._transaction() as database:
            moved = _move(database, _SUCCEED, record, **changes)
            if moved is not None and output is not None:
                output.publish()
            return moved

    def retry(self, record: TaskRecord, error: str, delay: float) -> TaskRecord | None:
        """T4: queue the task again, `delay` seconds from now. None: fenced."""
        with self._transaction() as database:
            return _move(database, _RETRY, record, error=error[:ERROR_LENGTH], run_at=self._clock() + delay)

    def fail(self, record: TaskRecord, error: str, reason: str) -> TaskRecord | None:
        """T5: fail the task for good, with its dead letter in the same transaction. None: fenced."""
        error = error[:ERROR_LENGTH]
        with self._transaction() as database:
            moved = _move(database, _FAIL, record, error=error)
            if moved is not None:
                database.execute(_BURY, (reason, error, self._clock(), moved.id))
            return moved

    def recover(self) -> list[TaskRecord]:
        """T6: tasks whose owner died go back to queued; at the third crash they fail ("poison"). All that moved.

        Every running row found at open is such an orphan, because one process alone owns the ledger.
        """
        with self._transaction() as database:
            orphans = database.execute("SELECT * FROM tasks WHERE status = 'running' ORDER BY id").fetchall()
            return [self._bring_back(database, to_record(row)) for row in orphans]

    def release(self, record: TaskRecord, delay: float = 0.0) -> TaskRecord | None:
        """T7: give a running task back, `retries` unchanged: the attempt does not count. None: fenced."""
        with self._transaction() as database:
            return _move(database, _RELEASE, record, run_at=self._clock() + delay)

    def replay(self, record: TaskRecord) -> TaskRecord | None:
        """T9: queue a failed task again with a full budget; its dead letter is marked. None: it is not failed."""
        now = self._clock()
        with self._transaction() as database:
            moved = _move(database, _REPLAY, record, run_at=now)
            if moved is not None:
                database.execute(
                    "UPDATE dead_letters SET replayed_at = ? WHERE task_id = ? AND replayed_at IS NULL", (now, moved.id)
                )
            return moved

    def known(self, keys: Sequence[str]) -> set[str]:
        """Which of these idempotency keys have a row."""
        rows = self._read(
            "SELECT idempotency_key AS key FROM tasks WHERE idempotency_key IN (SELECT value FROM json_each(?))",
            to_json(list(keys)),
        )
        return {row["key"] for row in rows}

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the ledger as a SQLite file of its own; `path` is replaced in one step."""
        target = Path(path).resolve()
        if self.path is not None and target == self.path.resolve():
            raise LedgerError(f"cannot export ledger {str(self.path)!r} onto itself")
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with translated(target), self._reader_lock:
                copy = sqlite3.connect(unfinished, isolation_level=None)
                try:
                    self._reader.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")
                finally:
                    copy.close()
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connections, then give the lock back. May be called twice."""
        if self._reader is not self._writer:
            with self._reader_lock:
                self._reader.close()
        with self._lock:
            self._writer.close()
        self._disown()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One BEGIN IMMEDIATE ... COMMIT of the writing connection; whatever goes wrong, nothing of it stays."""
        if os.getpid() != self._pid:
            raise LedgerError("a ledger cannot be used after a fork: open a queue of its own in the child process")
        with translated(self.path), self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _bring_back(self, database: sqlite3.Connection, orphan: TaskRecord) -> TaskRecord:
        poison = orphan.crashes + 1 >= MAX_CRASHES
        status = Status.FAILED if poison else Status.QUEUED
        moved = _move(database, _CRASHED, orphan, status=status, run_at=self._clock())
        if moved is None:
            raise LedgerError(f"task {orphan.id} changed during recovery: the ledger has a second writer")
        if poison:
            error = f"the process died {moved.crashes} times while this task was running"
            database.execute("UPDATE tasks SET error = ? WHERE id = ?", (error, moved.id))
            database.execute(_BURY, ("poison", error, self._clock(), moved.id))
        return moved

    def _own(self) -> OwnerLock | None:
        if self.path is None:
            return None
        try:
            self.path.resolve().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return OwnerLock(self.path)
        except OSError as error:
            raise LedgerError(f"cannot open ledger {str(self.path)!r}: {error.strerror}") from error

    def _disown(self) -> None:
        if self._owner is not None:
            self._owner.close()

    def _open_writer(self, durability: str) -> sqlite3.Connection:
        if self.path is not None and not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        database = connect(MEMORY if self.path is None else str(self.path.resolve()))
        try:
            check_file(database, self.path)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
            database.execute("PRAGMA fullfsync = 1")  # macOS: an fsync that reaches the disk; elsewhere ignored
            migrate(database)
        except BaseException:
            database.close()
            raise
        return database

    def _open_reader(self) -> sqlite3.Connection:
        assert self.path is not None
        database = connect(str(self.path.resolve()))
        database.execute("PRAGMA query_only = 1")
        return database


def _insert(database: sqlite3.Connection, draft: Draft, now: float) -> Inserted:
    new = database.execute(_INSERT, (*draft, now, now)).fetchall()
    rows = new or database.execute("SELECT * FROM tasks WHERE idempotency_key = ?", (draft.key,)).fetchall()
    return Inserted(to_record(rows[0]), bool(new))


def _move(database: sqlite3.Connection, arrow: str, record: TaskRecord, **changes: object) -> TaskRecord | None:
    """Follow one arrow; None when the guard matched no row."""
    rows = database.execute(arrow, {"id": record.id, "version": record.version, **changes}).fetchall()
    return to_record(rows[0]) if rows else None

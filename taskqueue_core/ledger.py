"""The ledger: every task a row of one SQLite file, every change of state one guarded transaction.

    none -> queued               insert    T1
    queued -> running            claim     T2
    running -> success           succeed   T3
    running -> queued            retry     T4   release  T7   recover  T6
    running -> failed            fail      T5   recover  T6 (poison)
    failed -> queued             replay    T9

Each arrow is an UPDATE guarded by status and version; when it matches no row the caller is fenced: somebody
else has moved the task, and nothing is written. The schema and the reads are in
database.py, the transactions in commits.py; no other module knows SQL.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from taskqueue_core.commits import GroupCommit, Transaction
from taskqueue_core.database import (
    MEMORY,
    OLDEST_SQLITE,
    LedgerView,
    check_file,
    connect,
    create,
    has_wal,
    look_at,
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

_QUEUED, _RUNNING, _FAILED = Status.QUEUED, Status.RUNNING, Status.FAILED

_SYNCHRONOUS = {"power": 2, "process": 1}  # FULL and NORMAL

_INSERT = """
INSERT INTO tasks (idempotency_key, image_key, variant, params, status, created_at, run_at)
VALUES (?, ?, ?, ?, 'queued', ?, ?) ON CONFLICT (idempotency_key) DO NOTHING"""
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
        self._file = None if self.path is None else self.path.resolve()  # for good: a later chdir does not move it
        self._clock = clock
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
        self._commits = GroupCommit(self._writer, self.path, self._lock, durable=_SYNCHRONOUS[durability])

    def insert(self, drafts: Sequence[Draft]) -> list[Inserted]:
        """T1, for all drafts in one transaction: durable when it returns. A known key returns its row as it stands."""
        now = self._clock()
        return self._commits.write(lambda transaction: [_insert(transaction, draft, now) for draft in drafts])

    def claim(self, record: TaskRecord) -> TaskRecord | None:
        """T2: take a queued task for a worker. None: somebody else has moved it.

        It survives kill -9 when it returns, not a power cut: then the task is queued, as it should be.
        """
        changes = {"status": Status.RUNNING, "attempt": record.attempt + 1}
        return self._commits.write(lambda transaction: _move(transaction, record, _QUEUED, changes), durable=False)

    def succeed(self, record: TaskRecord, value: str, output: Publication | None = None) -> TaskRecord | None:
        """T3: record a success with its value (JSON text), and publish the output inside the transaction.

        The output is renamed only when the guard matched, so a fenced worker (None) never overwrites a good one.
        """
        changes: dict[str, object] = {"status": Status.SUCCESS, "value": value, "error": None}
        if output is not None:
            changes |= {"output_key": output.output_key, "size": output.size, "sha256": output.sha256}

        def apply(transaction: Transaction) -> TaskRecord | None:
            moved = _move(transaction, record, _RUNNING, changes)
            if moved is not None and output is not None:
                output.publish()
                if output.durable:
                    transaction.folders.add(output.temp_path.parent)
            return moved

        return self._commits.write(apply)

    def retry(self, record: TaskRecord, error: str, delay: float) -> TaskRecord | None:
        """T4: queue the task again, `delay` seconds from now. None: fenced."""
        changes = {
            "status": Status.QUEUED,
            "retries": record.retries + 1,
            "run_at": self._clock() + delay,
            "error": error[:ERROR_LENGTH],
        }
        return self._commits.write(lambda transaction: _move(transaction, record, _RUNNING, changes))

    def fail(self, record: TaskRecord, error: str, reason: str) -> TaskRecord | None:
        """T5: fail the task for good, with its dead letter in the same transaction. None: fenced."""
        return self._commits.write(lambda transaction: self._fail(transaction, record, error, reason))

    def recover(self) -> list[TaskRecord]:
        """T6: tasks whose owner died go back to queued; at the third crash they fail ("poison"). All that moved.

        Every running row found at open is such an orphan, because one process alone owns the ledger.
        """
        orphans = self.records(Status.RUNNING)
        return self._commits.write(lambda transaction: [self._bring_back(transaction, orphan) for orphan in orphans])

    def release(self, record: TaskRecord, delay: float = 0.0) -> TaskRecord | None:
        """T7: give a running task back, `retries` unchanged: the attempt does not count. None: fenced."""
        changes = {"status": Status.QUEUED, "run_at": self._clock() + delay}
        return self._commits.write(lambda transaction: _move(transaction, record, _RUNNING, changes))

    def replay(self, record: TaskRecord) -> TaskRecord | None:
        """T9: queue a failed task again with a full budget; its dead letter is marked. None: it is not failed."""
        now = self._clock()
        changes = {"status": Status.QUEUED, "retries": 0, "crashes": 0, "run_at": now}

        def apply(transaction: Transaction) -> TaskRecord | None:
            moved = _move(transaction, record, _FAILED, changes)
            if moved is not None:
                marked = "UPDATE dead_letters SET replayed_at = ? WHERE task_id = ? AND replayed_at IS NULL"
                transaction.database.execute(marked, (now, moved.id))
            return moved

        return self._commits.write(apply)

    def known(self, keys: Sequence[str]) -> set[str]:
        """Which of these idempotency keys have a row."""
        rows = self._read(
            "SELECT idempotency_key AS key FROM tasks WHERE idempotency_key IN (SELECT value FROM json_each(?))",
            to_json(list(keys)),
        )
        return {row["key"] for row in rows}

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the ledger as a SQLite file of its own; `path` is replaced in one step.

        Raises LedgerError, and then leaves `path` as it is: also for a ledger that is open, or was not closed.
        """
        self.refuse_after_fork()
        target = Path(path).resolve()
        unfinished = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        try:
            if self._file is not None and target.exists() and target.samefile(self._file):
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
        if self._reader is not self._writer:
            with self._reader_lock:
                self._reader.close()
        with self._lock:
            self._writer.close()
        self._disown()

    def _fail(
        self, transaction: Transaction, record: TaskRecord, error: str, reason: str, *, crashes: int | None = None
    ) -> TaskRecord | None:
        error = error[:ERROR_LENGTH]
        changes = {"status": Status.FAILED, "error": error, "crashes": record.crashes if crashes is None else crashes}
        moved = _move(transaction, record, _RUNNING, changes)
        if moved is not None:
            transaction.database.execute(_BURY, (reason, error, self._clock(), moved.id))
        return moved

    def _bring_back(self, transaction: Transaction, orphan: TaskRecord) -> TaskRecord:
        crashes = orphan.crashes + 1
        if crashes >= MAX_CRASHES:
            error = f"the process died {crashes} times while this task was running"
            moved = self._fail(transaction, orphan, error, "poison", crashes=crashes)
        else:
            changes = {"status": Status.QUEUED, "crashes": crashes, "run_at": self._clock()}
            moved = _move(transaction, orphan, _RUNNING, changes)
        if moved is None:
            raise LedgerError(f"task {orphan.id} changed during recovery: the ledger has a second writer")
        return moved

    def _own(self) -> OwnerLock | None:
        if self.path is None or self._file is None:
            return None
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return OwnerLock(self.path)
        except OSError as error:
            raise LedgerError(f"cannot open ledger {str(self.path)!r}: {error.strerror}") from error

    def _disown(self) -> None:
        if self._owner is not None:
            self._owner.close()

    def _open_writer(self) -> sqlite3.Connection:
        if self._file is not None and self._file.exists():
            look_at(self._file)
        elif self._file is not None:
            create(self._file)
        database = connect(MEMORY if self._file is None else str(self._file))
        try:
            check_file(database, self.path)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA fullfsync = 1")  # macOS: an fsync that reaches the disk; elsewhere ignored
            migrate(database)
        except BaseException:
            database.close()
            raise
        return database

    def _open_reader(self) -> sqlite3.Connection:
        database = connect(str(self._file))
        database.execute("PRAGMA query_only = 1")
        return database


def _insert(transaction: Transaction, draft: Draft, now: float) -> Inserted:
    cursor = transaction.database.execute(_INSERT, (*draft, now, now))
    if cursor.rowcount == 1 and cursor.lastrowid is not None:
        return Inserted(_new_record(cursor.lastrowid, draft, now), created=True)
    find = "SELECT * FROM tasks WHERE idempotency_key = ?"
    rows = transaction.database.execute(find, (draft.key,)).fetchall()
    return Inserted(to_record(rows[0]), created=False)


def _new_record(row_id: int, draft: Draft, now: float) -> TaskRecord:
    """The row that `_INSERT` has just written; reading it back would cost a second statement."""
    return TaskRecord(
        id=row_id,
        idempotency_key=draft.key,
        image_key=draft.image_key,
        variant=draft.variant,
        params=json.loads(draft.params),
        status=Status.QUEUED,
        retries=0,
        attempt=0,
        crashes=0,
        created_at=now,
        run_at=now,
        output_key=None,
        size=None,
        sha256=None,
        value=None,
        error=None,
        version=1,
    )


def _move(
    transaction: Transaction, record: TaskRecord, expected: Status, changes: Mapping[str, object]
) -> TaskRecord | None:
    """Follow one arrow: write the changes if the row is as `record` says; None when the guard matched no row."""
    assignments = ", ".join(f"{column} = :{column}" for column in changes)
    guard = "id = :guard_id AND version = :guard_version AND status = :guard_status"
    cursor = transaction.database.execute(
        f"UPDATE tasks SET {assignments}, version = version + 1 WHERE {guard}",
        {**changes, "guard_id": record.id, "guard_version": record.version, "guard_status": expected},
    )
    if cursor.rowcount != 1:
        return None
    if "value" in changes:
        changes = {**changes, "value": json.loads(str(changes["value"]))}
    return replace(record, version=record.version + 1, **changes)  # type: ignore[arg-type]

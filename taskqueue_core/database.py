"""The ledger's file: its schema, how it is opened and checked, and how it is read."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskqueue_core.errors import LedgerError
from taskqueue_core.task import Status, TaskRecord

Connection = sqlite3.Connection

SQLITE_VERSION = sqlite3.sqlite_version

MEMORY = ":memory:"
SCHEMA_VERSION = 1
OLDEST_SQLITE = (3, 35, 0)  # RETURNING

_APPLICATION_ID = 0x7461736B  # "task": marks the file as ours
_SCHEMA = """
CREATE TABLE tasks (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice, so that (id, version) fences for ever
    idempotency_key TEXT NOT NULL UNIQUE,               -- over all states: a duplicate never runs beside the first
    image_key       TEXT NOT NULL,
    variant         TEXT NOT NULL,
    params          TEXT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('queued', 'running', 'success', 'failed')),
    retries         INTEGER NOT NULL DEFAULT 0,
    attempt         INTEGER NOT NULL DEFAULT 0,
    crashes         INTEGER NOT NULL DEFAULT 0,
    created_at      REAL NOT NULL,
    run_at          REAL NOT NULL,
    output_key      TEXT,
    size            INTEGER,
    sha256          TEXT,
    value           TEXT,
    error           TEXT,
    version         INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX tasks_due ON tasks (run_at, id) WHERE status = 'queued';
CREATE INDEX tasks_running ON tasks (id) WHERE status = 'running';
CREATE INDEX tasks_failed ON tasks (id) WHERE status = 'failed';
CREATE TABLE dead_letters (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id         INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL,
    image_key       TEXT NOT NULL,
    variant         TEXT NOT NULL,
    params          TEXT NOT NULL,
    reason          TEXT NOT NULL,
    error           TEXT NOT NULL,
    retries         INTEGER NOT NULL,
    attempt         INTEGER NOT NULL,
    crashes         INTEGER NOT NULL,
    failed_at       REAL NOT NULL,
    replayed_at     REAL
);
CREATE INDEX dead_letters_task ON dead_letters (task_id);
"""

_DUE = """
SELECT * FROM tasks WHERE status = 'queued' AND run_at <= ? AND (run_at, id) > (?, ?) ORDER BY run_at, id LIMIT ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A task that failed for good, as it was then. `reason` is "permanent", "exhausted" or "poison".

    Times are seconds since the epoch; `replayed_at` is None until the task is brought back.
    """

    id: int
    task_id: int
    idempotency_key: str
    image_key: str
    variant: str
    params: dict[str, Any]
    reason: str
    error: str
    retries: int
    attempt: int
    crashes: int
    failed_at: float
    replayed_at: float | None


class LedgerView:
    """Reads a ledger. Opened with `inspect` it changes nothing and works beside a running owner."""

    def __init__(self, database: sqlite3.Connection, lock: threading.Lock) -> None:
        self._reader = database
        self._reader_lock = lock  # guards the reading connection
        self._pid = os.getpid()

    @staticmethod
    @contextmanager
    def inspect(path: str | os.PathLike[str]) -> Iterator[LedgerView]:
        """Open a ledger for reading only. Raises LedgerError when there is none or it is no ledger."""
        file = Path(path)
        if not file.is_file():
            raise LedgerError(f"there is no ledger at {os.fspath(path)!r}")
        with translated(file):
            database = connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
            try:
                check_file(database, file, may_be_new=False)
                yield LedgerView(database, threading.Lock())
            finally:
                database.close()

    def get(self, key: str) -> TaskRecord | None:
        """The task of an idempotency key, or None."""
        rows = self._read("SELECT * FROM tasks WHERE idempotency_key = ?", key)
        return to_record(rows[0]) if rows else None

    def records(self, status: Status | None = None) -> list[TaskRecord]:
        """All tasks, or those in one state, in the order of their ids."""
        if status is None:
            rows = self._read("SELECT * FROM tasks ORDER BY id")
        else:
            rows = self._read("SELECT * FROM tasks WHERE status = ? ORDER BY id", status)
        return [to_record(row) for row in rows]

    def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, replayed ones too, oldest first."""
        return [_dead_letter(row) for row in self._read("SELECT * FROM dead_letters ORDER BY id")]

    def counts(self) -> dict[Status, int]:
        """How many tasks are in each state."""
        found = {
            row["status"]: row["n"] for row in self._read("SELECT status, count(*) AS n FROM tasks GROUP BY status")
        }
        return {status: found.get(status, 0) for status in Status}

    def due(self, now: float, after: tuple[float, int], limit: int) -> list[TaskRecord]:
        """Up to `limit` queued tasks with run_at <= now, in the order of (run_at, id), beginning behind `after`."""
        return [to_record(row) for row in self._read(_DUE, now, *after, limit)]

    def next_run_at(self, now: float) -> float | None:
        """When the next retry-waiting task becomes due, in seconds since the epoch; None when none waits."""
        rows = self._read("SELECT min(run_at) AS at FROM tasks WHERE status = 'queued' AND run_at > ?", now)
        at: float | None = rows[0]["at"]
        return at

    def retry_waiting(self) -> list[int]:
        """The ids of the tasks that wait for a retry, due or not."""
        return [row["id"] for row in self._read("SELECT id FROM tasks WHERE status = 'queued' AND retries > 0")]

    def oldest_queued(self) -> float | None:
        """When the oldest queued task was created, in seconds since the epoch; None when none is queued."""
        at: float | None = self._read("SELECT min(created_at) AS at FROM tasks WHERE status = 'queued'")[0]["at"]
        return at

    def unfinished(self) -> bool:
        """Whether any task is queued or running."""
        sql = (
            "SELECT 1 FROM tasks WHERE status = 'queued' UNION ALL SELECT 1 FROM tasks WHERE status = 'running' LIMIT 1"
        )
        return bool(self._read(sql))

    def _read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        self.refuse_after_fork()
        with translated(None), self._reader_lock:
            return self._reader.execute(sql, values).fetchall()

    def refuse_after_fork(self) -> None:
        """SQLite does not survive a fork: a connection used in the child can corrupt the parent's file."""
        if os.getpid() != self._pid:
            raise LedgerError("a ledger cannot be used after a fork: open a queue of its own in the child process")


def file_sizes(path: Path) -> tuple[int, int]:
    """Bytes of the ledger and of its write-ahead log."""
    wal = path.with_name(path.name + "-wal")
    return path.stat().st_size, wal.stat().st_size if wal.exists() else 0


def connect(target: str, *, uri: bool = False) -> sqlite3.Connection:
    """Open a connection without implicit transactions, its rows readable by name."""
    # Every use is under a lock of the ledger, so the connection may meet several threads.
    database = sqlite3.connect(target, isolation_level=None, check_same_thread=False, timeout=5.0, uri=uri)
    database.row_factory = sqlite3.Row
    return database


def create(path: Path) -> None:
    """Make an empty file that only its owner can read. SQLite gives its mode to the files beside it."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def has_wal(path: Path) -> bool:
    """Whether changes of this SQLite file stand in a file beside it."""
    wal = path.with_name(f"{path.name}-wal")
    return wal.exists() and wal.stat().st_size > 0


def look_at(path: Path) -> None:
    """Refuse a file that is not ours before a connection is opened that could change it.

    A connection that may write brings another program's unfinished WAL into its file when it is closed. An
    immutable one reads the file alone; that is safe here, because the owner lock keeps our own writers out.
    """
    with contextlib.closing(connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        check_file(database, path)


def check_file(database: sqlite3.Connection, path: Path | None, *, may_be_new: bool = True) -> None:
    """Refuse, before anything is written, what is no ledger or comes from a later version."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != _APPLICATION_ID and (application or version or tables):
        raise LedgerError(f"{str(path)!r} is a SQLite file of another program; it was left as it is")
    if application != _APPLICATION_ID and not may_be_new:
        raise LedgerError(f"{str(path)!r} is empty, it is no ledger")
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"ledger {str(path)!r} has version {version}, this program knows up to {SCHEMA_VERSION}: "
            "use the newer taskqueue_core; the file was left as it is"
        )


def migrate(database: sqlite3.Connection) -> None:
    """Bring the file to SCHEMA_VERSION, the version number in the same transaction as the tables."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA_VERSION:
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        for statement in _SCHEMA.split(";\n"):
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path | None) -> Iterator[None]:
    """Turn SQLite's errors into LedgerError, told by SQLite's own code."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", None) or type(error).__name__
        where = f"ledger {str(path)!r}" if path is not None else "the ledger"
        if code == "SQLITE_NOTADB":
            raise LedgerError(f"{str(path)!r} is no SQLite file; it was left as it is") from error
        raise LedgerError(f"{where}: {error} ({code})") from error


def to_record(row: sqlite3.Row) -> TaskRecord:
    """A row of `tasks`, its JSON decoded."""
    fields = dict(row)
    fields["status"] = Status(fields["status"])
    fields["params"] = json.loads(fields["params"])
    fields["value"] = None if fields["value"] is None else json.loads(fields["value"])
    return TaskRecord(**fields)


def _dead_letter(row: sqlite3.Row) -> DeadLetter:
    fields = dict(row)
    fields["params"] = json.loads(fields["params"])
    return DeadLetter(**fields)

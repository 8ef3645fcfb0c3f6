"""The ledger's file: its schema, how it is opened and checked, and how it is read."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from taskqueue_core import watch
from taskqueue_core.errors import LedgerError
from taskqueue_core.task import Status, TaskRecord

Connection = sqlite3.Connection
IntegrityError = sqlite3.IntegrityError

SQLITE_VERSION = sqlite3.sqlite_version

MEMORY = ":memory:"
BUSY_MS = 5000
"""Milliseconds for which a connection waits for another one's lock."""
REMEDY = (
    "nothing more is written to it. Keep the file and what stands beside it, restore a backup, or save what can be "
    'read with the sqlite3 shell: sqlite3 tasks.db ".recover" | sqlite3 saved.db'
)
OLDEST_SQLITE = (3, 35, 0)  # UPDATE ... FROM, and JSON functions

_APPLICATION_ID = 0x7461736B  # "task": marks the file as ours
_VERSION_1 = """
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
_VERSION_2 = """
ALTER TABLE tasks ADD COLUMN finished_at REAL;
UPDATE tasks SET finished_at = run_at WHERE status IN ('success', 'failed');
CREATE INDEX tasks_tried ON tasks (id) WHERE status = 'queued' AND attempt > 0;
CREATE INDEX tasks_success ON tasks (finished_at) WHERE status = 'success';
CREATE TABLE counters (name TEXT PRIMARY KEY, n INTEGER NOT NULL);
INSERT INTO counters VALUES ('purged', 0);
"""
_STEPS = (_VERSION_1, _VERSION_2)
SCHEMA_VERSION = len(_STEPS)

_DUE = """
SELECT * FROM tasks WHERE status = 'queued' AND run_at <= ? AND (run_at, id) > (?, ?) ORDER BY run_at, id LIMIT ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A task that failed for good, as it was then. `reason` is "permanent", "exhausted", "poison" or
    "cancelled".

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


Found = TypeVar("Found", TaskRecord, DeadLetter)
Seen = Callable[[Sequence[TaskRecord] | Sequence[DeadLetter]], None]


class LedgerView:
    """Reads a ledger. Opened with `inspect` it changes nothing and works beside a running owner."""

    def __init__(self, database: sqlite3.Connection, lock: threading.Lock, seen: Seen | None = None) -> None:
        self._seen = seen  # is told what somebody is given; the owner's own reading tells nobody
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
                if database.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
                    raise LedgerError(f"ledger {os.fspath(path)!r} is of an older version: open it as a queue once")
                place = file.resolve()
                watch.read(place)
                yield LedgerView(database, threading.Lock(), lambda found: watch.seen(place, found))
            finally:
                database.close()

    def get(self, key: str) -> TaskRecord | None:
        """The task of an idempotency key, or None."""
        rows = self._read("SELECT * FROM tasks WHERE idempotency_key = ?", key)
        return next(iter(self._shown([to_record(row) for row in rows])), None)

    def records(self, status: Status | None = None) -> list[TaskRecord]:
        """All tasks, or those in one state, in the order of their ids."""
        if status is None:
            rows = self._read("SELECT * FROM tasks ORDER BY id")
        else:
            rows = self._read("SELECT * FROM tasks WHERE status = ? ORDER BY id", status)
        return self._shown([to_record(row) for row in rows])

    def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, replayed ones too, oldest first."""
        return self._shown([_dead_letter(row) for row in self._read("SELECT * FROM dead_letters ORDER BY id")])

    def counts(self) -> dict[Status, int]:
        """How many tasks are in each state."""
        counted = [
            f"SELECT '{status}' AS status, count(*) AS n FROM tasks WHERE status = '{status}'" for status in Status
        ]
        return {Status(row["status"]): row["n"] for row in self._read(" UNION ALL ".join(counted))}

    def purged(self) -> int:
        """How many finished tasks `purge` and retention have removed since the ledger was made."""
        n: int = self._read("SELECT n FROM counters WHERE name = 'purged'")[0]["n"]
        return n

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
        sql = "SELECT id FROM tasks WHERE status = 'queued' AND attempt > 0 AND retries > 0"
        return [row["id"] for row in self._read(sql)]

    def unfinished_attempts(self) -> list[TaskRecord]:
        """The tasks that were attempted and are not finished: attempts may have left something behind."""
        sql = "SELECT * FROM tasks WHERE status = 'queued' AND attempt > 0"
        return self.records(Status.RUNNING) + [to_record(row) for row in self._read(sql)]

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

    def at_work(self, now: float) -> bool:
        """Whether any task is running, or queued and due."""
        sql = (
            "SELECT 1 FROM tasks WHERE status = 'running' "
            "UNION ALL SELECT 1 FROM tasks WHERE status = 'queued' AND run_at <= ? LIMIT 1"
        )
        return bool(self._read(sql, now))

    def _shown(self, found: list[Found]) -> list[Found]:
        if self._seen is not None:
            self._seen(found)
        return found

    def _read(self, sql: str, *values: object, **named: object) -> list[sqlite3.Row]:
        self.refuse_after_fork()
        with translated(None), self._reader_lock:
            return self._reader.execute(sql, named or values).fetchall()

    def refuse_after_fork(self) -> None:
        """Raise LedgerError in a forked child."""
        refuse_after_fork(self._pid)


def file_sizes(path: Path) -> tuple[int, int]:
    """Bytes of the ledger and of its write-ahead log."""
    wal = path.with_name(path.name + "-wal")
    return path.stat().st_size, wal.stat().st_size if wal.exists() else 0


def refuse_after_fork(owner: int) -> None:
    """SQLite does not survive a fork: a connection used in the child can corrupt the parent's file."""
    if os.getpid() != owner:
        raise LedgerError("a ledger cannot be used after a fork: open a queue of its own in the child process")


def connect(target: str, *, uri: bool = False) -> sqlite3.Connection:
    """Open a connection without implicit transactions, its rows readable by name."""
    # Every use is under a lock of the ledger, so the connection may meet several threads.
    database = sqlite3.connect(target, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000, uri=uri)
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
        for step in _STEPS[version:]:
            for statement in step.split(";\n"):
                database.execute(statement)
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def last_id(database: sqlite3.Connection) -> int:
    """The highest id that any task has ever had."""
    (last,) = database.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'tasks'").fetchone()
    return int(last)


@contextmanager
def translated(path: Path | None) -> Iterator[None]:
    """Turn SQLite's errors into LedgerError, told by SQLite's own code."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", None) or type(error).__name__
        where = f"ledger {str(path)!r}" if path is not None else "the ledger"
        if code == "SQLITE_NOTADB":
            raise LedgerError(f"{str(path)!r} is no SQLite file; it was left as it is", code=code) from error
        if code in ("SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY"):
            raise LedgerError(f"{where} was left amid a change: open it as a queue once", code=code) from error
        if code.startswith("SQLITE_CORRUPT"):
            raise LedgerError(f"{where} is damaged: {error} ({code}); {REMEDY}", code=code) from error
        raise LedgerError(f"{where}: {error} ({code})", code=code) from error


SQLITE_ERRORS = (
    *("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_CORRUPT", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_IOERR_FSYNC"),
    *("SQLITE_IOERR_WRITE", "SQLITE_LOCKED", "SQLITE_NOTADB", "SQLITE_READONLY"),
)
"""SQLite's names of the errors that a ledger can meet in use."""


def make_error(name: str, text: str) -> sqlite3.Error:
    """An error as sqlite3 raises it, with SQLite's code for that name (one of SQLITE_ERRORS)."""
    damage = name in ("SQLITE_CORRUPT", "SQLITE_NOTADB")
    error = sqlite3.DatabaseError(text) if damage else sqlite3.OperationalError(text)
    error.sqlite_errorname, error.sqlite_errorcode = name, getattr(sqlite3, name)
    return error


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


# For those who look from outside: all of them read only.


def open_letters(view: LedgerView) -> dict[str, int]:
    """How many dead letters nobody has replayed, by reason."""
    rows = view._read("SELECT reason, count(*) AS n FROM dead_letters WHERE replayed_at IS NULL GROUP BY reason")
    return {row["reason"]: row["n"] for row in rows}


def schema_version(view: LedgerView) -> int:
    """The version of the file, see SCHEMA_VERSION."""
    version: int = view._read("PRAGMA user_version")[0][0]
    return version


def journal_mode(view: LedgerView) -> str:
    """`wal`, or `delete` for an exported copy."""
    mode: str = view._read("PRAGMA journal_mode")[0][0]
    return mode


def find_damage(view: LedgerView, *, quick: bool = False, limit: int = 10) -> list[str]:
    """What SQLite finds wrong with its own file, up to `limit` lines; `quick` does not compare indexes and tables."""
    pragma = "quick_check" if quick else "integrity_check"
    rows = view._read(f"PRAGMA {pragma}({limit})")
    lines = [line for row in rows for line in str(row[0]).splitlines()]
    return [] if lines == ["ok"] else lines[:limit]


@contextmanager
def one_moment(view: LedgerView) -> Iterator[None]:
    """Everything read inside is from the same commit, whatever the owner writes meanwhile."""
    view._read("BEGIN")
    try:
        yield
    finally:
        view._read("ROLLBACK")


_CONTRADICTIONS = {
    "idempotency key with more than one row": """
        SELECT count(*) FROM (SELECT 1 FROM tasks GROUP BY idempotency_key HAVING count(*) > 1)""",
    "task in state success without a value": """
        SELECT count(*) FROM tasks WHERE status = 'success' AND value IS NULL""",
    "output without its size or SHA-256": """
        SELECT count(*) FROM tasks WHERE output_key IS NOT NULL AND (size IS NULL OR sha256 IS NULL)""",
    "task in state failed without a dead letter": """
        SELECT count(*) FROM tasks WHERE status = 'failed' AND NOT EXISTS (
            SELECT 1 FROM dead_letters WHERE task_id = tasks.id AND replayed_at IS NULL)""",
}
"""What cannot be: how many there are of it."""


def contradictions(view: LedgerView) -> list[str]:
    """What no sequence of transitions can have written, such as `2 x task in state failed without a dead letter`."""
    counts = {what: view._read(sql)[0][0] for what, sql in _CONTRADICTIONS.items()}
    return [f"{count:,} x {what}" for what, count in counts.items() if count]


# SQLITE_ERROR is a table or column that is missing.
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_ERROR})


def is_damage(error: LedgerError, *, known_ledger: bool) -> bool:
    """Whether an error says that the file is damaged, rather than absent, newer, locked or another program's.

    What is no SQLite file at all is a damaged ledger only if it was one once.
    """
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    return code in _DAMAGE and (code != sqlite3.SQLITE_NOTADB or known_ledger)

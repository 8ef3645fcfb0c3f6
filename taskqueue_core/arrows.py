"""What each change of state writes, inside a transaction that writer.py opened. The table of arrows is in ledger.py.

Each is an UPDATE guarded by status and version. Inserts, claims and successes come in hundreds, and are made by one
statement from one JSON text: sqlite3 hands the GIL over at every row of an executemany, and at every row that a
statement returns, so with two busy threads row by row is 50 times slower. When the row count says that not all rows
matched, the transaction is made again with a statement for each row (Mismatch), and the row count tells who is fenced.

A transaction of nothing but these three, which is nearly all of them, is even one single statement (`at_once`): an
INSERT into a view whose triggers do the three, and fail when a row count is not what it should be. Each statement
hands the GIL over three times, and the one who commits for everybody waits for it each time: with 100 clients and 64
workers that do 2 ms of I/O, one statement in place of four to five made 1.4 times the throughput (2 cores).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from taskqueue_core import points
from taskqueue_core.database import Connection, IntegrityError, to_record
from taskqueue_core.errors import LedgerError
from taskqueue_core.publish import Publication
from taskqueue_core.task import Status, TaskRecord
from taskqueue_core.writer import Mismatch, Transaction

MAX_CRASHES = 3
ERROR_LENGTH = 2000

_INSERT = """
INSERT INTO tasks (id, version, attempt, status, idempotency_key, image_key, variant, params, created_at, run_at)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[1]') - 1,
    iif(json_extract(value, '$[1]') = 1, 'queued', 'running'), json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'), :now, :now
FROM json_each(:rows) WHERE true ON CONFLICT (idempotency_key) DO NOTHING"""
_CLAIM = """
UPDATE tasks SET status = 'running', version = version + 1, attempt = attempt + 1
FROM json_each(:rows) AS row WHERE tasks.id = row.key AND tasks.version = row.value AND tasks.status = 'queued'"""
_SUCCEED = """
UPDATE tasks SET status = 'success', version = version + 1, finished_at = :now, error = NULL,
    value = json_extract(row.value, '$[1]'), output_key = json_extract(row.value, '$[2]'),
    size = json_extract(row.value, '$[3]'), sha256 = json_extract(row.value, '$[4]')
FROM json_each(:rows) AS row
WHERE tasks.id = row.key AND tasks.version = json_extract(row.value, '$[0]') AND tasks.status = 'running'"""
_VIEW = """
CREATE TEMP VIEW transactions AS
SELECT NULL AS inserts, NULL AS claims, NULL AS successes, 0.0 AS now, 0 AS inserted, 0 AS claimed, 0 AS succeeded"""
_TRIGGER = """
CREATE TEMP TRIGGER make_{0} INSTEAD OF INSERT ON transactions WHEN new.{0} IS NOT NULL BEGIN
    {2};
    SELECT RAISE(ABORT, 'mismatch') WHERE changes() <> new.{1};
END"""
_AT_ONCE = "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?)"
_REACHED = "SELECT 1 FROM tasks WHERE id = ? AND version = ? AND status = ?"
_BURY = """
INSERT INTO dead_letters (task_id, idempotency_key, image_key, variant, params, reason, error, retries, attempt,
                          crashes, failed_at)
SELECT id, idempotency_key, image_key, variant, params, ?, ?, retries, attempt, crashes, ? FROM tasks WHERE id = ?"""
_UNBURY = "UPDATE dead_letters SET replayed_at = ? WHERE task_id = ? AND replayed_at IS NULL"
_CANCELLED = "SELECT 1 FROM dead_letters WHERE task_id = ? AND replayed_at IS NULL AND reason = 'cancelled'"
_PURGE = """
DELETE FROM tasks WHERE id IN (
    SELECT tasks.id FROM json_each(:rows) AS row JOIN tasks ON tasks.id = row.key AND tasks.version = row.value
    WHERE status IN ('success', 'failed'))"""
_PURGE_LETTERS = "DELETE FROM dead_letters WHERE task_id IN (SELECT value FROM json_each(?))"


_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # what a statement reads back


class Draft(NamedTuple):
    """A task to insert; `params` is canonical JSON text."""

    key: str
    image_key: str
    variant: str
    params: str


class Row(NamedTuple):
    """What the next arrow of a task needs to know of it. A TaskRecord knows more, and costs more than the SQL."""

    id: int
    version: int
    attempt: int = 0
    retries: int = 0
    crashes: int = 0


class Drafted(Protocol):
    """Whatever has a draft to insert; `reserved`: a worker is free for it."""

    @property
    def draft(self) -> Draft: ...
    @property
    def reserved(self) -> bool: ...


class Claimable(Protocol):
    """Whatever has the row of a task to claim."""

    @property
    def row(self) -> Row | TaskRecord: ...


class Success(NamedTuple):
    """A success to record: the row of a running task, its value (JSON text), and its output."""

    row: Row | TaskRecord
    value: str
    output: Publication | None = None
    caller: Any = None


def prepare(database: Connection) -> None:
    """Make a connection ready for `at_once`."""
    database.execute(_VIEW)
    parts = ("inserts", "inserted", _INSERT), ("claims", "claimed", _CLAIM), ("successes", "succeeded", _SUCCEED)
    for rows, count, statement in parts:
        made = statement.replace(":rows", f"new.{rows}").replace(":now", "new.now")
        database.execute(_TRIGGER.format(rows, count, made))


def at_once(
    database: Connection,
    inserts: Sequence[Drafted],
    claims: Sequence[Claimable],
    successes: Sequence[Success],
    first_id: int,
    now: float,
) -> list[Row]:
    """T1, T2 and T3 for these, in a transaction of its own: the rows of the inserts. Without outputs: those are
    renamed inside the transaction. Raises Mismatch when a key was known or somebody is fenced: nothing is written.
    """
    new = _inserted(inserts, first_id)
    claimed = {task.row.id: task.row.version for task in claims}
    results = {success.row.id: (success.row.version, success.value) for success in successes}
    if len(claimed) < len(claims) or len(results) < len(successes):
        raise Mismatch
    try:
        texts = [_text(rows) if rows else None for rows in (new, claimed, results)]
        database.execute(_AT_ONCE, (*texts, now, len(new), len(claimed), len(results)))
    except IntegrityError as error:
        if str(error) == "mismatch":
            raise Mismatch from None
        raise
    return [Row(row_id, version, version - 1) for row_id, version, *_ in new]


def insert(transaction: Transaction, tasks: Sequence[Drafted], first_id: int, now: float) -> list[Row | TaskRecord]:
    """T1: a new Row for each task, or the record that stands under its key.

    A task that is claimed in the same transaction (T2) is inserted as it is then: running, in its second version.
    """
    rows = _inserted(tasks, first_id)
    if transaction.database.execute(_INSERT, {"rows": _text(rows), "now": now}).rowcount == len(rows):
        return [Row(row_id, version, version - 1) for row_id, version, *_ in rows]
    return [_found(transaction, row_id, task, now) for row_id, task in enumerate(tasks, first_id)]


def claim(transaction: Transaction, tasks: Sequence[Claimable]) -> list[bool]:
    """T2: whether each row was queued as its version says, and is running now."""
    changes = [(task.row, task.row.version) for task in tasks]
    return _move_all(transaction, _CLAIM, changes, Status.RUNNING)


def succeed(transaction: Transaction, successes: Sequence[Success], now: float) -> list[bool]:
    """T3: whether each row was running as its version says, and is a success now.

    An output is renamed only then, so a fenced worker never overwrites a good one.
    """
    changes = [(success.row, _result(success)) for success in successes]
    moved = _move_all(transaction, _SUCCEED, changes, Status.SUCCESS, now=now)
    for success, happened in zip(successes, moved, strict=True):
        if happened and success.output is not None:
            success.output.publish()
            points.reach(points.AFTER_RENAME)
            if success.output.durable:
                transaction.folders.add(success.output.temp_path.parent)
    return moved


def move(
    transaction: Transaction, row: Row | TaskRecord, expected: Status, changes: Mapping[str, object]
) -> TaskRecord | None:
    """Follow one arrow: write the changes if the row is as `row` says; the record then, None when it is not."""
    assignments = ", ".join(f"{column} = :{column}" for column in changes)
    guard = "id = :guard_id AND version = :guard_version AND status = :guard_status"
    cursor = transaction.database.execute(
        f"UPDATE tasks SET {assignments}, version = version + 1 WHERE {guard}",
        {**changes, "guard_id": row.id, "guard_version": row.version, "guard_status": expected},
    )
    return _read(transaction, row.id) if cursor.rowcount == 1 else None


def bury(
    transaction: Transaction,
    row: Row | TaskRecord,
    expected: Status,
    *,
    error: str,
    reason: str,
    now: float,
    crashes: int | None = None,
) -> TaskRecord | None:
    """To failed, with the dead letter in the same transaction; None when the guard matched no row."""
    error = error[:ERROR_LENGTH]
    crashes = row.crashes if crashes is None else crashes
    changes = {"status": Status.FAILED, "error": error, "crashes": crashes, "finished_at": now}
    moved = move(transaction, row, expected, changes)
    if moved is not None:
        transaction.database.execute(_BURY, (reason, error, now, row.id))
    return moved


def unbury(
    transaction: Transaction, row: Row | TaskRecord, now: float, draft: Draft | None = None
) -> TaskRecord | None:
    """From failed to queued with a full budget, the dead letter marked; `draft` is what the key stands for now."""
    changes: dict[str, object] = {"status": Status.QUEUED, "retries": 0, "crashes": 0, "run_at": now}
    changes["finished_at"] = None
    if draft is not None:
        changes |= {"image_key": draft.image_key, "variant": draft.variant, "params": draft.params}
    moved = move(transaction, row, Status.FAILED, changes)
    if moved is not None:
        transaction.database.execute(_UNBURY, (now, row.id))
    return moved


def bring_back(transaction: Transaction, orphan: TaskRecord, now: float) -> TaskRecord:
    """T6: the owner of a running task has died. Raises LedgerError when the row moves under our hands."""
    crashes = orphan.crashes + 1
    if crashes >= MAX_CRASHES:
        error = f"the process died {crashes} times while this task was running"
        moved = bury(transaction, orphan, Status.RUNNING, error=error, reason="poison", now=now, crashes=crashes)
    else:
        changes = {"status": Status.QUEUED, "crashes": crashes, "run_at": now}
        moved = move(transaction, orphan, Status.RUNNING, changes)
    if moved is None:
        raise LedgerError(f"task {orphan.id} changed during recovery: the ledger has a second writer")
    return moved


def purge(transaction: Transaction, rows: Sequence[Row | TaskRecord]) -> list[bool]:
    """T10: remove finished tasks with their dead letters; how many is counted in the same transaction."""
    moved = _move_all(transaction, _PURGE, [(row, row.version) for row in rows], Status.SUCCESS)
    gone = [row.id for row, happened in zip(rows, moved, strict=True) if happened]
    transaction.database.execute(_PURGE_LETTERS, (_text(gone),))
    transaction.database.execute("UPDATE counters SET n = n + ? WHERE name = 'purged'", (len(gone),))
    return moved


def written(transaction: Transaction, row: Row | TaskRecord, reached: Status) -> TaskRecord | None:
    """What an earlier try of a row's arrow has written, though it was reported as failed; None when it has not."""
    rows = transaction.database.execute("SELECT * FROM tasks WHERE id = ?", (row.id,)).fetchall()
    found = to_record(rows[0]) if rows else None
    return found if found is not None and (found.version, found.status) == (row.version + 1, reached) else None


def _read(transaction: Transaction, row_id: int) -> TaskRecord:
    """The record of a row, as it stands in this transaction."""
    return to_record(transaction.database.execute("SELECT * FROM tasks WHERE id = ?", (row_id,)).fetchall()[0])


def row_of(record: Row | TaskRecord) -> Row:
    """What the next arrow needs to know of a record."""
    return Row(record.id, record.version, record.attempt, record.retries, record.crashes)


def _inserted(tasks: Sequence[Drafted], first_id: int) -> list[tuple[Any, ...]]:
    return [(row_id, 2 if task.reserved else 1, *task.draft) for row_id, task in enumerate(tasks, first_id)]


def _found(transaction: Transaction, row_id: int, task: Drafted, now: float) -> Row | TaskRecord:
    """What stands under a task's key: the row just inserted, or an older one. A cancelled task's key is free."""
    find = "SELECT * FROM tasks WHERE idempotency_key = ?"
    record = to_record(transaction.database.execute(find, (task.draft.key,)).fetchall()[0])
    if record.id == row_id:
        return row_of(record)
    cancelled = record.status is Status.FAILED and transaction.database.execute(_CANCELLED, (record.id,)).fetchall()
    revived = unbury(transaction, record, now, task.draft) if cancelled else None
    return record if revived is None else row_of(revived)


def _result(success: Success) -> tuple[object, ...]:
    version, output = success.row.version, success.output
    if output is None:
        return version, success.value
    return version, success.value, output.output_key, output.size, output.sha256


def _move_all(
    transaction: Transaction,
    sql: str,
    changes: Sequence[tuple[Row | TaskRecord, object]],
    reached: Status,
    **parameters: object,
) -> list[bool]:
    """Move all these rows with one statement; row by row where that statement did not match them all."""
    if transaction.careful:
        return [_move_one(transaction, sql, row, change, reached, **parameters) for row, change in changes]
    text = _text({row.id: change for row, change in changes})
    count = transaction.database.execute(sql, {"rows": text, **parameters}).rowcount
    if count != len(changes) and len(changes) > 1:
        raise Mismatch
    return [count == len(changes)] * len(changes)


def _move_one(
    transaction: Transaction, sql: str, row: Row | TaskRecord, change: object, reached: Status, **parameters: object
) -> bool:
    """Move one row; what an earlier, uncertain try of the same change has done counts as done."""
    if transaction.database.execute(sql, {"rows": _text({row.id: change}), **parameters}).rowcount == 1:
        return True
    if not transaction.again:
        return False
    return bool(transaction.database.execute(_REACHED, (row.id, row.version + 1, reached)).fetchall())

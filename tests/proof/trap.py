"""The trap: kills its own process at the n-th transaction, or at the renaming of an output.

It stands between the queue and SQLite. A rehearsal first notes what each transaction changes, so that the kill finds
"the transaction that claims" whatever its statements look like. A statement that writes outside BEGIN and COMMIT is a
transaction of its own, with moments of its own inside: SQLite tells of each step of its machine, and of each trigger's
statement.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

State = tuple[Any, ...]
"""A row as the rehearsal sees it: status, retries, crashes, version."""

AT_ONCE, IN_PARTS = "at once", "in parts"
"""The ways of a transaction: one statement, or BEGIN, statements and COMMIT."""
WAYS = (AT_ONCE, IN_PARTS)

BEFORE, WITHIN, LAST, AFTER = "before BEGIN", "within the statement", "before COMMIT", "after COMMIT"
RENAMED = "after the output's renaming"

ROWS = "SELECT idempotency_key, status, retries, crashes, version FROM tasks"
_WRITES = {"INSERT", "UPDATE", "DELETE", "REPLACE"}


def die() -> None:
    """End as if by kill -9 from outside: nothing is flushed, nothing is closed."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class Transaction:
    """What a rehearsal notes of one. Of a statement that is its own: its steps, and at how many of them SQLite told of
    a statement that begins, its own or a trigger's. The last of these comes when all is written and nothing committed.
    """

    number: int
    way: str
    steps: int = 0  # until the last beginning
    beginnings: int = 0
    changes: dict[str, tuple[State | None, State]] = field(default_factory=dict)  # key: row before, row after


@dataclass(frozen=True, slots=True)
class Point:
    """Where to die: the moment, the transaction's number, the step, and the beginning that is not to be survived."""

    moment: str
    number: int = 0
    step: int = 0
    beginning: int = 0


class Trap:
    """What is noted or killed. It counts from `arm()` on; without a point it is a rehearsal.

    `before_transaction` is called with the writing connection before each transaction, in the thread that uses it;
    `way` is told, once for each, which ways the transactions went that wrote rows and made no tables, armed or not.
    """

    def __init__(self, point: Point | None = None, way: Callable[[str], None] = lambda _: None) -> None:
        self.begun = 0
        self.transactions: list[Transaction] = []
        self.before_transaction: Callable[[sqlite3.Connection], None] = lambda _: None
        self.way = way
        self._point = point or Point("")
        self._rehearsing = point is None
        self._armed = False
        self._ways: set[str] = set()  # that are told
        self._verbs: set[str] = set()  # of the open transaction
        self._rows: dict[str, State] = {}

    def set(self, rows: dict[str, State] | None = None) -> None:
        """Lay it: every connection that is opened from now on runs into it, and every renaming of a file.

        `rows` is what the ledger holds, for a rehearsal.
        """
        self._rows = rows or {}
        connect, replace = sqlite3.connect, os.replace

        def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection: TrappedConnection = connect(*args, **kwargs, factory=TrappedConnection)
            connection.trap = self
            return connection

        def replaced(*args: Any, **kwargs: Any) -> None:
            replace(*args, **kwargs)
            self._at(RENAMED, self._point.number)

        sqlite3.connect, os.replace = connected, replaced  # type: ignore[assignment]

    def arm(self) -> None:
        """Count from now on."""
        self._armed = True

    def execute(self, connection: sqlite3.Connection, sql: str, call: Callable[[], Any]) -> Any:
        """Run a statement of the queue's, with the stops before, in and after it."""
        verb = sql.split(maxsplit=1)[0].upper().rstrip(";") if sql.strip() else ""
        if verb in _WRITES and not connection.in_transaction:
            return self._execute_at_once(connection, call)
        if verb == "BEGIN":
            self._verbs = set()
            self._begin(connection)
        elif verb == "COMMIT":
            if self._rehearsing:
                self._note(connection, Transaction(self.begun, IN_PARTS))
            self._at(LAST, self.begun)
        self._verbs.add(verb)
        result = call()
        if verb == "COMMIT":
            if self._verbs & _WRITES and "CREATE" not in self._verbs:
                self._tell(IN_PARTS)
            self._at(AFTER, self.begun)
        return result

    def _execute_at_once(self, connection: sqlite3.Connection, call: Callable[[], Any]) -> Any:
        """A statement that is a transaction of its own. One that fails has changed nothing, and is counted as well."""
        self._begin(connection)
        transaction = Transaction(self.begun, AT_ONCE)
        deadly = self._armed and self._point.moment in (WITHIN, LAST) and self.begun == self._point.number
        if self._rehearsing:
            _count(connection, transaction)
        elif deadly:
            _lay_inside(connection, self._point)
        try:
            result = call()
        finally:
            if self._rehearsing or deadly:
                connection.set_progress_handler(None, 0)
                connection.set_trace_callback(None)
        if self._rehearsing:
            self._note(connection, transaction)
        self._tell(AT_ONCE)
        self._at(AFTER, self.begun)
        return result

    def _tell(self, way: str) -> None:
        if way not in self._ways:
            self._ways.add(way)
            self.way(way)

    def _begin(self, connection: sqlite3.Connection) -> None:
        self.before_transaction(connection)
        self.begun += self._armed
        self._at(BEFORE, self.begun)

    def _at(self, moment: str, number: int) -> None:
        if self._armed and (moment, number) == (self._point.moment, self._point.number):
            die()

    def _note(self, connection: sqlite3.Connection, transaction: Transaction) -> None:
        """What this transaction is about to change, or has changed."""
        cursor = sqlite3.Connection.cursor(connection)
        rows = {key: tuple(row) for key, *row in cursor.execute(ROWS).fetchall()}
        cursor.close()
        transaction.changes = {
            key: (self._rows.get(key), row) for key, row in rows.items() if row != self._rows.get(key)
        }
        if self._armed:
            self.transactions.append(transaction)
        self._rows = rows


def _count(connection: sqlite3.Connection, transaction: Transaction) -> None:
    """Count a statement's steps and beginnings."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def begin(_: str) -> None:
        transaction.beginnings += 1
        transaction.steps = steps

    connection.set_progress_handler(step, 1)
    connection.set_trace_callback(begin)


def _lay_inside(connection: sqlite3.Connection, point: Point) -> None:
    """Die at the point's step, or at the latest when the last statement inside begins: nothing is committed then."""
    beginnings = 0

    def begin(_: str) -> None:
        nonlocal beginnings
        beginnings += 1
        if beginnings == point.beginning:
            die()

    if point.moment == WITHIN:
        connection.set_progress_handler(die, point.step)
    connection.set_trace_callback(begin)


class TrappedCursor(sqlite3.Cursor):
    """Every statement comes through here."""

    def execute(self, sql: str, *parameters: Any) -> Any:
        """Run a statement past the trap."""
        connection: Any = self.connection
        return connection.trap.execute(connection, sql, lambda: super(TrappedCursor, self).execute(sql, *parameters))


class TrappedConnection(sqlite3.Connection):
    """A connection whose statements go past the trap."""

    trap: Trap

    def cursor(self, factory: type[sqlite3.Cursor] = TrappedCursor) -> Any:
        """A cursor of ours, whoever asks for one."""
        return super().cursor(factory)

    def execute(self, sql: str, *parameters: Any) -> Any:
        """Through a cursor of ours."""
        return self.cursor().execute(sql, *parameters)

    def commit(self) -> None:
        """The other way to write COMMIT."""
        self.trap.execute(self, "COMMIT", super().commit)

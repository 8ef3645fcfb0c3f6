"""Transactions: many requests in one, or, if that fails, one for each, so that only the bad ones get an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskqueue_core import points
from taskqueue_core.database import Connection, translated
from taskqueue_core.errors import LedgerError
from taskqueue_core.publish import sync_folder


class Mismatch(Exception):  # noqa: N818 - it asks for another way, it is no failure
    """A statement for many rows did not match all of them: each row needs a statement of its own."""


@dataclass(slots=True)
class Transaction:
    """An open transaction; `folders` are brought to the disk before it commits.

    careful  give each row a statement of its own, so that the row count tells which of them matched
    again    it was tried before, and whether that try was committed is not known
    """

    database: Connection
    careful: bool = False
    again: bool = False
    folders: set[Path] = field(default_factory=set)


Apply = Callable[[Transaction, list[Any]], list[Any]]
"""Makes changes of one kind, as few statements as it can, and returns a result for each."""
Done = Callable[[list[Any], list[Any]], None]
"""Is told the changes and their results, after the COMMIT; it must not wait for anything."""

Changes = dict[Apply, list[Any]]
"""What is to be changed, by kind; or the results."""
AtOnce = Callable[[Connection, Changes], Changes | None]


UNKNOWN = LedgerError("the transaction was interrupted; its outcome is unknown, and submitting again is safe")


class Request:
    """Changes of one kind that stand or fall together. A caller that waits for it has a gate, which opens when it
    is finished, or when that caller is to lead.
    """

    __slots__ = (
        "again",
        "apply",
        "done",
        "durable",
        "error",
        "finished",
        "gate",
        "items",
        "leads",
        "posted",
        "results",
    )

    def __init__(self, apply: Apply, items: list[Any], durable: bool, done: Done | None, *, posted: bool) -> None:
        self.apply = apply
        self.items = items
        self.durable = durable
        self.done = done
        self.posted = posted
        self.again = False
        self.finished = False
        self.leads = False  # its caller writes for everybody, and sees to its own results
        self.results: list[Any] = []
        self.error: BaseException | None = UNKNOWN  # until its COMMIT has returned
        self.gate: threading.Lock | None = None

    def parts(self) -> list[Request]:
        """What was posted together, taken apart into its changes."""
        if not self.posted or len(self.items) == 1:
            return [self]
        parts = [Request(self.apply, [item], self.durable, self.done, posted=True) for item in self.items]
        for part in parts:
            part.again = self.again
        return parts


class Writer:
    """Writes through one connection, used by one thread at a time.

    `durable` is SQLite's synchronous level for transactions that must reach the disk; those that need not (claims
    alone) are written with NORMAL. `lock` is held while the connection is in use. After damage was found (CORRUPT,
    NOTADB) nothing is written any more: it would make things worse.
    """

    def __init__(self, database: Connection, path: Path | None, lock: threading.Lock, *, durable: int) -> None:
        self._database = database
        self._path = path
        self._lock = lock
        self._durable = durable
        self._level: int | None = None
        self.damage: LedgerError | None = None
        self.seconds = 0.0
        """How long a transaction takes, a moving average."""
        self.observe: Callable[[float, int], None] = lambda seconds, changes: None  # noqa: ARG005
        """Is told of each transaction: how long it took, and how many changes it made."""
        self.at_once: AtOnce = lambda database, changes: None  # noqa: ARG005
        """Makes a whole transaction in one statement: the results of each kind; None: it has to be made in parts."""
        self.arrows: Callable[[Changes], list[str]] = lambda changes: []  # noqa: ARG005
        """Tells which arrows a transaction has; asked when somebody stands at the named points."""
        self.failed: Callable[[LedgerError], None] = lambda error: None  # noqa: ARG005
        """Is told when one failed."""

    def execute(self, batch: list[Request]) -> list[Request]:
        """One transaction for all; if that fails, one for each, so that only the bad ones get an error.

        Returns what was written: requests that were posted together are taken apart in the second case.
        """
        if any(request.again for request in batch) or not self._try(batch):
            batch = [part for request in batch for part in request.parts()]
            for request in batch:
                self._try([request], careful=request.again)
        return batch

    def _try(self, batch: list[Request], *, careful: bool = False) -> bool:
        """Write these in one transaction; False when that failed and each should be tried alone."""
        if not batch:
            return True
        try:
            if self.damage is not None:
                raise LedgerError(*self.damage.args, code=self.damage.code) from self.damage.__cause__
            self._transact(batch, careful)
        except Mismatch:
            return self._try(batch, careful=True)
        except Exception as error:  # noqa: BLE001 - it belongs to the callers of the requests
            if isinstance(error, LedgerError):
                self._note(error, batch)
            if len(batch) > 1 or len(batch[0].parts()) > 1:
                return False
            batch[0].error = error
        return True

    def _note(self, error: LedgerError, batch: Sequence[Request]) -> None:
        """A transaction failed; unless SQLite refused what was in it, it may stand all the same."""
        if error.damaged and self.damage is None:
            self.damage = error
        self.failed(error)
        if "CONSTRAINT" not in (error.code or ""):
            for request in batch:
                request.again = True

    def _transact(self, batch: list[Request], careful: bool) -> None:
        began = time.perf_counter()
        groups = grouped(batch, lambda request: request.apply)
        changes = {apply: _items(requests) for apply, requests in groups.items()}
        with translated(self._path), self._lock:
            if self._database.in_transaction:  # a ROLLBACK failed; nothing may be acknowledged inside that transaction
                self._database.execute("ROLLBACK")
            self._set_level(any(request.durable for request in batch))
            probed = points.probe is not None  # then there has to be a BEGIN and a COMMIT to stand at
            results = None if careful or probed else self.at_once(self._database, changes)
            if results is None:
                names = self.arrows(changes) if probed else None
                results = self._in_parts(changes, careful, again=any(request.again for request in batch), names=names)
        for apply, requests in groups.items():
            _hand_out(requests, results[apply])
        seconds = time.perf_counter() - began
        self.seconds += (seconds - self.seconds) / 16
        self.observe(seconds, sum(map(len, changes.values())))

    def _in_parts(self, changes: Changes, careful: bool, *, again: bool, names: Sequence[str] | None) -> Changes:
        if names:
            points.reach(points.BEGIN)
            points.reach_all(names, "before_begin")
        self._database.execute("BEGIN IMMEDIATE")
        try:
            transaction = Transaction(self._database, careful, again)
            results = {apply: apply(transaction, items) for apply, items in changes.items()}
            for folder in transaction.folders:
                sync_folder(folder)
            if names:
                points.reach_all(names, "before_commit")
                points.reach(points.COMMIT)
            self._database.execute("COMMIT")
            if names:
                points.reach_all(names, "after_commit")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        return results

    def _set_level(self, durable: bool) -> None:
        """synchronous=NORMAL where no caller needs the disk: a later durable commit brings it there as well."""
        level = self._durable if durable else 1
        if level != self._level:
            self._database.execute(f"PRAGMA synchronous = {level}")
            self._level = level


def grouped(requests: Sequence[Request], key: Callable[[Request], Any]) -> dict[Any, list[Request]]:
    groups: dict[Any, list[Request]] = {}
    for request in requests:
        groups.setdefault(key(request), []).append(request)
    return groups


def _items(requests: Sequence[Request]) -> list[Any]:
    if len(requests) == 1:
        return requests[0].items
    return [item for request in requests for item in request.items]


def _hand_out(requests: Sequence[Request], results: list[Any]) -> None:
    """Give each request the results of its own items."""
    at = 0
    for request in requests:
        request.results = results[at : at + len(request.items)]
        request.error = None
        at += len(request.items)

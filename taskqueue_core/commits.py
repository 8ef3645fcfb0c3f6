"""Group commit: the changes that wait while one transaction commits go together into the next one.

Whoever asks first leads: it writes for everybody who is waiting, and returns. Nobody waits for company, so a lone
caller pays for no thread switch; under load the batches form by themselves, because more callers arrive while the
disk is busy. The idea is that of database servers' commit logs (and of "leader/follower" thread pools).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from taskqueue_core.database import Connection, translated
from taskqueue_core.errors import LedgerError
from taskqueue_core.publish import sync_folder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction; `folders` are brought to the disk before it commits."""

    database: Connection
    folders: set[Path] = field(default_factory=set)


class Request(Generic[T]):
    """One caller's change. Its gate opens when it is finished, or when its caller is to lead."""

    __slots__ = ("apply", "chosen", "durable", "error", "finished", "gate", "result")

    def __init__(self, apply: Callable[[Transaction], T], durable: bool) -> None:
        self.apply = apply
        self.durable = durable
        self.gate = threading.Lock()
        self.gate.acquire()
        self.finished = False
        self.chosen = False
        self.result: T | None = None
        self.error: BaseException | None = None


class GroupCommit:
    """Writes through one connection, one transaction at a time; a request is answered after its COMMIT.

    `durable` is SQLite's synchronous level for transactions that must reach the disk; those that need not (claims
    alone) are written with NORMAL. `lock` is held while the connection is in use.
    """

    def __init__(self, database: Connection, path: Path | None, lock: threading.Lock, *, durable: int) -> None:
        self._database = database
        self._path = path
        self._lock = lock
        self._durable = durable
        self._level: int | None = None
        self._pid = os.getpid()
        self._door = threading.Lock()  # guards the two fields below
        self._pending: list[Request[Any]] = []
        self._led = False

    def write(self, apply: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """Apply a change in a transaction and return what it returned, after the COMMIT.

        Raises what `apply` raised, with nothing written, or LedgerError. An error of a neighbour's change does
        not touch this one. KeyboardInterrupt during the wait says that the outcome is unknown.
        """
        if os.getpid() != self._pid:
            raise LedgerError("a ledger cannot be used after a fork: open a queue of its own in the child process")
        request = Request(apply, durable)
        with self._door:
            self._pending.append(request)
            leads, self._led = not self._led, True
        if leads:
            self._lead()
        else:
            self._wait(request)
        if request.error is not None:
            raise request.error
        return request.result  # type: ignore[return-value]

    def _wait(self, request: Request[T]) -> None:
        try:
            request.gate.acquire()
        except BaseException:
            self._withdraw(request)
            raise
        if not request.finished:
            self._lead()

    def _withdraw(self, request: Request[T]) -> None:
        """The caller was interrupted: if its request is not being written yet it never is; if chosen, it leads."""
        with self._door:
            if request in self._pending:
                self._pending.remove(request)
            leads = request.chosen and not request.finished
        if leads:
            self._lead()

    def _lead(self) -> None:
        """Write everything that waits, then let the first of the latecomers lead."""
        with self._door:
            batch, self._pending = self._pending, []
        try:
            self._execute(batch)
        finally:
            with self._door:
                for request in batch:
                    request.finished = True
                successor = self._pending[0] if self._pending else None
                self._led = successor is not None
                if successor is not None:
                    successor.chosen = True
            for request in batch:
                request.gate.release()
            if successor is not None:
                successor.gate.release()

    def _execute(self, batch: list[Request[Any]]) -> None:
        """One transaction for all; if that fails, one for each, so that only the bad ones get an error."""
        if not batch:
            return
        for request in batch:
            request.error = LedgerError("the transaction was interrupted; its outcome is unknown")
        try:
            results = self._transact(batch)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller of the request
            if len(batch) == 1:
                batch[0].error = error
                return
            for request in batch:
                self._execute([request])
        else:
            for request, result in zip(batch, results, strict=True):
                request.result, request.error = result, None

    def _transact(self, batch: list[Request[Any]]) -> list[object]:
        with translated(self._path), self._lock:
            self._set_level(any(request.durable for request in batch))
            self._database.execute("BEGIN IMMEDIATE")
            try:
                transaction = Transaction(self._database)
                results = [request.apply(transaction) for request in batch]
                for folder in transaction.folders:
                    sync_folder(folder)
                self._database.execute("COMMIT")
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

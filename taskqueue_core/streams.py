"""Changes that are left to be written with the next transaction, see commits.py; `commits.stream` makes one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from taskqueue_core.errors import LedgerError
from taskqueue_core.writer import Apply, Done, Request


class Stream:
    """Changes of one kind for which nobody waits: `done(items, results)` is called after their COMMIT.

    A change that failed has its error as its result. Durable changes that fail with a LedgerError are kept, and
    tried again until `close`.
    """

    def __init__(self, apply: Apply, *, durable: bool, door: threading.Lock, closed: Callable[[], bool]) -> None:
        self.apply = apply
        self.durable = durable
        self._door = door
        self._closed = closed
        self.done: Done = lambda items, results: None  # noqa: ARG005
        self.items: list[Any] = []  # guarded by the door of the group commit

    def post(self, items: Sequence[Any]) -> None:
        """Leave changes to be written with the next transaction. Whoever posts calls `nudge` or `help` next.

        Once the group commit is closed, `done` is told so at once.
        """
        with self._door:
            if not self._closed():
                self.items += items
                return
        self.done(list(items), [LedgerError("the ledger is closed")] * len(items))

    def take(self, batch: list[Request]) -> None:
        """Add what was posted so far to a batch, as one request; called with the door's lock held."""
        if self.items:
            batch.append(Request(self.apply, self.items, self.durable, self.done, posted=True))
            self.items = []

"""One task in hand (Entry), one submit of it (Call), and when two of them are the same work."""

from __future__ import annotations

import json
import threading
from enum import Enum

from taskqueue_core.arrows import Draft, Row
from taskqueue_core.errors import KeyConflictError
from taskqueue_core.futures import TaskFuture
from taskqueue_core.task import Task, TaskRecord, stored_task, to_json


class Phase(Enum):
    """Where a task in hand is."""

    ARRIVING = "arriving"
    """A submit is looking for a place or writing the row; other submits of the key wait for the outcome."""
    WAITING = "waiting"
    """A row of the ledger only (it waits for a retry, or was recovered): the feeder's to bring in."""
    QUEUED = "queued"
    """It holds a place in the bounded queue."""
    CLAIMED = "claimed"
    """It is being claimed, waits for the next free worker, or a worker has it (or had it when it timed out)."""
    LEAVING = "leaving"
    """It is being cancelled; submits of the key wait for the outcome."""


PASSING = (Phase.ARRIVING, Phase.LEAVING)


class Call:
    """One submitted task: its draft, the future to fulfil if the caller wants one, and why it was refused."""

    __slots__ = ("draft", "future", "refused")

    def __init__(self, draft: Draft, future: TaskFuture | None) -> None:
        self.draft = draft
        self.future = future
        self.refused: KeyConflictError | None = None


class Entry:
    """One task in hand. The lock of InFlight guards all fields, once it is in hand."""

    __slots__ = (
        "anonymous",
        "arrivals",
        "back",
        "draft",
        "due_at",
        "expired",
        "futures",
        "leader",
        "phase",
        "placed",
        "reserved",
        "row",
        "submitted_at",
    )

    def __init__(self, draft: Draft, row: Row = Row(0, 0)) -> None:  # noqa: B008 - immutable
        self.draft = draft
        self.row = row  # as the ledger had it last; of no meaning while the task arrives
        self.phase = Phase.ARRIVING
        self.placed = False  # a place was taken for its admission
        self.reserved = False  # a worker is free for it: it is claimed as it is inserted
        self.leader = 0
        self.arrivals: list[Call] = []
        self.futures: list[TaskFuture] = []
        self.anonymous = False  # somebody wants the task done who has no future, and so can never cancel
        self.submitted_at: float | None = None  # time.perf_counter
        self.due_at = 0.0  # clock.now
        self.expired: TaskRecord | None = None
        self.back = False

    @property
    def task(self) -> Task:
        """The task to hand to a processor, with params of its own."""
        draft = self.draft
        params = {} if draft.params == "{}" else json.loads(draft.params)
        return stored_task(draft.image_key, draft.variant, params, draft.key)


def arrival(call: Call, leader: int, now: float) -> Entry:
    """An entry for a submit, complete before anybody can find it."""
    entry = Entry(call.draft)
    entry.leader = leader
    entry.submitted_at = now
    attach(entry, call)
    return entry


def same_batch(entry: Entry, call: Call) -> bool:
    """Whether the call has the work of an entry that this very thread is about to land."""
    return entry.leader == threading.get_ident() and entry.draft == call.draft


def attach(entry: Entry, call: Call) -> int:
    """Let a call have the result of an entry, or refuse it: how many were attached."""
    call.refused = conflict(call.draft, entry.draft)
    if call.refused is not None:
        return 0
    if call.future is None:
        entry.anonymous = True
    else:
        entry.futures.append(call.future)
    if entry.phase is Phase.ARRIVING:
        entry.arrivals.append(call)
    return 1


def draft_of(record: TaskRecord) -> Draft:
    """The draft that a row was made from."""
    return Draft(record.idempotency_key, record.image_key, record.variant, to_json(record.params))


def conflict(draft: Draft, known: Draft) -> KeyConflictError | None:
    """The error for a key that stands for other work already, or None."""
    if draft == known or _canonical(draft) == _canonical(known):
        return None
    return KeyConflictError(
        f"idempotency key {draft.key!r} already stands for {known.image_key!r} {known.variant!r} with params "
        f"{known.params}, not for {draft.image_key!r} {draft.variant!r} with params {draft.params}: "
        "give the other task an idempotency_key of its own"
    )


def _canonical(draft: Draft) -> Draft:
    """Its params as they read back from the ledger: {2: "a", 10: "b"} sorts otherwise once its keys are texts."""
    return draft._replace(params=to_json(json.loads(draft.params)))

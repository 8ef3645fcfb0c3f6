"""The ledger against a model of it: whatever the order of the calls, both agree after every step."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskqueue_core import Status
from taskqueue_core.arrows import MAX_CRASHES, Draft, Row, Success, row_of
from taskqueue_core.entries import conflict, draft_of
from taskqueue_core.ledger import Ledger
from taskqueue_core.task import to_json

KEYS = st.sampled_from(["a", "b", "c", "d"])
PARAMS = st.sampled_from(['{"n":1}', '{"n":2}'])
FORM = st.sampled_from([row_of, lambda record: record])


@dataclass
class Known:
    """What the model knows of a task."""

    params: str
    created_at: float
    run_at: float
    status: Status = Status.QUEUED
    retries: int = 0
    attempt: int = 0
    crashes: int = 0
    value: object = None
    error: str | None = None
    finished_at: float | None = None
    letters: list[str] = field(default_factory=list)
    replayed: int = 0

    @property
    def cancelled(self) -> bool:
        return self.status is Status.FAILED and self.letters[-1] == "cancelled"

    def fail(self, now: float, error: str, reason: str) -> None:
        self.status, self.error, self.finished_at = Status.FAILED, error, now
        self.letters.append(reason)

    def bring_back(self, now: float) -> None:
        self.status, self.retries, self.crashes, self.run_at, self.finished_at = Status.QUEUED, 0, 0, now, None
        self.replayed = len(self.letters)


class LedgerMachine(RuleBasedStateMachine):
    """Submit, claim, settle, cancel, purge, crash, reopen, replay, one by one or posted; the clock moves when told."""

    stale = Bundle("stale")

    @initialize(at_once=st.booleans())
    def open(self, at_once):
        self.at_once = at_once
        self.folder = tempfile.mkdtemp()
        self.now = 1000.0
        self.rows: dict[str, Known] = {}
        self.submitted = self.purged = 0
        self.ids: set[int] = set()
        self.ledger = self._open()

    def _open(self):
        ledger = Ledger(Path(self.folder, "tasks.db"), durability="process", clock=lambda: self.now)
        if not self.at_once:  # the way of transactions with other changes in them
            ledger.writer.at_once = lambda database, changes: None
        return ledger

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)

    def _submitted(self, key, params):
        """What the model makes of a draft; whether it is a new task, or the key of a cancelled one."""
        row = self.rows.get(key)
        if row is None:
            self.rows[key] = Known(params, self.now, self.now)
            self.submitted += 1
        elif row.cancelled:
            row.bring_back(self.now)
            row.params = params
        else:
            return False
        return True

    @rule(key=KEYS, params=PARAMS)
    def submit(self, key, params):
        free = {key for key in self.rows if self.rows[key].cancelled} | ({key} - self.rows.keys())
        assert self.ledger.known([key]) == {key} - free
        (inserted,) = self.ledger.insert([Draft(key, key, "", params)])
        assert isinstance(inserted, Row) == self._submitted(key, params)
        refused = conflict(Draft(key, key, "", params), draft_of(self.ledger.get(key)))
        assert (refused is not None) == (self.rows[key].params != params)

    @rule(drafts=st.lists(st.tuples(KEYS, PARAMS), min_size=2, max_size=4))
    def submit_many(self, drafts):
        inserted = self.ledger.insert([Draft(key, key, "", params) for key, params in drafts])
        assert [isinstance(row, Row) for row in inserted] == [self._submitted(*draft) for draft in drafts]
        assert [row.id for row in inserted] == [self.ledger.get(key).id for key, _ in drafts]

    @rule(seconds=st.sampled_from([0.5, 5.0, 50.0]))
    def tick(self, seconds):
        self.now += seconds

    @rule(target=stale, key=KEYS)
    def remember(self, key):
        """A record as somebody might still hold it when the task has long moved on."""
        return self.ledger.get(key)

    @rule(key=KEYS)
    def claim(self, key):
        record, row = self.ledger.get(key), self.rows.get(key)
        if row is None:
            assert record is None
            return
        claimed = self.ledger.claim(record)
        assert (claimed is not None) == (row.status is Status.QUEUED)
        if claimed is not None:
            row.status, row.attempt = Status.RUNNING, row.attempt + 1

    def _running(self, key):
        row = self.rows.get(key)
        return (self.ledger.get(key), row) if row and row.status is Status.RUNNING else (None, None)

    @rule(key=KEYS, value=st.integers(0, 3))
    def succeed(self, key, value):
        record, row = self._running(key)
        if row:
            assert self.ledger.succeed(record, str(value)).value == value
            row.status, row.value, row.error, row.finished_at = Status.SUCCESS, value, None, self.now

    @rule(key=KEYS, delay=st.sampled_from([0.0, 1.0, 10.0]))
    def retry(self, key, delay):
        record, row = self._running(key)
        if row:
            assert self.ledger.retry(record, "late", delay) is not None
            row.status, row.retries, row.run_at, row.error = Status.QUEUED, row.retries + 1, self.now + delay, "late"

    @rule(key=KEYS)
    def fail(self, key):
        record, row = self._running(key)
        if row:
            assert self.ledger.fail(record, "boom", "permanent") is not None
            row.fail(self.now, "boom", "permanent")

    @rule(key=KEYS)
    def release(self, key):
        record, row = self._running(key)
        if row:
            assert self.ledger.release(record) is not None
            row.status, row.run_at = Status.QUEUED, self.now

    @rule(key=KEYS)
    def replay(self, key):
        row = self.rows.get(key)
        if row is None:
            return
        replayed = self.ledger.replay(self.ledger.get(key))
        assert (replayed is not None) == (row.status is Status.FAILED)
        if replayed is not None:
            row.bring_back(self.now)

    @rule(key=KEYS, form=FORM)
    def cancel(self, key, form):
        row = self.rows.get(key)
        if row is None:
            return
        cancelled = self.ledger.cancel(form(self.ledger.get(key)))
        assert (cancelled is not None) == (row.status is Status.QUEUED)
        if cancelled is not None:
            row.fail(self.now, "cancelled", "cancelled")

    @rule(key=KEYS, form=FORM)
    def purge(self, key, form):
        row = self.rows.get(key)
        if row is None:
            return
        finished = row.status in (Status.SUCCESS, Status.FAILED)
        assert self.ledger.purge(form(self.ledger.get(key))) == finished
        if finished:
            self._gone([key])

    def _gone(self, keys):
        for key in keys:
            del self.rows[key]
        self.purged += len(keys)

    @rule(count=st.none() | st.integers(1, 3), seconds=st.none() | st.sampled_from([1.0, 20.0]))
    def expire(self, count, seconds):
        """Retention by number (of those that ended together, the last ids), by age, by both; dead letters that nobody
        cancelled stay.
        """
        successes = {
            key: (row.finished_at, self.ledger.get(key).id)
            for key, row in self.rows.items()
            if row.status is Status.SUCCESS
        }
        limits = [] if seconds is None else [(self.now - seconds, 0)]
        limits += [] if count is None else sorted(successes.values(), reverse=True)[count - 1 : count]
        limit = max(limits, default=(float("-inf"), 0))
        old = [key for key, end in successes.items() if end < limit]
        old += [key for key, row in self.rows.items() if row.cancelled and row.finished_at < limit[0]]
        assert self.ledger.purge_old(count, seconds) == len(old)
        self._gone(old)

    @rule(
        claims=st.lists(st.tuples(KEYS, st.booleans()), max_size=4),
        successes=st.lists(st.tuples(KEYS, st.booleans()), max_size=4),
        durable=st.booleans(),
    )
    def post(self, claims, successes, durable):
        """Batches as the workers post them: with rows that have moved on, and the same row twice."""
        rows = {key: self.ledger.get(key) for key in self.rows}
        answers = {}
        self.ledger.claims.done = self.ledger.successes.done = lambda items, results: answers.update(
            zip(map(id, items), results, strict=True)
        )
        claiming = [(key, SimpleNamespace(row=self._row(rows[key], late))) for key, late in claims if key in rows]
        succeeding = [(key, Success(self._row(rows[key], late), "7")) for key, late in successes if key in rows]
        expected = []
        for key, item in claiming:
            row = self.rows[key]
            moves = row.status is Status.QUEUED and item.row.version == rows[key].version
            expected.append(moves)
            if moves:
                row.status, row.attempt = Status.RUNNING, row.attempt + 1
        claimed = {key for (key, _), moves in zip(claiming, expected, strict=True) if moves}
        for key, item in succeeding:
            row = self.rows[key]
            moves = row.status is Status.RUNNING and key not in claimed and item.row.version == rows[key].version
            expected.append(moves)
            if moves:
                row.status, row.value, row.error, row.finished_at = Status.SUCCESS, 7, None, self.now
        self.ledger.claims.post([item for _, item in claiming])
        self.ledger.successes.post([item for _, item in succeeding])
        if durable:
            self.ledger.commits.write(lambda _, items: items, [None])
        else:
            self.ledger.commits.help()
        self.ledger.commits._tell()  # what the main thread leaves to the commit thread
        assert [answers[id(item)] for _, item in (*claiming, *succeeding)] == expected

    @staticmethod
    def _row(record, late):
        row = row_of(record)
        return row._replace(version=row.version - 1) if late else row

    @rule(record=stale, arrow=st.sampled_from(["claim", "succeed", "retry", "fail", "release", "replay", "cancel"]))
    def come_late(self, record, arrow):
        """Whoever holds an older version, or a row that is gone, moves nothing."""
        now = None if record is None else self.ledger.get(record.idempotency_key)
        if record is None or (now is not None and (now.id, now.version) == (record.id, record.version)):
            return
        arguments = {"succeed": ["1"], "retry": ["x", 0.0], "fail": ["x", "permanent"]}.get(arrow, [])
        assert getattr(self.ledger, arrow)(record, *arguments) is None
        assert self.ledger.purge(record) is False

    @rule()
    def crash_and_reopen(self):
        """The owner dies without settling anything; whatever was running is recovered."""
        self.ledger.close()
        self.ledger = self._open()
        moved = {record.idempotency_key for record in self.ledger.recover()}
        assert moved == {key for key, row in self.rows.items() if row.status is Status.RUNNING}
        for key in moved:
            row = self.rows[key]
            row.crashes += 1
            if row.crashes >= MAX_CRASHES:
                row.fail(self.now, f"the process died {row.crashes} times while this task was running", "poison")
            else:
                row.status, row.run_at = Status.QUEUED, self.now

    @precondition(lambda self: not any(row.status is Status.RUNNING for row in self.rows.values()))
    @rule()
    def close_and_reopen(self):
        """An orderly end leaves nothing to recover."""
        self.ledger.close()
        self.ledger = self._open()
        assert self.ledger.recover() == []

    @invariant()
    def model_and_database_agree(self):
        if not hasattr(self, "ledger"):
            return
        records = self.ledger.records()
        assert {record.idempotency_key: self._seen(record) for record in records} == {
            key: self._seen(row) for key, row in self.rows.items()
        }
        letters = self.ledger.dead_letters()
        assert {letter.idempotency_key for letter in letters} <= self.rows.keys()
        for key, row in self.rows.items():
            own = [letter for letter in letters if letter.idempotency_key == key]
            assert [letter.reason for letter in own] == row.letters
            assert sum(letter.replayed_at is not None for letter in own) == row.replayed
            assert (row.status is Status.FAILED) == (len(own) > row.replayed)

    @staticmethod
    def _seen(r):
        params = r.params if isinstance(r.params, str) else to_json(r.params)
        times = (r.created_at, r.run_at, r.finished_at)
        return (r.status, params, r.retries, r.attempt, r.crashes, *times, r.value, r.error)

    @invariant()
    def nothing_is_lost_or_invented(self):
        if hasattr(self, "ledger"):
            counts = self.ledger.counts()
            assert sum(counts.values()) == len(self.rows)
            assert sum(counts.values()) + self.ledger.purged() == self.submitted
            assert self.ledger.purged() == self.purged
            assert self.ledger.unfinished() == bool(counts[Status.QUEUED] + counts[Status.RUNNING])

    @invariant()
    def no_id_comes_back(self):
        """Also after a purge and a restart: a new task has a higher one."""
        if hasattr(self, "ledger"):
            new = [record.id for record in self.ledger.records() if record.id not in self.ids]
            assert all(row_id > max(self.ids, default=0) for row_id in new)
            self.ids.update(new)

    @invariant()
    def what_is_due_comes_in_order(self):
        if hasattr(self, "ledger"):
            queued = [(row.run_at, key) for key, row in self.rows.items() if row.status is Status.QUEUED]
            due = [record.idempotency_key for record in self.ledger.due(self.now, (-1.0, 0), 10)]
            assert sorted(due) == sorted(key for at, key in queued if at <= self.now)
            assert [self.rows[key].run_at for key in due] == sorted(self.rows[key].run_at for key in due)
            assert self.ledger.next_run_at(self.now) == min((at for at, _ in queued if at > self.now), default=None)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)

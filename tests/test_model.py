"""The ledger against a model of it: whatever the order of the calls, both agree after every step."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskqueue_core import Status
from taskqueue_core.inflight import conflict, draft_of
from taskqueue_core.ledger import MAX_CRASHES, Draft, Ledger

KEYS = st.sampled_from(["a", "b", "c", "d"])
PARAMS = st.sampled_from(['{"n":1}', '{"n":2}'])


@dataclass
class Row:
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
    letters: list[str] = field(default_factory=list)
    replayed: int = 0


class LedgerMachine(RuleBasedStateMachine):
    """Submit, claim, settle, crash, reopen, replay; the clock moves only when told."""

    stale = Bundle("stale")

    @initialize()
    def open(self):
        self.folder = tempfile.mkdtemp()
        self.now = 1000.0
        self.rows: dict[str, Row] = {}
        self.ledger = self._open()

    def _open(self):
        return Ledger(Path(self.folder, "tasks.db"), durability="process", clock=lambda: self.now)

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)

    @rule(key=KEYS, params=PARAMS)
    def submit(self, key, params):
        (inserted,) = self.ledger.insert([Draft(key, key, "", params)])
        assert inserted.created == (key not in self.rows)
        row = self.rows.setdefault(key, Row(params, self.now, self.now))
        refused = conflict(Draft(key, key, "", params), draft_of(inserted.record))
        assert (refused is not None) == (row.params != params)

    @rule(keys=st.lists(KEYS, min_size=2, max_size=4))
    def submit_many(self, keys):
        created = [
            inserted.created for inserted in self.ledger.insert([Draft(key, key, "", '{"n":1}') for key in keys])
        ]
        assert created == [key not in self.rows and key not in keys[:n] for n, key in enumerate(keys)]
        for key in keys:
            self.rows.setdefault(key, Row('{"n":1}', self.now, self.now))

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
            row.status, row.value, row.error = Status.SUCCESS, value, None

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
            row.status, row.error = Status.FAILED, "boom"
            row.letters.append("permanent")

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
            row.status, row.retries, row.crashes, row.run_at = Status.QUEUED, 0, 0, self.now
            row.replayed = len(row.letters)

    @rule(record=stale, arrow=st.sampled_from(["claim", "succeed", "retry", "fail", "release", "replay"]))
    def come_late(self, record, arrow):
        """Whoever holds an older version moves nothing."""
        if record is None or self.ledger.get(record.idempotency_key).version == record.version:
            return
        arguments = {"succeed": ["1"], "retry": ["x", 0.0], "fail": ["x", "permanent"]}.get(arrow, [])
        assert getattr(self.ledger, arrow)(record, *arguments) is None

    @rule()
    def crash_and_reopen(self):
        """The owner dies without settling anything; whatever was running is recovered."""
        self.ledger.close()
        self.ledger = self._open()
        moved = {record.idempotency_key for record in self.ledger.recover()}
        assert moved == {key for key, row in self.rows.items() if row.status is Status.RUNNING}
        for key in moved:
            row = self.rows[key]
            row.crashes, row.run_at, row.status = row.crashes + 1, self.now, Status.QUEUED
            if row.crashes >= MAX_CRASHES:
                row.status, row.error = (
                    Status.FAILED,
                    f"the process died {row.crashes} times while this task was running",
                )
                row.letters.append("poison")

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
            key: (row.status, row.retries, row.attempt, row.crashes, row.created_at, row.run_at, row.value, row.error)
            for key, row in self.rows.items()
        }
        letters = self.ledger.dead_letters()
        for key, row in self.rows.items():
            own = [letter for letter in letters if letter.idempotency_key == key]
            assert [letter.reason for letter in own] == row.letters
            assert sum(letter.replayed_at is not None for letter in own) == row.replayed
            assert (row.status is Status.FAILED) == (len(own) > row.replayed)

    @staticmethod
    def _seen(r):
        return (r.status, r.retries, r.attempt, r.crashes, r.created_at, r.run_at, r.value, r.error)

    @invariant()
    def nothing_is_lost_or_invented(self):
        if hasattr(self, "ledger"):
            counts = self.ledger.counts()
            assert sum(counts.values()) == len(self.rows)
            assert self.ledger.unfinished() == bool(counts[Status.QUEUED] + counts[Status.RUNNING])

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
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)

"""Group commit: many callers, one transaction, each answered after its COMMIT."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator

import pytest
from helpers import LONG, at_once, threads, until

from taskqueue_core import LedgerError
from taskqueue_core import commits as commits_module
from taskqueue_core.commits import GroupCommit, Transaction
from taskqueue_core.database import connect


@pytest.fixture
def database(tmp_path) -> Iterator[sqlite3.Connection]:
    """A database with one table of names."""
    connection = connect(str(tmp_path / "names.db"))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE names (name TEXT UNIQUE)")
    yield connection
    connection.close()


@pytest.fixture
def commits(database, tmp_path) -> GroupCommit:
    """Group commit over it."""
    return GroupCommit(database, tmp_path / "names.db", threading.Lock(), durable=2)


def insert(name: str):
    """A change that adds a name and returns it."""

    def apply(transaction: Transaction) -> str:
        transaction.database.execute("INSERT INTO names VALUES (?)", (name,))
        return name

    return apply


def names(tmp_path) -> set[str]:
    """What another connection sees: only what is committed."""
    reader = connect(str(tmp_path / "names.db"))
    try:
        return {row["name"] for row in reader.execute("SELECT name FROM names")}
    finally:
        reader.close()


class Gate:
    """A change that holds its transaction open until told."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go = threading.Event()

    def __call__(self, transaction: Transaction) -> None:
        self.inside.set()
        assert self.go.wait(LONG)


def test_a_change_is_committed_when_write_returns(commits, tmp_path):
    """Another connection sees it."""
    assert commits.write(insert("a")) == "a"
    assert names(tmp_path) == {"a"}


def test_changes_that_wait_share_one_transaction(commits, database, tmp_path):
    """While one commits, the others gather."""
    begins = []
    database.set_trace_callback(lambda statement: begins.append(statement) if statement.startswith("BEGIN") else None)
    gate = Gate()
    with threads(11) as pool:
        first = pool.submit(commits.write, gate)
        assert gate.inside.wait(LONG)
        others = [pool.submit(commits.write, insert(f"n{n}")) for n in range(10)]
        until(lambda: len(commits._pending) == 10)
        assert names(tmp_path) == set()
        gate.go.set()
        assert {future.result(LONG) for future in others} == {f"n{n}" for n in range(10)}
        first.result(LONG)
    assert len(begins) == 2
    assert len(names(tmp_path)) == 10


def test_a_bad_change_does_not_touch_its_neighbours(commits, tmp_path):
    """It alone gets the error, and leaves nothing."""
    commits.write(insert("taken"))
    gate = Gate()

    def half_done(transaction: Transaction) -> None:
        insert("half")(transaction)
        raise ValueError("bug")

    with threads(5) as pool:
        pool.submit(commits.write, gate)
        assert gate.inside.wait(LONG)
        good = pool.submit(commits.write, insert("good"))
        bad = pool.submit(commits.write, insert("taken"))
        bug = pool.submit(commits.write, half_done)
        until(lambda: len(commits._pending) == 3)
        gate.go.set()
        assert good.result(LONG) == "good"
        with pytest.raises(LedgerError, match="UNIQUE"):
            bad.result(LONG)
        with pytest.raises(ValueError, match="bug"):
            bug.result(LONG)
    assert names(tmp_path) == {"taken", "good"}


def test_every_change_of_many_threads_is_written_once(commits, tmp_path):
    """32 threads, 20 changes each."""
    at_once(lambda n: [commits.write(insert(f"{n}-{k}")) for k in range(20)], 32)
    assert len(names(tmp_path)) == 640


class Interrupted:
    """The gate of a caller who is interrupted at a moment of the test's choice."""

    def __init__(self, moment) -> None:
        self._moment = moment

    def acquire(self) -> None:
        self._moment()
        raise KeyboardInterrupt

    def release(self) -> None:
        """Nobody waits here any more."""


def interrupted(commits, monkeypatch, moment) -> None:
    """Write a change whose caller is interrupted while it waits."""

    class Request(commits_module.Request):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            self.gate = Interrupted(lambda: moment(self))

    monkeypatch.setattr(commits_module, "Request", Request)
    with pytest.raises(KeyboardInterrupt):
        commits.write(insert("interrupted"))
    monkeypatch.undo()


def test_an_interrupted_caller_leaves_nothing(commits, monkeypatch, tmp_path):
    """KeyboardInterrupt during the wait: its change is not written, and the others go on."""
    gate = Gate()
    with threads(2) as pool:
        first = pool.submit(commits.write, gate)
        assert gate.inside.wait(LONG)
        interrupted(commits, monkeypatch, lambda _: None)
        gate.go.set()
        first.result(LONG)
        assert pool.submit(commits.write, insert("after")).result(LONG) == "after"
    assert names(tmp_path) == {"after"}


def test_an_interrupted_caller_who_was_chosen_to_lead_still_leads(commits, monkeypatch, tmp_path):
    """Or those behind it would wait for ever."""
    gate = Gate()
    with threads(3) as pool:
        first = pool.submit(commits.write, gate)
        assert gate.inside.wait(LONG)
        behind = []

        def moment(request) -> None:
            monkeypatch.undo()
            behind.append(pool.submit(commits.write, insert("behind")))
            until(lambda: len(commits._pending) == 2)
            gate.go.set()
            until(lambda: request.chosen)

        interrupted(commits, monkeypatch, moment)
        first.result(LONG)
        assert behind[0].result(LONG) == "behind"
    assert names(tmp_path) == {"behind"}


def test_a_claim_alone_needs_no_fsync_and_a_durable_neighbour_brings_it_along(commits, database):
    """synchronous follows what the transaction needs."""
    level = lambda: database.execute("PRAGMA synchronous").fetchone()[0]  # noqa: E731
    seen = []
    commits.write(lambda _: seen.append(level()), durable=False)
    commits.write(lambda _: seen.append(level()))
    assert seen == [1, 2]
    gate = Gate()
    with threads(3) as pool:
        pool.submit(commits.write, gate)
        assert gate.inside.wait(LONG)
        pool.submit(commits.write, lambda _: seen.append(level()), durable=False)
        pool.submit(commits.write, lambda _: seen.append(level()))
        until(lambda: len(commits._pending) == 2)
        gate.go.set()
    assert seen == [1, 2, 2, 2]


def test_process_durability_never_asks_for_fsync(database, tmp_path):
    """NORMAL throughout."""
    commits = GroupCommit(database, tmp_path / "names.db", threading.Lock(), durable=1)
    assert commits.write(lambda t: t.database.execute("PRAGMA synchronous").fetchone()[0]) == 1


def test_a_failed_commit_fails_its_caller(commits, database, tmp_path):
    """A closed connection stands for one that cannot write."""
    database.close()
    with pytest.raises(LedgerError):
        commits.write(insert("lost"))

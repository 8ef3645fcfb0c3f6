"""Group commit: many callers, one transaction, each answered after its COMMIT; and those who do not wait for theirs."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import LONG, at_once, threads, until

from taskqueue_core import LedgerError
from taskqueue_core import commits as commits_module
from taskqueue_core.commits import GroupCommit, Stream
from taskqueue_core.database import connect
from taskqueue_core.writer import Mismatch, Transaction, Writer


class Database:
    """A connection that fails where the test says: the real one does all the work, and the real COMMIT."""

    def __init__(self, path: str) -> None:
        self.connection = connect(path)
        self.trouble: list[tuple[str, bool, str]] = []  # (statement, it is carried out first, SQLite's name)
        self.statements: list[str] = []

    def fail(self, statement: str, name: str = "SQLITE_FULL", *, after: bool = False, times: int = 1) -> None:
        """Let the next statements of this kind fail, before or after SQLite has carried them out."""
        self.trouble += [(statement, after, name)] * times

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self.statements.append(statement)
        if self.trouble and statement.startswith(self.trouble[0][0]):
            _, after, name = self.trouble.pop(0)
            if after:
                self.connection.execute(statement, *values)
            error = sqlite3.OperationalError("as the test says")
            error.sqlite_errorname = name
            raise error
        return self.connection.execute(statement, *values)

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    """A database with one table of names."""
    database = Database(str(tmp_path / "names.db"))
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE names (name TEXT UNIQUE)")
    yield database
    database.close()


@pytest.fixture
def writer(database, tmp_path) -> Writer:
    """What writes through it."""
    return Writer(database, tmp_path / "names.db", threading.Lock(), durable=2)


@pytest.fixture
def commits(writer) -> GroupCommit:
    """Group commit over that."""
    return GroupCommit(writer)


@pytest.fixture
def running(commits, monkeypatch) -> Iterator[Callable[..., None]]:
    """Start the commit thread, which tries again quickly; it ends with the test."""
    monkeypatch.setattr(commits_module, "PAUSE", 0.01)
    monkeypatch.setattr(commits_module, "TIDY", 0.01)
    started: list[threading.Thread] = []

    def start(tidy: Callable[[], None] = lambda: None, resumed: Callable[[], None] = lambda: None) -> None:
        started.append(
            threading.Thread(target=commits.run, args=(tidy, resumed), name="taskqueue-commits", daemon=True)
        )
        started[-1].start()

    yield start
    commits.close()
    for thread in started:
        thread.join(LONG)


def insert(transaction: Transaction, added: list[str]) -> list[str]:
    """A change that adds names, with one statement each, and returns them."""
    for name in added:
        transaction.database.execute("INSERT INTO names VALUES (?)", (name,))
    return list(added)


def insert_or_find(transaction: Transaction, added: list[str]) -> list[bool]:
    """A change that tells whether each name was new; what an earlier, uncertain try has added counts as new."""
    if not transaction.careful:
        marks = ", ".join(["(?)"] * len(added))
        cursor = transaction.database.execute(f"INSERT OR IGNORE INTO names VALUES {marks}", added)
        if cursor.rowcount != len(added) and len(added) > 1:
            raise Mismatch
        return [cursor.rowcount == len(added)] * len(added)
    inserted = [
        transaction.database.execute("INSERT OR IGNORE INTO names VALUES (?)", (name,)).rowcount == 1 for name in added
    ]
    return [new or transaction.again for new in inserted]


class Told:
    """What a stream's `done` was called with, and what another connection saw at that moment."""

    def __init__(self, tmp_path) -> None:
        self._folder = tmp_path
        self.answers: list[tuple[Any, Any]] = []
        self.seen: list[set[str]] = []

    def __call__(self, items: list[Any], results: list[Any]) -> None:
        self.seen.append(names(self._folder))
        self.answers += zip(items, results, strict=True)


@pytest.fixture
def told(tmp_path) -> Told:
    """What is told to those who posted."""
    return Told(tmp_path)


@pytest.fixture
def stream(commits, told) -> Stream:
    """A stream of names that must reach the disk."""
    stream = commits.stream(insert_or_find, durable=True)
    stream.done = told
    return stream


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

    def __call__(self, transaction: Transaction, items: list[Any]) -> list[Any]:
        self.inside.set()
        assert self.go.wait(LONG)
        return items

    def hold(self, pool, commits) -> Any:
        """The future of a call that stands inside its transaction."""
        future = pool.submit(commits.write, self, [None])
        assert self.inside.wait(LONG)
        return future


def begins(database: Database) -> int:
    """How many transactions were begun so far."""
    return sum(statement.startswith("BEGIN") for statement in database.statements)


# Those who wait


def test_a_change_is_committed_when_write_returns(commits, tmp_path):
    """Another connection sees it."""
    assert commits.write(insert, ["a", "b"]) == ["a", "b"]
    assert names(tmp_path) == {"a", "b"}


def test_changes_that_wait_share_one_transaction(commits, database, tmp_path):
    """While one commits, the others gather; each gets the results of its own items, from one call for all."""
    gate, calls = Gate(), []

    def counted(transaction: Transaction, items: list[str]) -> list[str]:
        calls.append(len(items))
        return insert(transaction, items)

    with threads(11) as pool:
        first = gate.hold(pool, commits)
        before = begins(database)
        others = [pool.submit(commits.write, counted, [f"{n}-{k}" for k in range(n)]) for n in range(1, 11)]
        until(lambda: len(commits._waiting) == 10)
        assert names(tmp_path) == set()
        gate.go.set()
        assert [future.result(LONG) for future in others] == [[f"{n}-{k}" for k in range(n)] for n in range(1, 11)]
        first.result(LONG)
    assert begins(database) - before == 1
    assert calls == [55]
    assert len(names(tmp_path)) == 55


def test_a_bad_change_does_not_touch_its_neighbours(commits, tmp_path):
    """It alone gets the error, and leaves nothing; with it falls what was asked for together with it."""
    commits.write(insert, ["taken"])
    gate = Gate()

    def half_done(transaction: Transaction, items: list[str]) -> list[str]:
        insert(transaction, items)
        raise ValueError("bug")

    with threads(5) as pool:
        gate.hold(pool, commits)
        good = pool.submit(commits.write, insert, ["good"])
        bad = pool.submit(commits.write, insert, ["with the bad one", "taken"])
        bug = pool.submit(commits.write, half_done, ["half"])
        until(lambda: len(commits._waiting) == 3)
        gate.go.set()
        assert good.result(LONG) == ["good"]
        with pytest.raises(LedgerError, match="UNIQUE"):
            bad.result(LONG)
        with pytest.raises(ValueError, match="bug"):
            bug.result(LONG)
    assert names(tmp_path) == {"taken", "good"}


def test_every_change_of_many_threads_is_written_once(commits, tmp_path):
    """32 threads, 20 changes each."""
    at_once(lambda n: [commits.write(insert, [f"{n}-{k}"]) for k in range(20)], 32)
    assert len(names(tmp_path)) == 640


class Interrupted:
    """The gate of a caller who is interrupted at a moment of the test's choice."""

    def __init__(self, moment) -> None:
        self._moment = moment

    def acquire(self, timeout: float = -1) -> bool:
        self._moment()
        raise KeyboardInterrupt

    def release(self) -> None:
        """Nobody waits here any more."""


def interrupted(commits, monkeypatch, moment) -> None:
    """Write a change whose caller is interrupted while it waits."""

    def wait(request) -> None:
        request.gate = Interrupted(lambda: moment(request))
        waits(request)

    waits = commits._wait
    monkeypatch.setattr(commits, "_wait", wait)
    with pytest.raises(KeyboardInterrupt):
        commits.write(insert, ["interrupted"])
    monkeypatch.undo()


def test_an_interrupted_caller_leaves_nothing(commits, monkeypatch, tmp_path):
    """KeyboardInterrupt during the wait: its change is not written, and the others go on."""
    gate = Gate()
    with threads(2) as pool:
        first = gate.hold(pool, commits)
        interrupted(commits, monkeypatch, lambda _: None)
        gate.go.set()
        first.result(LONG)
        assert pool.submit(commits.write, insert, ["after"]).result(LONG) == ["after"]
    assert names(tmp_path) == {"after"}


def test_an_interrupted_caller_who_was_chosen_to_lead_still_leads(commits, monkeypatch, tmp_path, running):
    """Or those behind it would wait for ever."""
    running()
    gate = Gate()
    with threads(3) as pool:
        first = gate.hold(pool, commits)
        behind = []

        def moment(request) -> None:
            monkeypatch.undo()
            behind.append(pool.submit(commits.write, insert, ["behind"]))
            until(lambda: len(commits._waiting) == 2)
            gate.go.set()
            until(lambda: request.leads)

        interrupted(commits, monkeypatch, moment)
        first.result(LONG)
        assert behind[0].result(LONG) == ["behind"]
    assert names(tmp_path) == {"behind"}


def test_a_leader_that_is_interrupted_leaves_no_neighbour_waiting(commits, tmp_path, stream, told, running):
    """Its own `done` is cut short; what stood in the same transaction is told all the same."""
    running()

    def cut_short(items: list[str], results: list[str]) -> None:
        raise KeyboardInterrupt

    stream.post(["neighbour"])
    with pytest.raises(KeyboardInterrupt):
        commits.write(insert, ["own"], done=cut_short)
    until(lambda: told.answers)
    assert names(tmp_path) == {"own", "neighbour"}


def test_a_claim_alone_needs_no_fsync_and_a_durable_neighbour_brings_it_along(commits, database):
    """synchronous follows what the transaction needs."""

    def level(transaction: Transaction, items: list[None]) -> list[int]:
        return [transaction.database.execute("PRAGMA synchronous").fetchone()[0]] * len(items)

    assert commits.write(level, [None], durable=False) == [1]
    assert commits.write(level, [None]) == [2]
    assert commits.write(level, [None], durable=False) == [1]
    gate = Gate()
    with threads(3) as pool:
        gate.hold(pool, commits)
        both = [pool.submit(commits.write, level, [None], durable=durable) for durable in (False, True)]
        until(lambda: len(commits._waiting) == 2)
        gate.go.set()
        assert [future.result(LONG) for future in both] == [[2], [2]]


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_a_posted_change_asks_for_the_disk_as_its_stream_says(commits, database, durable, level):
    """A success needs it, a claim does not."""
    seen = []
    stream = commits.stream(
        lambda transaction, items: seen.append(database.execute("PRAGMA synchronous").fetchone()[0]) or items,
        durable=durable,
    )
    stream.post([None])
    with threads(1) as pool:
        assert pool.submit(commits.help).result(LONG)
    assert seen == [level]


def test_process_durability_never_asks_for_fsync(database, tmp_path):
    """NORMAL throughout."""
    commits = GroupCommit(Writer(database, tmp_path / "names.db", threading.Lock(), durable=1))
    assert commits.write(lambda t, _: [t.database.execute("PRAGMA synchronous").fetchone()[0]], [None]) == [1]


def test_a_failed_commit_fails_its_caller(commits, database, tmp_path):
    """A closed connection stands for one that cannot write."""
    database.close()
    with pytest.raises(LedgerError):
        commits.write(insert, ["lost"])


@pytest.mark.parametrize("statement", ["PRAGMA synchronous", "BEGIN", "INSERT", "COMMIT"])
def test_whatever_statement_fails_the_caller_is_told_and_nothing_stays(commits, database, tmp_path, statement):
    """The code is SQLite's own; the next caller finds no open transaction."""
    database.fail(statement)
    with pytest.raises(LedgerError, match=r"names\.db.*SQLITE_FULL") as caught:
        commits.write(insert, ["lost"])
    assert (caught.value.code, caught.value.damaged) == ("SQLITE_FULL", False)
    assert names(tmp_path) == set()
    assert commits.write(insert, ["found"]) == ["found"]


def test_a_failed_commit_fails_or_retries_every_waiter(commits, database, tmp_path):
    """COMMIT fails for three together, and then for one of them alone: it is told, the others are written."""
    gate = Gate()
    with threads(4) as pool:
        first = gate.hold(pool, commits)
        others = [pool.submit(commits.write, insert, [f"n{n}"]) for n in range(3)]
        until(lambda: len(commits._waiting) == 3)
        commit = database.execute

        def then_fail(statement: str, *values: Any) -> sqlite3.Cursor:
            done = commit(statement, *values)
            if statement == "COMMIT":  # the first one's
                database.execute = commit
                database.fail("COMMIT", times=2)
            return done

        database.execute = then_fail
        gate.go.set()
        first.result(LONG)
        failed = [future.exception(LONG) for future in others]
    assert sorted(type(error) for error in failed if error) == [LedgerError]
    assert not database.trouble
    assert len(names(tmp_path)) == 2


def test_the_order_of_requests_is_the_order_of_their_changes(commits, tmp_path):
    """The first one who asked gets the name; the one behind it is told that it is taken."""
    gate = Gate()
    with threads(3) as pool:
        gate.hold(pool, commits)
        first = pool.submit(commits.write, insert, ["same"])
        until(lambda: len(commits._waiting) == 1)
        second = pool.submit(commits.write, insert, ["same"])
        until(lambda: len(commits._waiting) == 2)
        gate.go.set()
        assert first.result(LONG) == ["same"]
        assert isinstance(second.exception(LONG), LedgerError)


# done, and those who post


def test_done_is_called_after_the_commit_and_never_before(commits, told, tmp_path):
    """Another connection sees the row by then; `write` returns after that."""
    assert commits.write(insert, ["a"], done=told) == ["a"]
    assert (told.answers, told.seen) == ([("a", "a")], [{"a"}])


def test_done_is_called_once_for_all_who_wait_in_one_transaction(commits, tmp_path):
    """All but the one that leads, which calls it for itself; before their calls return."""
    gate, calls, returned = Gate(), [], []

    def done(items: list[str], results: list[str]) -> None:
        assert items == results
        assert set(items) <= names(tmp_path)
        assert not set(items) & set(returned)
        calls.append(items)

    def call(name: str) -> None:
        commits.write(insert, [name], done=done)
        returned.append(name)

    with threads(5) as pool:
        gate.hold(pool, commits)
        others = [pool.submit(call, f"n{n}") for n in range(4)]
        until(lambda: len(commits._waiting) == 4)
        gate.go.set()
        for future in others:
            future.result(LONG)
    assert sorted(map(len, calls)) == [1, 3]
    assert sorted(returned) == sorted(name for items in calls for name in items) == ["n0", "n1", "n2", "n3"]


def test_done_is_not_called_for_a_change_that_failed(commits, told, tmp_path):
    """Its caller has the error, whether it leads or waits; the one behind it is told."""
    commits.write(insert, ["taken"])
    with pytest.raises(LedgerError):
        commits.write(insert, ["taken"], done=told)
    gate = Gate()
    with threads(3) as pool:
        gate.hold(pool, commits)
        waiting = [pool.submit(commits.write, insert, [name], done=told) for name in ("taken", "new")]
        until(lambda: len(commits._waiting) == 2)
        gate.go.set()
        assert [type(future.exception(LONG)) for future in waiting] == [LedgerError, type(None)]
    assert told.answers == [("new", "new")]


def test_a_change_whose_caller_has_its_error_is_never_written_later(commits, told, database, tmp_path):
    """G9: what is kept for another try is what was posted; who waited was told."""
    gate = Gate()
    with threads(3) as pool:
        gate.hold(pool, commits)
        waiting = [pool.submit(commits.write, insert, [name], done=told) for name in ("a", "b")]
        until(lambda: len(commits._waiting) == 2)
        database.fail("INSERT", times=3)  # both together, then each alone
        gate.go.set()
        assert [type(future.exception(LONG)) for future in waiting] == [LedgerError, LedgerError]
    commits.close()
    assert (told.answers, names(tmp_path), database.trouble) == ([], set(), [])


def test_a_bug_in_done_does_not_touch_the_neighbours(commits, told, stream, tmp_path, caplog):
    """It is logged; the others are told, and their calls return."""
    broken = commits.stream(insert, durable=True)
    broken.done = lambda items, results: 1 / 0
    broken.post(["a"])
    stream.post(["b"])
    with threads(1) as pool:
        assert pool.submit(commits.write, insert, ["c"]).result(LONG) == ["c"]
    assert (told.answers, names(tmp_path)) == ([("b", True)], {"a", "b", "c"})
    assert "ZeroDivisionError" in caplog.text


def test_what_is_posted_goes_with_the_next_caller_that_waits(commits, stream, told, database, tmp_path):
    """One transaction for both; nobody needs the commit thread."""
    stream.post(["a", "b"])
    stream.post(["c"])
    assert (names(tmp_path), told.answers) == (set(), [])
    before = begins(database)
    with threads(1) as pool:
        pool.submit(commits.write, insert, ["d"]).result(LONG)
    assert begins(database) - before == 1
    assert told.answers == [("a", True), ("b", True), ("c", True)]
    assert told.seen == [{"a", "b", "c", "d"}]


def test_help_writes_what_is_posted_and_says_so(commits, stream, told, tmp_path):
    """False when there is nothing, or when somebody writes already: that one sees to it."""
    with threads(2) as pool:
        assert not pool.submit(commits.help).result(LONG)
        stream.post(["a"])
        assert pool.submit(commits.help).result(LONG)
        assert told.answers == [("a", True)]
        gate = Gate()
        gate.hold(pool, commits)
        stream.post(["b"])
        assert not pool.submit(commits.help).result(LONG)
        gate.go.set()
        assert until(lambda: not commits._led)
        assert pool.submit(commits.help).result(LONG)
    assert told.answers == [("a", True), ("b", True)]


def test_nudge_has_the_commit_thread_write_what_is_posted(commits, stream, told, tmp_path, running):
    """Nobody else does; again and again."""
    running()
    for n in range(20):
        stream.post([f"n{n}"])
        commits.nudge()
        until(lambda n=n: len(told.answers) == n + 1)
    assert told.answers == [(f"n{n}", True) for n in range(20)]
    assert all(f"n{n}" in seen for n, seen in enumerate(told.seen))


def test_what_is_posted_while_somebody_writes_is_written_by_the_commit_thread(commits, stream, told, running):
    """The one that led has no reason to stay, and nobody nudges."""
    running()
    gate = Gate()
    with threads(1) as pool:
        gate.hold(pool, commits)
        stream.post(["late"])
        gate.go.set()
        until(lambda: told.answers == [("late", True)])


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_one_posted_change_that_fails_does_not_touch_its_neighbours(commits, told, tmp_path, bad):
    """Its own result is the error; the others are written, each once."""
    stream = commits.stream(insert, durable=False)
    stream.done = told
    commits.write(insert, ["taken"])
    posted = [f"n{n}" for n in range(6)]
    posted.insert(bad, "taken")
    stream.post(posted)
    with threads(1) as pool:
        pool.submit(commits.help).result(LONG)
    answers = dict(told.answers)
    error = answers.pop("taken")
    assert isinstance(error, LedgerError)
    assert error.code == "SQLITE_CONSTRAINT_UNIQUE"
    assert answers == {f"n{n}": f"n{n}" for n in range(6)}
    assert len(told.answers) == 7
    assert names(tmp_path) == {"taken", *answers}


def test_one_posted_change_that_does_not_match_is_found_row_by_row(commits, stream, told, database, tmp_path):
    """A second transaction with a statement for each; the first one is rolled back."""
    commits.write(insert, ["taken"])
    before = begins(database)
    stream.post(["a", "taken", "b"])
    with threads(1) as pool:
        pool.submit(commits.help).result(LONG)
    assert told.answers == [("a", True), ("taken", False), ("b", True)]
    assert begins(database) - before == 2
    assert database.statements.count("ROLLBACK") == 1


def test_posted_changes_are_written_by_close(commits, stream, told, tmp_path):
    """And told before it returns."""
    stream.post(["a", "b"])
    commits.close()
    assert told.answers == [("a", True), ("b", True)]
    assert names(tmp_path) == {"a", "b"}


def test_posted_changes_are_written_by_close_also_while_somebody_writes(commits, stream, told, tmp_path):
    """Who leads at that moment has begun before they were posted."""
    gate = Gate()
    with threads(2) as pool:
        leading = gate.hold(pool, commits)
        stream.post(["late"])
        closing = pool.submit(commits.close)
        until(lambda: commits.closed)
        gate.go.set()
        leading.result(LONG)
        closing.result(LONG)
    assert (told.answers, names(tmp_path)) == ([("late", True)], {"late"})


def test_what_is_posted_while_it_closes_is_told_exactly_once(commits, stream, told, tmp_path):
    """Written, or refused; whichever it is, the ledger agrees."""
    each = 200

    def post(thread: int) -> None:
        for n in range(each):
            stream.post([f"{thread}-{n}"])

    at_once(lambda n: commits.close() if n == 4 else post(n), 5)
    assert sorted(item for item, _ in told.answers) == sorted(f"{t}-{n}" for t in range(4) for n in range(each))
    assert {item for item, result in told.answers if result is True} == names(tmp_path)
    assert not stream.items


def test_what_comes_too_late_leaves_what_came_in_time(commits, stream, told, tmp_path):
    """Posted before it was closed, it is written by whoever closes."""
    stream.post(["in time"])
    commits.closed = True
    stream.post(["too late"])
    assert [(item, type(result)) for item, result in told.answers] == [("too late", LedgerError)]
    commits.close()
    assert told.answers[1:] == [("in time", True)]
    assert names(tmp_path) == {"in time"}


def test_a_caller_waits_for_company_only_where_there_was_some(commits, writer, monkeypatch):
    """Until `delay` seconds after the last transaction; a lone caller, and `close`, wait for nobody."""
    pauses: list[float] = []
    monkeypatch.setattr(commits_module, "time", SimpleNamespace(perf_counter=lambda: 50.0, sleep=pauses.append,
                                                                monotonic=time.monotonic))  # fmt: skip
    commits.delay = lambda: 0.25
    commits.write(insert, ["alone"])
    commits.write(insert, ["alone again"])
    assert pauses == []
    gate = Gate()
    with threads(3) as pool:
        gate.hold(pool, commits)
        others = [pool.submit(commits.write, insert, [name]) for name in ("a", "b")]
        until(lambda: len(commits._waiting) == 2)
        gate.go.set()
        for other in others:
            other.result(LONG)
    assert pauses == [], "the last transaction before theirs was a lone one"
    commits.write(insert, ["c"])
    assert pauses == [0.25]
    commits.write(insert, ["d"])
    assert pauses == [0.25], "and that was alone again"
    commits._callers = 2
    commits.close()
    assert pauses == [0.25]


def test_what_is_posted_after_close_is_told_at_once(commits, stream, told, tmp_path):
    """Nobody would write it any more."""
    commits.close()
    stream.post(["a", "b"])
    assert [(item, type(result)) for item, result in told.answers] == [("a", LedgerError), ("b", LedgerError)]
    assert names(tmp_path) == set()


# When the ledger cannot be written


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "COMMIT"])
def test_a_posted_change_that_found_no_space_is_written_once_when_space_returns(
    commits, stream, told, database, tmp_path, statement, running
):
    """It is kept and tried again, by itself; it is told once, and not before it stands."""
    database.fail(statement, times=5)
    resumed = threading.Event()
    running(resumed=resumed.set)
    stream.post(["kept", "too"])
    commits.nudge()
    until(lambda: len(told.answers) == 2)
    assert sorted(told.answers) == [("kept", True), ("too", True)]
    assert names(tmp_path) == {"kept", "too"}
    assert not database.trouble
    assert resumed.wait(LONG)
    until(lambda: not commits.troubled)


def test_trouble_is_a_bad_time_to_begin_new_work(commits, stream, database, running):
    """From the failure until it is time for another try."""
    assert not commits.troubled
    database.fail("COMMIT")
    with pytest.raises(LedgerError):
        commits.write(insert, ["lost"])
    assert commits.troubled
    running()
    until(lambda: not commits.troubled)


def test_a_posted_change_that_needs_no_disk_is_not_kept(commits, told, database, tmp_path):
    """A claim that could not be written is told: its task is somebody else's again."""
    stream = commits.stream(insert_or_find, durable=False)
    stream.done = told
    database.fail("BEGIN")
    stream.post(["claim"])
    with threads(1) as pool:
        pool.submit(commits.help).result(LONG)
    ((item, error),) = told.answers
    assert (item, type(error), names(tmp_path)) == ("claim", LedgerError, set())


def test_close_tries_what_was_kept_once_more(commits, stream, told, database, tmp_path):
    """And tells the error when that fails, too."""
    database.fail("COMMIT")
    stream.post(["kept"])
    with threads(1) as pool:
        pool.submit(commits.help).result(LONG)
    assert told.answers == []
    commits.close()
    assert (told.answers, names(tmp_path)) == ([("kept", True)], {"kept"})


def test_close_tells_what_could_not_be_written(commits, stream, told, database, tmp_path):
    """The error is the result; nobody waits for ever."""
    database.fail("BEGIN", times=99)
    stream.post(["a", "b"])
    commits.close()
    assert [(item, type(result)) for item, result in told.answers] == [("a", LedgerError), ("b", LedgerError)]
    assert names(tmp_path) == set()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_commit_that_succeeded_but_was_reported_as_failed_counts_as_done(
    commits, stream, told, database, tmp_path, count, running
):
    """Tried again, it finds what it has written itself."""
    database.fail("COMMIT", "SQLITE_IOERR", after=True)
    running()
    stream.post([f"n{n}" for n in range(count)])
    commits.nudge()
    until(lambda: len(told.answers) == count)
    assert sorted(told.answers) == [(f"n{n}", True) for n in range(count)]
    assert names(tmp_path) == {f"n{n}" for n in range(count)}


def test_an_uncertain_try_does_not_excuse_its_neighbours(commits, stream, told, database, tmp_path, running):
    """`again` is for the change that was tried before, not for one that meets it in the next transaction."""
    commits.write(insert, ["taken"])
    database.fail("COMMIT", "SQLITE_IOERR", after=True)
    stream.post(["uncertain"])
    with threads(1) as pool:
        pool.submit(commits.help).result(LONG)
    assert told.answers == []
    stream.post(["taken", "new"])
    running()
    until(lambda: len(told.answers) == 3)
    assert dict(told.answers) == {"uncertain": True, "taken": False, "new": True}


@pytest.mark.parametrize("name", ["SQLITE_CORRUPT", "SQLITE_CORRUPT_INDEX", "SQLITE_NOTADB"])
def test_a_damaged_file_is_not_written_any_more(commits, stream, told, database, tmp_path, name):
    """Neither by those who wait nor by those who post, and nothing is tried again."""
    database.fail("BEGIN", name)
    with pytest.raises(LedgerError) as caught:
        commits.write(insert, ["lost"])
    assert caught.value.damaged
    assert commits.troubled
    before = len(database.statements)
    with pytest.raises(LedgerError) as caught:
        commits.write(insert, ["lost too"])
    assert caught.value.damaged
    stream.post(["a", "b"])
    with threads(1) as pool:
        pool.submit(commits.help).result(LONG)
    assert [(item, result.damaged) for item, result in told.answers] == [("a", True), ("b", True)]
    assert len(database.statements) == before
    assert names(tmp_path) == set()


def test_a_damaged_file_costs_no_memory(commits, database):
    """A caller that asks again and again gets an error of its own, and not one that grows."""
    database.fail("BEGIN", "SQLITE_CORRUPT")
    depths = []
    for _ in range(20):
        with pytest.raises(LedgerError) as caught:
            commits.write(insert, ["lost"])
        depths.append(len(caught.traceback))
    assert depths[-1] == depths[1]


# The commit thread


def test_tidying_follows_changes_that_nobody_posted(commits, running):
    """The one who waited wrote them himself; the commit thread slept."""
    tidied = threading.Semaphore(0)
    running(tidy=tidied.release)
    with threads(1) as pool:
        for n in range(3):
            pool.submit(commits.write, insert, [f"n{n}"]).result(LONG)
            assert tidied.acquire(timeout=5), "the commit thread slept on"


def test_tidying_follows_changes_that_were_posted(commits, stream, told, running):
    """Some time after, and once until there are more."""
    tidied = threading.Semaphore(0)
    running(tidy=tidied.release)
    for n in range(3):
        stream.post([f"n{n}"])
        commits.nudge()
        assert tidied.acquire(timeout=LONG)


def test_a_bug_in_tidying_does_not_end_the_commit_thread(commits, stream, told, running, caplog):
    """It is logged, and what is posted is written on."""
    tidied = threading.Event()

    def tidy() -> None:
        tidied.set()
        raise ValueError("bug")

    running(tidy=tidy)
    stream.post(["a"])
    commits.nudge()
    assert tidied.wait(LONG)
    stream.post(["b"])
    commits.nudge()
    until(lambda: len(told.answers) == 2)
    assert "ValueError: bug" in caplog.text


def test_tidying_may_write_while_the_main_thread_leads(commits, stream, told, tmp_path, running):
    """Told by hand: 1. A writes. 2. The main thread waits, then the commit thread, for what tidying removes. 3. The
    main thread leads for both. Whoever tells the commit thread must not be the commit thread.
    """
    gate, tidied = Gate(), threading.Event()
    allowed = threading.Event()

    def tidy() -> None:
        if allowed.is_set() and not tidied.is_set():
            commits.write(insert, ["tidied"])
            tidied.set()

    def conduct() -> None:
        until(lambda: len(commits._waiting) == 1)
        allowed.set()
        commits._tidy_at = 0.0
        stream.post(["wakes it"])
        with commits.door:
            commits._wake_thread()
        until(lambda: len(commits._waiting) == 2)
        gate.go.set()

    running(tidy=tidy)
    with threads(2) as pool:
        gate.hold(pool, commits)
        conductor = pool.submit(conduct)
        commits.write(insert, ["main"])
        conductor.result(LONG)
        hangs = not tidied.wait(3.0)
        if hangs:  # somebody else frees it, so that this test ends
            pool.submit(commits.write, insert, ["frees it"]).result(LONG)
            assert tidied.wait(LONG)
    assert not hangs
    assert {"main", "tidied"} <= names(tmp_path)


def test_transactions_are_observed(commits, writer, stream, database):
    """How long each took and how many changes it had; a transaction that failed is none."""
    seen = []
    writer.observe = lambda seconds, changes: seen.append((seconds >= 0.0, changes))
    stream.post(["a", "b"])
    with threads(1) as pool:
        pool.submit(commits.write, insert, ["c"]).result(LONG)
        database.fail("COMMIT")
        assert pool.submit(commits.write, insert, ["d"]).exception(LONG)
    assert seen == [(True, 3)]
    assert writer.seconds > 0


def test_nothing_is_acknowledged_inside_a_transaction_that_could_not_be_rolled_back(commits, database, tmp_path):
    """A ROLLBACK failed too: the next change is written in a transaction of its own, and committed."""
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO names VALUES ('left')")
    assert commits.write(insert, ["a"]) == ["a"]
    assert not database.in_transaction
    assert names(tmp_path) == {"a"}

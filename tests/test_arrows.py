"""Many changes in one statement: each row has its own guard, its own answer and its own neighbours to spare."""

import sqlite3
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest
from helpers import LONG, at_once, draft, output, posted, report_failed, sql, threads, until

from taskqueue_core import LedgerError, Status, TaskRecord
from taskqueue_core import arrows as arrows_module
from taskqueue_core import commits as commits_module
from taskqueue_core.arrows import Row, Success, row_of
from taskqueue_core.ledger import Ledger
from taskqueue_core.publish import Publication
from taskqueue_core.writer import Transaction


@pytest.fixture(params=["at once", "in parts"])
def ledger(path, request):
    """A ledger that makes a transaction with one statement where it can, or that never does."""
    with closing(Ledger(path, durability="process", clock=lambda: 1000.0)) as ledger:
        if request.param == "in parts":
            ledger.writer.at_once = lambda database, changes: None
        yield ledger


@pytest.fixture
def transactions(ledger):
    """How many changes each transaction made."""
    seen = []
    ledger.writer.observe = lambda seconds, changes: seen.append(changes)
    return seen


@pytest.fixture
def statements(ledger):
    """What SQLite was asked, each text once, without what surrounds it."""
    seen = {}
    ledger._writer.set_trace_callback(lambda text: seen.setdefault(text.strip()))
    yield lambda: [text for text in seen if not text.startswith(("PRAGMA", "BEGIN", "COMMIT", "ROLLBACK"))]
    ledger._writer.set_trace_callback(None)


def queued(ledger, count, name="k"):
    return ledger.insert([draft(f"{name}{n}") for n in range(count)])


def running(ledger, count, name="k"):
    return [row_of(ledger.claim(row)) for row in queued(ledger, count, name)]


def states(ledger):
    return [record.status.value for record in ledger.records()]


def admit(ledger, keys, claims):
    """Insert as admission does, with those for which a worker is free; the rows, as `done` was told."""
    told = []
    entries = [SimpleNamespace(draft=draft(key), reserved=key in claims) for key in keys]
    ledger.admit(entries, lambda tasks, rows: told.append((tasks, rows)))
    ((tasks, rows),) = told
    assert tasks == entries
    return rows


# Claims


def test_posted_claims_are_made_by_one_statement(ledger, statements, transactions):
    """All of them in one transaction; each row is running in its next version, its attempt counted."""
    rows = queued(ledger, 50)
    before = len(statements())
    assert posted(ledger, claims=rows) == [True] * 50
    assert (len(statements()) - before, transactions) == (1, [50, 50])
    assert [(record.status, record.version, record.attempt) for record in ledger.records()] == [("running", 2, 1)] * 50


@pytest.mark.parametrize("bad", [0, 2, 4])
@pytest.mark.parametrize("why", ["cancelled", "claimed", "stale", "gone", "unknown"])
def test_one_claim_that_does_not_match_does_not_touch_its_neighbours(ledger, path, bad, why):
    """It alone is told so, and its own row stays as it is."""
    rows = queued(ledger, 5)
    if why == "cancelled":
        ledger.cancel(rows[bad])
    elif why == "claimed":
        ledger.claim(rows[bad])
    elif why == "stale":
        ledger.release(ledger.claim(rows[bad]))
    elif why == "gone":
        ledger.purge(ledger.cancel(rows[bad]))
    else:
        rows[bad] = Row(999, 1)
    before = sql(path, f"SELECT * FROM tasks WHERE id = {rows[bad].id}")
    assert posted(ledger, claims=rows) == [n != bad for n in range(5)]
    assert sql(path, f"SELECT * FROM tasks WHERE id = {rows[bad].id}") == before
    assert [ledger.get(f"k{n}").status for n in range(5) if n != bad] == [Status.RUNNING] * 4


def test_a_row_posted_twice_is_claimed_once(ledger):
    """In one batch, and from many threads at once."""
    (row,) = queued(ledger, 1)
    assert posted(ledger, claims=[row, row]) == [True, False]
    for n in range(5):
        (row,) = queued(ledger, 1, f"many{n}")
        answers = []
        ledger.claims.done = lambda items, results: answers.extend(results)  # noqa: B023

        def claim(_, row=row):
            ledger.claims.post([SimpleNamespace(row=row)])
            ledger.commits.help()

        at_once(claim, 8)
        with threads(1) as pool:
            pool.submit(ledger.insert, []).result(LONG)  # leads for what a busy moment has left
        assert sorted(answers) == [False] * 7 + [True]
        assert ledger.get(f"many{n}0").attempt == 1


# Insert and claim in one


def test_a_task_for_which_a_worker_is_free_is_inserted_running(ledger):
    """T1 and T2 in one statement: its second version, its first attempt; its neighbours are queued."""
    rows = admit(ledger, ["a", "b", "c"], {"a", "c"})
    assert [(row.version, row.attempt) for row in rows] == [(2, 1), (1, 0), (2, 1)]
    records = [ledger.get(key) for key in "abc"]
    assert [record.status for record in records] == ["running", "queued", "running"]
    assert [row_of(record) for record in records] == rows
    assert ledger.succeed(rows[0], "1").value == 1
    assert ledger.claim(rows[1]) is not None


def test_a_known_key_is_not_claimed_by_its_insert(ledger):
    """Whatever state its task is in, it stays there; the new ones beside it are running."""
    known = [row_of(ledger.get(key)) for key in ("k0",) if queued(ledger, 1)]
    old, new = admit(ledger, ["k0", "new"], {"k0", "new"})
    assert isinstance(old, TaskRecord)
    assert [row_of(old)] == known
    assert (old.status, new, ledger.get("new").status) == ("queued", Row(new.id, 2, 1), "running")


def test_the_key_of_a_cancelled_task_is_queued_by_its_insert_not_claimed(ledger):
    """Its row is an old one: the version tells the caller that it was not claimed."""
    (row,) = queued(ledger, 1)
    ledger.cancel(row)
    again, new = admit(ledger, ["k0", "new"], {"k0", "new"})
    assert (again, ledger.get("k0").status) == (Row(row.id, 3), "queued")
    assert (new.version, ledger.get("new").status) == (2, "running")


def test_ids_go_on_where_they_ended(path):
    """After a restart too, also when the last tasks are gone, so that no id comes back."""
    with closing(Ledger(path, durability="process")) as ledger:
        rows = queued(ledger, 3)
        ledger.purge(ledger.cancel(rows[2]))
    with closing(Ledger(path, durability="process")) as ledger:
        (new,) = queued(ledger, 1, "new")
        assert new.id > rows[2].id


def test_a_row_that_is_not_inserted_costs_no_neighbour_its_id(ledger):
    """Known keys between new ones: each answer is that of its own row."""
    queued(ledger, 2)
    rows = ledger.insert([draft(key) for key in ("a", "k1", "b", "k0", "c")])
    assert [row.id for row in rows] == [ledger.get(key).id for key in ("a", "k1", "b", "k0", "c")]
    assert len({row.id for row in rows}) == 5


# Successes


def test_posted_successes_are_made_by_one_statement(ledger, statements, transactions):
    """Each with its own value, text or number, quoted or not."""
    values = ["null", "1", '"x"', '{"a":[1,"\\u0000é"]}', "1.5", "true", '"\u2028"', '"\\"{}"']
    rows = running(ledger, len(values))
    before = len(statements())
    assert posted(ledger, successes=list(zip(rows, values, strict=True))) == [True] * len(values)
    assert (len(statements()) - before, transactions[-1]) == (1, len(values))
    found = [record.value for record in ledger.records()]
    assert found == [None, 1, "x", {"a": [1, "\0é"]}, 1.5, True, "\u2028", '"{}']
    assert [type(value) for value in found][-3] is bool
    assert {record.finished_at for record in ledger.records()} == {1000.0}


@pytest.mark.parametrize("fenced", [0, 2, 4])
def test_one_fenced_success_does_not_touch_its_neighbours(ledger, path, tmp_path, fenced):
    """Its output is not published; theirs are, with their names, sizes and hashes."""
    rows = running(ledger, 5)
    ledger.claim(ledger.release(rows[fenced]))
    before = ledger.get(f"k{fenced}")
    publications = [
        Publication.prepare(output(tmp_path, b"x" * (n + 1), f"{n}.jpg"), f"k{n}", durable=False) for n in range(5)
    ]
    successes = [(row, str(n), publications[n]) for n, row in enumerate(rows)]
    assert posted(ledger, successes=successes) == [n != fenced for n in range(5)]
    assert ledger.get(f"k{fenced}") == before
    assert publications[fenced].temp_path.exists()
    for n in set(range(5)) - {fenced}:
        record = ledger.get(f"k{n}")
        assert (record.status, record.value, record.size) == ("success", n, n + 1)
        assert (tmp_path / record.output_key).read_bytes() == b"x" * (n + 1)


@pytest.mark.parametrize("bad", [0, 2, 4])
def test_one_output_that_cannot_be_renamed_does_not_touch_its_neighbours(ledger, tmp_path, bad):
    """The error is its own answer, and its task is running still."""
    rows = running(ledger, 5)
    publications = [Publication.prepare(output(tmp_path, b"x", f"{n}.jpg"), f"k{n}", durable=False) for n in range(5)]
    publications[bad].temp_path.unlink()
    answers = posted(ledger, successes=[(row, "1", publications[n]) for n, row in enumerate(rows)])
    assert isinstance(answers.pop(bad), FileNotFoundError)
    assert answers == [True] * 4
    assert states(ledger) == ["running" if n == bad else "success" for n in range(5)]
    assert ledger.get(f"k{bad}").version == rows[bad].version


def test_a_success_posted_twice_is_recorded_once(ledger):
    """G3: in one batch, and later."""
    (row,) = running(ledger, 1)
    assert posted(ledger, successes=[(row, "1"), (row, "2")]) == [True, False]
    assert posted(ledger, successes=[(row, "3")]) == [False]
    assert ledger.get("k0").value == 1


def test_claims_and_successes_share_a_transaction(ledger, transactions):
    """A worker's result and the next claim; a fenced result does not keep the claim out."""
    (done,), (late,) = running(ledger, 1, "done"), running(ledger, 1, "late")
    ledger.release(late)
    (waiting,) = queued(ledger, 1, "next")
    before = len(transactions)
    assert posted(ledger, claims=[waiting], successes=[(done, "1"), (late, "1")]) == [True, True, False]
    assert transactions[before:] == [3]
    assert states(ledger) == ["success", "queued", "running"]


def test_a_success_posted_twice_beside_one_that_the_file_refuses_is_recorded_once(ledger, path):
    """The refused one was rolled back for certain, so nothing of that try counts as done."""
    first, refused = running(ledger, 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON tasks WHEN NEW.idempotency_key = 'k1'"
            " BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    assert posted(ledger, successes=[(first, "1"), (first, "2"), (refused, "3")])[:2] == [True, False]
    assert ledger.get("k0").value == 1
    assert ledger.get("k1").status is Status.RUNNING


def test_posted_claims_need_no_fsync_and_posted_successes_do(path):
    """A claim that a power cut takes back is a queued task; a success that it takes back would be a broken promise."""
    with closing(Ledger(path, durability="power")) as ledger:
        rows = queued(ledger, 2)
        levels = []
        ledger.writer.observe = lambda seconds, changes: levels.append(
            ledger._writer.execute("PRAGMA synchronous").fetchone()[0]
        )
        posted(ledger, claims=rows)
        posted(ledger, successes=[(rows[0]._replace(version=2), "1")])
        posted(ledger, claims=[rows[1]], successes=[(rows[1]._replace(version=2), "1")])
        assert levels == [1, 2, 2]


def test_inserts_claims_and_successes_go_together(ledger, transactions):
    """Whoever waits for an insert takes along what was posted, and each has its own answer."""
    (done,), (waiting,) = running(ledger, 1, "done"), queued(ledger, 1, "next")
    answers, before = [], len(transactions)
    ledger.claims.done = ledger.successes.done = lambda items, results: answers.append(results)
    ledger.claims.post([SimpleNamespace(row=waiting)])
    ledger.successes.post([Success(done, "1")])
    with threads(1) as pool:
        (new,) = pool.submit(ledger.insert, [draft("new")]).result(LONG)
    assert (new, answers, transactions[before:]) == (row_of(ledger.get("new")), [[True, True]], [3])
    assert states(ledger) == ["success", "running", "queued"]


@pytest.mark.parametrize("known", [True, False])
def test_a_known_key_and_a_fenced_worker_in_one_transaction(ledger, transactions, known):
    """Each alone sends the transaction the careful way; each is told its own."""
    (late,) = running(ledger, 1, "late")
    ledger.release(late)
    answers = []
    ledger.successes.done = lambda items, results: answers.extend(results)
    ledger.successes.post([Success(late, "1")])
    with threads(1) as pool:
        rows = pool.submit(ledger.insert, [draft("late0" if known else "new"), draft("newer")]).result(LONG)
    assert [type(row) for row in rows] == [TaskRecord if known else Row, Row]
    assert answers == [False]
    assert (ledger.get("late0").status, ledger.get("newer").status) == ("queued", "queued")


def test_a_task_is_claimed_and_done_in_the_order_of_its_life(ledger):
    """Its claim and its success in one transaction: the success is for the version that the claim makes."""
    (row,) = queued(ledger, 1)
    claimed = row._replace(version=2, attempt=1)
    assert posted(ledger, claims=[row], successes=[(claimed, "1")]) == [True, True]
    assert ledger.get("k0").version == 3


def test_other_changes_may_stand_beside_the_three(ledger, transactions):
    """A retry that waits takes along what was posted."""
    (late,), (done,) = running(ledger, 1, "late"), running(ledger, 1, "done")
    answers, before = [], len(transactions)
    ledger.successes.done = lambda items, results: answers.extend(results)
    ledger.successes.post([Success(done, "1")])
    with threads(1) as pool:
        assert pool.submit(ledger.retry, late, "late", 5.0).result(LONG).retries == 1
    assert (answers, transactions[before:]) == ([True], [2])


# What an earlier try has done


@pytest.fixture
def again(ledger):
    """A transaction whose changes were tried before: nobody knows whether that was committed."""
    return Transaction(ledger._writer, careful=True, again=True)


def test_what_an_uncertain_try_has_done_counts_as_done(ledger, again, tmp_path):
    """The row is exactly where that try would have brought it; a published output is found in its place."""
    claimed, succeeded = running(ledger, 1)[0], running(ledger, 1, "s")[0]
    publication = Publication.prepare(output(tmp_path), "s0", durable=False)
    ledger.succeed(succeeded, "1", publication)
    before = claimed._replace(version=claimed.version - 1)
    assert arrows_module.claim(again, [SimpleNamespace(row=before)]) == [True]
    assert arrows_module.succeed(again, [Success(succeeded, "1", publication)], 2000.0) == [True]
    assert ledger.get("s0").finished_at == 1000.0
    assert (tmp_path / ledger.get("s0").output_key).exists()


def test_what_an_uncertain_try_has_not_done_is_done(ledger, again):
    """It was rolled back."""
    (waiting,), (row,) = queued(ledger, 1), running(ledger, 1, "r")
    assert arrows_module.claim(again, [SimpleNamespace(row=waiting)]) == [True]
    assert arrows_module.succeed(again, [Success(row, "1")], 1000.0) == [True]
    assert states(ledger) == ["running", "success"]


@pytest.mark.parametrize("where", ["retried", "failed", "moved on", "gone", "behind"])
def test_what_somebody_else_has_done_does_not_count(ledger, again, where):
    """The next version in another state, or the same state in another version: fenced as ever."""
    (row,) = running(ledger, 1)
    if where == "retried":
        ledger.retry(row, "late", 0)
    elif where == "failed":
        ledger.fail(row, "boom", "permanent")
    elif where == "moved on":
        ledger.succeed(ledger.claim(ledger.release(row)), "2")
    elif where == "gone":
        ledger.purge(ledger.succeed(row, "2"))
    else:
        row = row._replace(version=row.version + 1)
    before = ledger.records()
    assert arrows_module.succeed(again, [Success(row, "1")], 2000.0) == [False]
    assert ledger.records() == before


def test_a_first_try_finds_nothing_done(ledger):
    """Without an uncertain one before it, a row that is there already was brought there by somebody else."""
    (row,) = running(ledger, 1)
    ledger.succeed(row, "1")
    careful = Transaction(ledger._writer, careful=True)
    assert arrows_module.succeed(careful, [Success(row, "1")], 2000.0) == [False]


# The file itself


@pytest.mark.parametrize("table", ["tasks", "dead_letters"])
def test_a_change_that_the_file_refuses_leaves_its_neighbours(ledger, path, table):
    """A trigger stands for a rule of the file; one row of five breaks it, and is told."""
    rows = running(ledger, 5)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON tasks WHEN NEW.idempotency_key = 'k2'"
            " BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    ledger.commits.close()  # what fails is not kept for another try
    answers = at_once_settled(ledger, rows, table)
    assert isinstance(answers.pop(2), LedgerError)
    assert answers == [True] * 4
    assert ledger.get("k2").status is Status.RUNNING
    assert [ledger.get(f"k{n}").finished for n in (0, 1, 3, 4)] == [True] * 4


def at_once_settled(ledger, rows, table):
    """All of these rows settled at once: to success, or to failed with a dead letter."""

    def settle(n):
        try:
            moved = ledger.succeed(rows[n], "1") if table == "tasks" else ledger.fail(rows[n], "boom", "permanent")
        except LedgerError as error:
            return error
        return moved is not None

    return at_once(settle, len(rows))


# When the file cannot be written


@pytest.fixture
def commit_thread(ledger, monkeypatch):
    """The thread that tries again what was kept."""
    monkeypatch.setattr(commits_module, "PAUSE", 0.01)
    thread = threading.Thread(target=ledger.commits.run, args=(lambda: None, lambda: None), daemon=True)
    thread.start()
    yield
    ledger.commits.close()
    thread.join(LONG)


def told(ledger):
    answers = []
    ledger.successes.done = lambda items, results: answers.extend(zip(items, results, strict=True))
    return answers


def test_successes_that_found_no_space_are_recorded_once_when_space_returns(ledger, path, commit_thread):
    """Their values are too large for the file as it may be; then it may grow. Nothing was told before."""
    rows = running(ledger, 4)
    pages = ledger._writer.execute("PRAGMA page_count").fetchone()[0]
    ledger._writer.execute(f"PRAGMA max_page_count = {pages}")
    answers, failed = told(ledger), threading.Semaphore(0)
    pause = ledger.writer.failed
    ledger.writer.failed = lambda *args: (pause(*args), failed.release())
    ledger.successes.post([Success(row, '"' + "x" * 20_000 + '"') for row in rows])
    ledger.commits.nudge()
    for _ in range(10):
        assert failed.acquire(timeout=LONG)
    assert (answers, states(ledger)) == ([], ["running"] * 4)
    with ledger._lock:
        ledger._writer.execute("PRAGMA max_page_count = 1000000")
    until(lambda: len(answers) == 4)
    assert {result for _, result in answers} == {True}
    assert [(record.status, record.version) for record in ledger.records()] == [("success", 3)] * 4
    until(lambda: not ledger.commits.troubled)
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("with_output", [True, False])
def test_successes_whose_commit_was_reported_as_failed_count_as_done(
    ledger, tmp_path, commit_thread, count, with_output
):
    """G3: they are in the file, and nobody is told that he was fenced."""
    rows = running(ledger, count)
    outputs = [
        Publication.prepare(output(tmp_path, b"x", f"{n}.jpg"), f"k{n}", durable=False) if with_output else None
        for n in range(count)
    ]
    answers = told(ledger)
    reported = report_failed(ledger, "success")
    ledger.successes.post([Success(row, "1", publication) for row, publication in zip(rows, outputs, strict=True)])
    ledger.commits.nudge()
    until(lambda: len(answers) == count)
    assert [result for _, result in answers] == [True] * count
    assert reported
    assert [(record.status, record.version) for record in ledger.records()] == [("success", 3)] * count
    if with_output:
        assert all((tmp_path / record.output_key).exists() for record in ledger.records())


@pytest.mark.parametrize("count", [1, 3])
def test_claims_whose_commit_was_reported_as_failed_are_never_told_to_be_lost(ledger, commit_thread, count):
    """True or an error: never False, which says that somebody else has moved the row."""
    rows = queued(ledger, count)
    answers = []
    ledger.claims.done = lambda items, results: answers.extend(results)
    reported = report_failed(ledger, "claim")
    ledger.claims.post([SimpleNamespace(row=row) for row in rows])
    ledger.commits.nudge()
    until(lambda: len(answers) == count)
    assert reported
    assert False not in answers
